//! The tasks of a process, in groups that stop one after the other: each takes from the one before it.

use std::time::Duration;

use anyhow::Context;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// How long all groups together may take to stop. Supervisors are configured to wait for 30 s before they kill; what is
/// aborted here is as after a kill: nothing is lost, and more is done again after the restart.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

/// Tasks that stop together.
pub(super) struct TaskGroup {
    /// Cancelled when the tasks are to stop.
    pub(super) stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

/// All tasks of a process, in the order in which they stop.
pub(super) struct Tasks {
    /// Tasks that take from outside: from the feed and from clients.
    pub(super) intake: TaskGroup,
    /// Tasks that read the bus.
    pub(super) readers: TaskGroup,
    /// Tasks that deliver what is in the store.
    pub(super) delivery: TaskGroup,
}

impl TaskGroup {
    fn new(stop: CancellationToken) -> Self {
        Self { stop, tasks: JoinSet::new() }
    }

    /// Runs a task. It has to end soon after the stop, and not before.
    pub(super) fn spawn(&mut self, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Stops the tasks and waits for all of them; returns the first error.
    async fn finish(&mut self, deadline: Instant) -> anyhow::Result<()> {
        self.stop.cancel();
        let mut first = Ok(());
        loop {
            match timeout_at(deadline, self.tasks.join_next()).await {
                Ok(Some(ended)) => first = first.and(ended.map_err(anyhow::Error::from).flatten()),
                Ok(None) => return first,
                Err(_) => break,
            }
        }
        warn!(tasks = self.tasks.len(), "stopping took longer than {DRAIN_TIMEOUT:?}: aborting the remaining tasks");
        self.tasks.abort_all();
        first.and(Err(anyhow::anyhow!("stopping took longer than {} s", DRAIN_TIMEOUT.as_secs())))
    }
}

impl Tasks {
    /// Creates the groups; the first one stops with `stop`.
    pub(super) fn new(stop: CancellationToken) -> Self {
        let later = || TaskGroup::new(CancellationToken::new());
        Self { intake: TaskGroup::new(stop), readers: later(), delivery: later() }
    }

    /// Waits for the stop of the first group, or for a task that ends before that.
    pub(super) async fn until_stopped(&mut self) -> anyhow::Result<()> {
        tokio::select! {
            () = self.intake.stop.cancelled() => Ok(()),
            Some(ended) = self.intake.tasks.join_next() => ended?,
            Some(ended) = self.readers.tasks.join_next() => ended?,
            Some(ended) = self.delivery.tasks.join_next() => ended?,
        }
    }

    /// Stops one group after the other; returns the first error.
    pub(super) async fn drain(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        let intake = self.intake.finish(deadline).await.context("stopping the feed and the API");
        let readers = self.readers.finish(deadline).await.context("stopping the readers of the bus");
        let delivery = self.delivery.finish(deadline).await.context("stopping the delivery of firings");
        intake.and(readers).and(delivery)
    }
}
