//! One connection of a feed, from the subscriptions to its end.
//!
//! Trades go to the sink in the order in which they came. While the sink is full nothing is read, so that a slow
//! consumer is felt by the server and not by memory. A peer that is silent is pinged, and given up if it stays so.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tocsin_engine::domain::Tick;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Error as WsError, Message, error::CapacityError};

use super::now_ms;
use super::protocol::{Frame, Protocol};
use super::rejects::{self, RejectLog};
use super::status::{FeedStatus, RejectReason};

/// How long a peer may be silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// After so long without anything from the peer it is pinged.
    pub quiet: Duration,
    /// After so long without an answer to that it is given up. Also the most that one write may take.
    pub pong: Duration,
}

/// How a session ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The sink is not read any more.
    SinkClosed,
    /// The connection is gone, and why.
    Lost(String),
}

/// A session at work.
pub(super) struct Session<'a> {
    pub protocol: &'a Protocol,
    pub sink: &'a mpsc::Sender<Vec<Tick>>,
    pub status: &'a FeedStatus,
    pub patience: Patience,
    /// Ticks received by this session.
    pub ticks: u64,
    /// Whether the server has refused a subscription in this session.
    pub refused: bool,
    /// Logs rejected frames.
    pub reject_log: RejectLog,
}

impl Session<'_> {
    /// Subscribes, then reads until the end.
    pub(super) async fn run<S>(&mut self, socket: &mut WebSocketStream<S>) -> Ended
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match self.converse(socket).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn converse<S>(&mut self, socket: &mut WebSocketStream<S>) -> Result<std::convert::Infallible, Ended>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        for greeting in self.protocol.greetings() {
            self.write(socket, Message::text(greeting)).await?;
        }
        self.status.set_connected(now_ms());
        let (mut pinged, mut goodbye) = (false, None::<String>);
        loop {
            let wait = if pinged { self.patience.pong } else { self.patience.quiet };
            match timeout(wait, socket.next()).await {
                Ok(Some(Ok(message))) => {
                    pinged = false;
                    if let Message::Close(frame) = &message {
                        goodbye = Some(frame.as_ref().map_or_else(String::new, quote));
                    }
                    self.take(message).await?;
                    // Frames hold up to 1 MiB: a peer that sends without pause must not keep others from this thread.
                    tokio::task::yield_now().await;
                }
                // After a goodbye an error says only that the server did not wait for the answer.
                Ok(Some(Err(error))) if goodbye.is_none() => return Err(self.failed(&error)),
                Ok(Some(Err(_)) | None) => {
                    let goodbye = self.protocol.redact(&goodbye.unwrap_or_default());
                    return Err(Ended::Lost(format!("the server closed the connection{goodbye}")));
                }
                Err(_) if pinged => {
                    let silent = self.patience.quiet + self.patience.pong;
                    return Err(Ended::Lost(format!("nothing came from the server for {silent:?}, not even a pong")));
                }
                Err(_) => {
                    pinged = true;
                    self.write(socket, Message::Ping(Bytes::new())).await?;
                }
            }
        }
    }

    async fn write<S>(&self, socket: &mut WebSocketStream<S>, message: Message) -> Result<(), Ended>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match timeout(self.patience.pong, socket.send(message)).await {
            Ok(sent) => sent.map_err(|error| self.failed(&error)),
            Err(_) => Err(Ended::Lost(format!("the server took nothing for {:?}", self.patience.pong))),
        }
    }

    async fn take(&mut self, message: Message) -> Result<(), Ended> {
        match message {
            Message::Text(text) => {
                self.status.count_frame(now_ms());
                match self.protocol.parse(&text) {
                    Frame::Trades { ticks, rejected } => {
                        self.reject(&rejected, &text);
                        self.deliver(ticks).await?;
                    }
                    Frame::Ping => {}
                    Frame::TooManySymbols => self.explain_too_many(),
                    Frame::Error(text) => self.complain(self.protocol.redact(&format!("the server says: {text}"))),
                    Frame::Rejected(reason) => self.reject(&[reason], &text),
                }
            }
            Message::Binary(bytes) => {
                self.status.count_frame(now_ms());
                self.reject(&[RejectReason::NotText], &String::from_utf8_lossy(&bytes));
            }
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {}
        }
        Ok(())
    }

    /// Counts what was rejected of a frame, and warns of it now and then.
    fn reject(&mut self, reasons: &[RejectReason], text: &str) {
        reasons.iter().for_each(|reason| self.status.count_rejected(*reason));
        let Some(reason) = reasons.first() else { return };
        if let Some(rejected) = self.reject_log.is_due(reasons.len() as u64, Instant::now()) {
            let quote = self.protocol.redact(self.protocol.rejected_part(text));
            let quote = rejects::shortened(&quote);
            tracing::warn!(
                feed = %self.protocol.kind(), reason = reason.label(), rejected, ?quote,
                "the server sends what gives no tick"
            );
        }
    }

    async fn deliver(&mut self, ticks: Vec<Tick>) -> Result<(), Ended> {
        if ticks.is_empty() {
            return Ok(());
        }
        self.ticks += ticks.len() as u64;
        self.status.count_ticks(ticks.len(), now_ms());
        self.sink.send(ticks).await.map_err(|_| Ended::SinkClosed)
    }

    /// Logged once a session: the server answers every subscription too many, and names none.
    fn explain_too_many(&mut self) {
        if !std::mem::replace(&mut self.refused, true) {
            let text = format!(
                "the server refused some of the {} symbols asked for (\"Subscribing to too many symbols\"); Finnhub's \
                 free plan takes about 50. The accepted ones go on. Shorten TICKERS, or use a larger plan",
                self.protocol.symbol_count()
            );
            self.status.set_refusal(Some(text.clone()));
            self.complain(text);
        }
    }

    fn complain(&self, text: String) {
        tracing::warn!(feed = %self.protocol.kind(), "{text}");
        self.status.set_error(text, now_ms());
    }

    fn failed(&self, error: &WsError) -> Ended {
        // Both cost the connection: the library can read nothing after them.
        let reason = match error {
            WsError::Capacity(CapacityError::MessageTooLong { .. }) => Some(RejectReason::TooLong),
            WsError::Utf8(_) => Some(RejectReason::NotText),
            _ => None,
        };
        if let Some(reason) = reason {
            self.status.count_frame(now_ms());
            self.status.count_rejected(reason);
        }
        Ended::Lost(self.protocol.redact(&error.to_string()))
    }
}

/// A goodbye's code and reason. The reason is the server's: control characters are escaped.
fn quote(frame: &CloseFrame) -> String {
    format!(" ({} {:?})", u16::from(frame.code), frame.reason.as_str())
}
