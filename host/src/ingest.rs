//! Where ticks come from: Finnhub, Binance, or a simulation.
//!
//! [`run`] drives one [`Feed`] until it is stopped, and sends what it receives to a bounded sink, in order. Nothing that
//! a server sends, or fails to send, ends it: bad frames are counted and skipped, lost connections made again. What it is
//! about is in its [`FeedStatus`]. The key of a feed is in no log line, error or `Debug` output.

mod binance;
mod connect;
mod finnhub;
pub mod health;
#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod loopback_tests;
mod protocol;
#[cfg(test)]
mod recorded_tests;
mod rejects;
mod secret;
mod server;
mod session;
#[cfg(test)]
mod session_tests;
mod simulated;
mod status;
mod supervisor;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest as _, Sha256};
use tocsin_engine::domain::{Symbol, Tick};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use finnhub::TOO_MANY_SYMBOLS;
pub use secret::Secret;
pub use server::{FeedServer, FeedServerError};
pub use status::{FeedKind, FeedProblem, FeedSnapshot, FeedStatus, RejectReason};

use binance::Streams;
use protocol::Protocol;
use simulated::Generator;
use supervisor::Timing;

/// Where Finnhub's trades are streamed.
pub const FINNHUB_URL: &str = "wss://ws.finnhub.io";

/// Where Binance's spot market data is streamed, to anyone.
pub const BINANCE_URL: &str = "wss://data-stream.binance.vision";

/// Bytes of the hash in a lock's name: few would not distinguish two keys, and all of them are a burden to read.
const LOCK_HASH_BYTES: usize = 8;

/// A source of ticks.
#[derive(Clone, Debug)]
pub enum Feed {
    /// Finnhub, or a server that speaks its protocol, such as `tocsin feed`.
    Finnhub {
        /// Where to connect, without the key: [`FINNHUB_URL`] as a rule.
        url: String,
        /// The API key.
        key: Secret,
        /// What to subscribe to.
        symbols: Vec<Symbol>,
    },
    /// Binance's public `aggTrade` streams; no key is needed.
    Binance {
        /// Where to connect: [`BINANCE_URL`] as a rule.
        url: String,
        /// What to subscribe to, with the prefix `BINANCE:` or without.
        symbols: Vec<Symbol>,
    },
    /// Invented prices.
    Simulated {
        /// Decides every price, volume and delay.
        seed: u64,
        /// What to invent prices of.
        symbols: Vec<Symbol>,
        /// The mean rate over all symbols.
        ticks_per_second: NonZeroU32,
    },
}

impl Feed {
    /// A name for what no two processes may use at the same time: a second connection with the same key can drop both.
    /// Names no key, only its hash.
    pub fn lock_name(&self) -> String {
        let what = match self {
            Self::Finnhub { url, key, .. } if key.is_empty() => url.clone(),
            Self::Finnhub { key, .. } => key.expose().to_owned(),
            Self::Binance { url, .. } => url.clone(),
            Self::Simulated { seed, .. } => seed.to_string(),
        };
        format!("feed-{}-{}", self.kind(), hex::encode(&Sha256::digest(what)[..LOCK_HASH_BYTES]))
    }

    /// Which kind of feed this is: what its [`FeedStatus`] is made with.
    pub fn kind(&self) -> FeedKind {
        match self {
            Self::Finnhub { .. } => FeedKind::Finnhub,
            Self::Binance { .. } => FeedKind::Binance,
            Self::Simulated { .. } => FeedKind::Simulated,
        }
    }
}

/// Runs a feed until it is stopped or the sink's receiver is gone. Batches are never empty. While the sink is full the
/// feed waits, and reads nothing from its server.
pub async fn run(feed: Feed, sink: mpsc::Sender<Vec<Tick>>, status: Arc<FeedStatus>, stop: CancellationToken) {
    run_timed(feed, sink, &status, Timing::STANDARD, stop).await;
}

async fn run_timed(
    feed: Feed,
    sink: mpsc::Sender<Vec<Tick>>,
    status: &FeedStatus,
    timing: Timing,
    stop: CancellationToken,
) {
    let protocol = match feed {
        Feed::Simulated { seed, symbols, ticks_per_second } => {
            tracing::info!(seed, symbols = symbols.len(), "the feed is SIMULATED: its prices are invented");
            let generator = Generator::new(seed, &symbols, ticks_per_second);
            return simulated::run(generator, &sink, status, &stop).await;
        }
        Feed::Finnhub { url, key, symbols } => Protocol::Finnhub { url, key, symbols },
        Feed::Binance { url, symbols } => {
            let (streams, refused) = Streams::of(&symbols);
            if !refused.is_empty() {
                let names: Vec<_> = refused.iter().map(Symbol::as_str).collect();
                let text = format!("Binance has no stream for {}, or they are too many: left out", names.join(", "));
                tracing::warn!("{text}");
                status.set_refusal(Some(text.clone()));
                status.set_error(text, now_ms());
            }
            if streams.len() == 0 {
                return stop.cancelled().await; // there is nothing to connect for, and the status says why
            }
            Protocol::Binance { url, streams }
        }
    };
    supervisor::supervise(protocol, sink, status, timing, stop).await;
}

/// The present, Unix milliseconds. Feeds live in the present; everything that is tested on time takes it as an argument.
fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}
