//! The parts of a process in the order in which they stop: each stage takes from the one before it.

use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How long all stages together may take to stop. Supervisors are told to wait for 30 s before they kill; what is cut off
/// here is as after a kill: nothing is lost, and more is done again.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

/// Parts that stop together.
pub(super) struct Stage {
    /// Tells them to stop.
    pub(super) stop: CancellationToken,
    parts: JoinSet<anyhow::Result<()>>,
}

/// All parts of a process.
pub(super) struct Stages {
    /// What takes from outside: the feed, clients.
    pub(super) front: Stage,
    /// What takes from the bus.
    pub(super) readers: Stage,
    /// What takes from the store.
    pub(super) senders: Stage,
}

impl Stage {
    fn new(stop: CancellationToken) -> Self {
        Self { stop, parts: JoinSet::new() }
    }

    /// Runs a part: it ends soon after the stop, and not before.
    pub(super) fn spawn(&mut self, part: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.parts.spawn(part);
    }

    /// Waits for all; the first error.
    async fn finish(&mut self, deadline: Instant) -> anyhow::Result<()> {
        self.stop.cancel();
        let mut first = Ok(());
        loop {
            match timeout_at(deadline, self.parts.join_next()).await {
                Ok(Some(ended)) => first = first.and(ended.map_err(anyhow::Error::from).flatten()),
                Ok(None) => return first,
                Err(_) => break,
            }
        }
        warn!(parts = self.parts.len(), "stopping took longer than {DRAIN_TIMEOUT:?}: the rest is cut off");
        self.parts.abort_all();
        first.and(Err(anyhow::anyhow!("stopping took longer than {} s", DRAIN_TIMEOUT.as_secs())))
    }
}

impl Stages {
    /// Stages of which the first stops with `stop`.
    pub(super) fn new(stop: CancellationToken) -> Self {
        let later = || Stage::new(CancellationToken::new());
        Self { front: Stage::new(stop), readers: later(), senders: later() }
    }

    /// Waits for the word to stop, or for a part that ends though nobody stopped it.
    pub(super) async fn until_stopped(&mut self) -> anyhow::Result<()> {
        tokio::select! {
            () = self.front.stop.cancelled() => Ok(()),
            Some(ended) = self.front.parts.join_next() => ended?,
            Some(ended) = self.readers.parts.join_next() => ended?,
            Some(ended) = self.senders.parts.join_next() => ended?,
        }
    }

    /// Stops one stage after the other; the first error.
    pub(super) async fn drain(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        let front = self.front.finish(deadline).await.context("stopping what takes ticks and requests");
        let readers = self.readers.finish(deadline).await.context("stopping what reads the bus");
        let senders = self.senders.finish(deadline).await.context("stopping what delivers firings");
        front.and(readers).and(senders)
    }
}
