//! Keeps a WebSocket feed connected: connects, runs a session, waits, connects again, until it is stopped.

use std::time::Duration;

use tocsin_base::retry::{RetryPolicy, Waits};
use tocsin_engine::domain::Tick;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::connect::{ConnectError, Dialer};
use super::now_ms;
use super::protocol::Protocol;
use super::rejects::RejectLog;
use super::session::{Ended, Patience, Session};
use super::status::{FeedKind, FeedStatus};

/// A connection that lived this long was healthy: the waiting begins again at the base.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// And so was one that brought this many ticks, however short its life.
const HEALTHY_TICKS: u64 = 1_000;
/// The wait after a refused key. It will hardly be accepted later, but a provider's own failure looks the same.
const REFUSED_RETRY: Duration = Duration::from_secs(60);
/// TCP, TLS and upgrade take well below a second when all is well.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Finnhub pings every 60 s at the latest, Binance every 20 s; a trade may be as rare. A ping of ours costs nothing.
const QUIET: Duration = Duration::from_secs(30);
/// A pong takes one round trip.
const PONG: Duration = Duration::from_secs(10);
/// How long a goodbye may take when the feed is stopped.
const GOODBYE: Duration = Duration::from_secs(1);

/// Every wait of the supervisor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub retry: RetryPolicy,
    pub refused_retry: Duration,
    pub connect: Duration,
    pub patience: Patience,
}

impl Timing {
    /// What a server runs with.
    pub(super) const STANDARD: Self = Self {
        retry: RetryPolicy::FEED,
        refused_retry: REFUSED_RETRY,
        connect: CONNECT_TIMEOUT,
        patience: Patience { quiet: QUIET, pong: PONG },
    };
}

/// How a connection, or the attempt at one, ended.
enum Outcome {
    /// Stopped, or the sink is not read.
    Finished,
    /// The server refused the key.
    Refused,
    /// It could not be made, or was lost.
    Failed { text: String, healthy: bool },
}

/// Runs a feed until it is stopped or its sink is not read.
pub(super) async fn supervise(
    protocol: Protocol,
    sink: mpsc::Sender<Vec<Tick>>,
    status: &FeedStatus,
    timing: Timing,
    stop: CancellationToken,
) {
    let mut supervisor = Supervisor {
        dialer: Dialer::new(timing.connect),
        waits: timing.retry.waits(),
        connections: 0,
        protocol,
        sink,
        status,
        timing,
        stop,
    };
    while let Some(wait) = supervisor.connect_once().await {
        tokio::select! {
            () = supervisor.stop.cancelled() => break,
            () = supervisor.sink.closed() => break,
            () = tokio::time::sleep(wait) => {}
        }
    }
    tracing::info!(feed = %supervisor.protocol.kind(), "the feed has stopped");
}

struct Supervisor<'a> {
    protocol: Protocol,
    sink: mpsc::Sender<Vec<Tick>>,
    status: &'a FeedStatus,
    timing: Timing,
    stop: CancellationToken,
    dialer: Dialer,
    waits: Waits,
    connections: u64,
}

impl Supervisor<'_> {
    /// One connection from its beginning to its end, and how long to wait before the next, if there is to be one.
    async fn connect_once(&mut self) -> Option<Duration> {
        let outcome = self.attempt().await;
        self.status.set_disconnected();
        let (text, wait) = match outcome {
            Outcome::Finished => return None,
            Outcome::Refused => (self.explain_refusal(), self.timing.refused_retry),
            Outcome::Failed { text, healthy } => {
                if healthy {
                    self.waits.reset();
                }
                (text, self.waits.next(rand::random()))
            }
        };
        tracing::warn!(
            feed = %self.protocol.kind(), server = self.protocol.server(), retry_in_ms = wait.as_millis() as u64, "{text}"
        );
        self.status.set_error(text, now_ms());
        Some(wait)
    }

    async fn attempt(&mut self) -> Outcome {
        let url = self.protocol.secret_url();
        let connected = tokio::select! {
            () = self.stop.cancelled() => return Outcome::Finished,
            connected = self.dialer.connect(&url) => connected,
        };
        let mut socket = match connected {
            Ok(socket) => socket,
            Err(ConnectError::Unauthorized) => return Outcome::Refused,
            Err(error) => return Outcome::Failed { text: self.protocol.redact(&error.to_string()), healthy: false },
        };
        self.connections += 1;
        if self.connections > 1 {
            self.status.count_reconnect();
        }
        tracing::info!(
            feed = %self.protocol.kind(), server = self.protocol.server(), symbols = self.protocol.symbol_count(),
            connection = self.connections, "connected"
        );

        let began = Instant::now();
        let mut session = Session {
            protocol: &self.protocol,
            sink: &self.sink,
            status: self.status,
            patience: self.timing.patience,
            ticks: 0,
            refused: false,
            reject_log: RejectLog::default(),
        };
        // The stop first: what has come since is no longer this process's to take.
        let ended = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            ended = session.run(&mut socket) => Some(ended),
        };
        if session.refused {
            self.status.set_refusal(None);
        }
        let healthy = was_healthy(began.elapsed(), session.ticks);
        match ended {
            Some(Ended::Lost(text)) => Outcome::Failed { text, healthy },
            Some(Ended::SinkClosed) | None => {
                // Only a courtesy: whether the goodbye arrives changes nothing here.
                let _ = timeout(GOODBYE, socket.close(None)).await;
                Outcome::Finished
            }
        }
    }

    fn explain_refusal(&self) -> String {
        match self.protocol.kind() {
            FeedKind::Finnhub => "the key was refused (HTTP 401): check FINNHUB_API_KEY".to_owned(),
            kind @ (FeedKind::Binance | FeedKind::Simulated) => {
                format!("{kind} answered with HTTP 401, though it needs no key: check the feed's URL")
            }
        }
    }
}

/// Whether a connection was worth having, so that its loss is no reason to wait longer than the first time.
fn was_healthy(lived: Duration, ticks: u64) -> bool {
    lived >= HEALTHY_AFTER || ticks >= HEALTHY_TICKS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_was_healthy_if_it_lived_or_worked() {
        for (lived_s, ticks, healthy) in [(0, 0, false), (29, 999, false), (30, 0, true), (0, 1_000, true)] {
            assert_eq!(was_healthy(Duration::from_secs(lived_s), ticks), healthy, "{lived_s} s, {ticks} ticks");
        }
    }
}
