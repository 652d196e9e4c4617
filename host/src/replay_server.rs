//! A local server that speaks Finnhub's protocol and replays a recording: what `tocsin feed` runs.
//!
//! There is one playback for the server. It moves while a client is subscribed; a trade goes to every connection that is
//! subscribed to its symbol, and one without subscribers is skipped. On request the server misbehaves as real feeds do:
//! it drops connections, sends garbage, refuses tokens and subscriptions. What it drops itself loses no trade: playback
//! stands still until the dropped client has subscribed again.
//!
//! The parts: [`recording`] reads the file in a thread of its own, [`player`] owns the position and every client's
//! subscriptions, [`gate`] says when it may move, [`pace`] how fast, and a [`connection`] carries frames to one socket.

mod connection;
mod gate;
mod pace;
mod player;
mod recording;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tocsin_engine::domain::Symbol;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use pace::{Speed, SpeedError};
pub use recording::RecordingError;

use connection::Connection;
use player::Player;

/// The most connections at a time: this is a tool for one machine.
const MAX_CONNECTIONS: usize = 256;

/// How many subscriptions may wait for the player. A connection that has more to say waits.
const COMMAND_QUEUE: usize = 1_024;

/// How long connections may take to say goodbye when the server ends.
const CLOSING: Duration = Duration::from_secs(5);

/// A pause after a failed accept, which is out of file descriptors as a rule.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What to replay, and how.
#[derive(Clone)]
pub struct ReplayOptions {
    /// A CSV `timestamp_ms,symbol,price,volume`, plain or gzip.
    pub file: PathBuf,
    /// How fast.
    pub speed: Speed,
    /// Connections with another `?token=`, or without one, are refused with HTTP 401.
    pub token: Option<String>,
    /// A connection is closed after so many trades. 0 is never.
    pub drop_every: Option<u64>,
    /// A frame of garbage is sent after so many frames on a connection. 0 is never.
    pub garbage_every: Option<u64>,
    /// Subscriptions past so many on a connection are refused.
    pub max_symbols: usize,
    /// Playback begins when so many symbols are subscribed, and no more have come for 300 ms.
    pub start_after: usize,
    /// The most trades in a frame; at least 1.
    pub trades_per_frame: usize,
    /// At the end of the file, close the connections and end. Otherwise the server stays until it is stopped.
    pub close_at_end: bool,
}

impl ReplayOptions {
    /// A well-behaved server at the recording's own speed: Finnhub's 50 symbols, no token, and up at the end.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            speed: Speed::REAL_TIME,
            token: None,
            drop_every: None,
            garbage_every: None,
            max_symbols: 50,
            start_after: 1,
            trades_per_frame: 200,
            close_at_end: false,
        }
    }
}

/// What a server did in its life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// Trades sent, by symbol. A trade counts once, to however many connections it went.
    pub sent: BTreeMap<Symbol, u64>,
    /// Trades without a subscriber.
    pub passed_over: u64,
    /// Connections closed after their share of trades.
    pub drops: u64,
    /// Garbage frames sent.
    pub garbage: u64,
    /// Whether the file was played to its end.
    pub finished: bool,
}

impl ReplayReport {
    /// Trades sent, over all symbols.
    pub fn total_sent(&self) -> u64 {
        self.sent.values().sum()
    }
}

/// Why a feed server ended badly.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The recording cannot be read.
    #[error(transparent)]
    Recording(#[from] RecordingError),
}

/// Serves until stopped, until the end of the file with [`ReplayOptions::close_at_end`], or until the file turns out bad.
pub async fn run(
    options: ReplayOptions,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<ReplayReport, ReplayError> {
    let rows = recording::open(&options.file)?;
    let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
    let closing = stop.child_token();
    let address = listener.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string());
    tracing::info!(file = %options.file.display(), speed = %options.speed, address, "the feed server is ready");
    let template = Connection::new(&options, commands);
    let accepting = tokio::spawn(accept(listener, template, closing.clone(), stop.clone()));
    // With the player go the queues of its clients: each connection sends what is left in its own and says goodbye.
    let played = Player::new(options, inbox, stop).play(rows).await;
    closing.cancel();
    if let Err(error) = accepting.await {
        tracing::error!(%error, "the listener failed");
    }
    Ok(played?)
}

/// Takes connections until `closing` is cancelled, then waits for them to end: at the end of the file for as long as they read,
/// when stopped for [`CLOSING`].
async fn accept(listener: TcpListener, template: Connection, closing: CancellationToken, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    let mut next_id = 0;
    loop {
        let accepted = tokio::select! {
            () = closing.cancelled() => break,
            Some(_ended) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(_) if connections.len() >= MAX_CONNECTIONS => {
                tracing::warn!("a connection was turned away: there are {MAX_CONNECTIONS} already");
            }
            Ok((stream, peer)) => {
                next_id += 1;
                connections.spawn(template.clone().serve(next_id, stream, peer));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop((listener, template));
    let patience = async {
        stop.cancelled().await;
        tokio::time::sleep(CLOSING).await;
    };
    tokio::select! {
        () = async { while connections.join_next().await.is_some() {} } => {}
        () = patience => tracing::warn!("some connections did not end within {CLOSING:?} and are cut"),
    }
}
