//! Follows the consumer group and the changes of alerts: assigns partitions to workers, takes them back, and passes on which
//! bindings were created, deleted, unquarantined or promoted, or are on an impure rule. Woken by the store, it reads what
//! changed after the revision that it knows, so that a notification that got lost loses nothing.
//!
//! Partitions and changes go through one place so that they are in order: a partition is restored as of the revision up to
//! which changes were passed on, and its worker gets all later ones. That revision is not before the one of the partition's
//! checkpoint: where this process was not notified of a change that another evaluator's checkpoint holds, it reads changes
//! until it has that one.
//!
//! `restoring` claims and restores partitions, `passing_on` is about changes, `log_watch` notices another log.

mod log_watch;
mod passing_on;
mod restore;
mod restoring;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backon::Retryable;
use tocsin_base::retry::RetryPolicy;
use tocsin_bus::{Assignment, Bus, Membership, Waker};
use tocsin_engine::domain::Position;
use tocsin_store::{Store, StoreError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

pub(super) use self::log_watch::LogWatch;
pub(super) use self::restore::StoredRules;
use super::worker::{GiveUp, Message};
use super::{EvaluatorError, EvaluatorStats, Stopped};

/// How long a start waits for its first partitions. Where there are more evaluators than partitions, some get none.
const FIRST_ASSIGNMENT_WAIT: Duration = Duration::from_secs(15);

/// Time between commits of the group's offsets, which only monitoring looks at.
const OFFSETS_INTERVAL: Duration = Duration::from_secs(5);

/// How long the group has to revoke a partition that another evaluator has claimed: as long as a session of Kafka's. After that
/// the claim was one of a member that the group had taken the partition from meanwhile, and the partition is this one's.
const CLAIM_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// How a coordinator reaches one worker.
pub(super) struct WorkerHandle {
    /// The partitions that it evaluates, each with the epoch of its claim.
    pub(super) claims: BTreeMap<u32, u64>,
    pub(super) messages: mpsc::Sender<Message>,
    pub(super) waker: Waker,
}

pub(super) struct Coordinator {
    pub(super) store: Store,
    pub(super) bus: Bus,
    pub(super) rules: StoredRules,
    pub(super) membership: Membership,
    pub(super) workers: Vec<WorkerHandle>,
    /// Partitions that a committer writes nothing more of.
    pub(super) stops: mpsc::UnboundedReceiver<Stopped>,
    /// Changes up to this revision were passed on.
    pub(super) revision: u64,
    pub(super) log: LogWatch,
    /// Partitions that another evaluator has claimed although the group has not revoked them, and since when.
    pub(super) fenced: BTreeMap<u32, Instant>,
    pub(super) skip_lost_ticks: bool,
    pub(super) stats: Arc<EvaluatorStats>,
    /// Notified once the first partitions are restored.
    pub(super) begun: Option<oneshot::Sender<()>>,
}

impl Coordinator {
    /// Runs until `stop`, then waits until all committers have written their last, and leaves the group.
    pub(super) async fn run(
        mut self,
        stop: CancellationToken,
        mut all_done: mpsc::Receiver<()>,
    ) -> Result<(), EvaluatorError> {
        stop.run_until_cancelled(self.coordinate()).await.unwrap_or(Ok(()))?;
        // Workers that wait for ticks must see the stop.
        self.workers.iter().for_each(|worker| worker.waker.wake());
        self.workers.clear();
        all_done.recv().await;
        self.commit_offsets().await;
        self.membership.leave().await;
        Ok(())
    }

    async fn coordinate(&mut self) -> Result<(), EvaluatorError> {
        let mut newest = self.store.newest_revision().await?;
        let assignments = self.store.symbol_assignments().await?;
        self.pass_on_assignments(&assignments).await;
        if let Ok(first) = timeout(FIRST_ASSIGNMENT_WAIT, self.membership.changed()).await {
            self.follow(first?).await?;
        }
        self.log.restored_in(self.store.tick_log().await?);
        if let Some(begun) = self.begun.take() {
            // The receiver is gone where the start was given up.
            let _ = begun.send(());
        }
        let mut offsets_due = interval_at(Instant::now() + OFFSETS_INTERVAL, OFFSETS_INTERVAL);
        offsets_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut log_due = interval_at(Instant::now() + log_watch::INTERVAL, log_watch::INTERVAL);
        log_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.pass_on_changes(&mut newest).await;
            // In this order, so that a simulated run comes out the same again. What is rare comes first, and last what may
            // always be: changes are passed on each time.
            tokio::select! {
                biased;
                changed = self.membership.changed() => self.follow(changed?).await?,
                Some(stopped) = self.stops.recv() => self.lose(stopped).await,
                _ = offsets_due.tick() => self.commit_offsets().await,
                _ = log_due.tick() => {
                    self.claim_again().await?;
                    self.watch_log().await?;
                }
                changed = newest.changed() => if changed.is_err() {
                    return Ok(());
                },
            }
        }
    }

    async fn follow(&mut self, changed: Assignment) -> Result<(), EvaluatorError> {
        match changed {
            Assignment::Assigned(partitions) => self.take(partitions).await,
            Assignment::Revoked(partitions, handover) => {
                self.leave(&partitions, &GiveUp::Revoked(Arc::new(handover))).await;
                Ok(())
            }
            Assignment::Lost(partitions) => {
                self.leave(&partitions, &GiveUp::Lost).await;
                Ok(())
            }
        }
    }

    async fn leave(&mut self, partitions: &[u32], how: &GiveUp) {
        self.give_up(partitions, how).await;
        self.log.left(partitions);
        self.fenced.retain(|partition, _| !partitions.contains(partition));
        partitions.iter().for_each(|partition| self.stats.left(*partition));
    }

    /// Has workers give up partitions that stay this evaluator's, with a checkpoint.
    pub(super) async fn halt(&mut self, partitions: &[u32]) {
        self.give_up(partitions, &GiveUp::Halted).await;
    }

    async fn give_up(&mut self, partitions: &[u32], how: &GiveUp) {
        for worker in &mut self.workers {
            let partitions: Vec<u32> =
                partitions.iter().copied().filter(|partition| worker.claims.remove(partition).is_some()).collect();
            if !partitions.is_empty() {
                worker.send(Message::GiveUp(partitions, how.clone())).await;
            }
        }
    }

    /// Gives up a partition of which nothing more is written. Where another evaluator has claimed it, the group revokes it,
    /// too, if it has not yet; or else it is claimed again. Does nothing where the partition was given up meanwhile, also if
    /// it has come back since, under another claim.
    async fn lose(&mut self, stopped: Stopped) {
        let Stopped { partition, epoch, why, is_fenced } = stopped;
        if !self.workers.iter().any(|worker| worker.claims.get(&partition) == Some(&epoch)) {
            return;
        }
        self.leave(&[partition], &GiveUp::Lost).await;
        self.stats.taken(partition);
        self.stats.halted(partition, why);
        if is_fenced {
            self.fenced.insert(partition, Instant::now());
        }
        // Or another log was accepted: then it is this one's again.
        if self.store.tick_log().await.is_ok_and(|stored| self.log.is_outdated(stored.as_ref())) {
            self.log.halted(partition);
        }
    }

    /// Claims partitions again that another evaluator has claimed and that the group has left to this one: that one was late,
    /// and has lost them meanwhile. Where two evaluators believe for long that a partition is theirs, each goes on where the
    /// other one has come to.
    async fn claim_again(&mut self) -> Result<(), EvaluatorError> {
        let is_due = |_: &u32, since: &mut Instant| since.elapsed() >= CLAIM_AGAIN_AFTER;
        let partitions: Vec<u32> = self.fenced.extract_if(.., is_due).map(|(partition, _)| partition).collect();
        if partitions.is_empty() {
            return Ok(());
        }
        warn!(
            ?partitions,
            "another evaluator has claimed partitions that are this one's by the group: they are claimed again"
        );
        self.restore(partitions).await
    }

    /// Commits to the group how far evaluation is, for monitoring of its lag.
    async fn commit_offsets(&self) {
        let states = self.stats.partitions().into_iter();
        let next = states.filter_map(|(partition, state)| Some(Position { partition, offset: state.next_offset? }));
        let positions: Vec<Position> = next.collect();
        if positions.is_empty() {
            return;
        }
        if let Err(error) = self.membership.commit(&positions).await {
            debug!(%error, "the group's offsets are not committed");
        }
    }
}

/// Calls the store about a partition again for as long as it is away.
async fn retry_store<T, F: Future<Output = Result<T, StoreError>>>(
    partition: u32,
    call: impl FnMut() -> F,
) -> Result<T, StoreError> {
    call.retry(RetryPolicy::PARTITION.builder())
        .when(StoreError::is_transient)
        .notify(|error, wait| warn!(partition, %error, ?wait, "a partition waits for the store"))
        .await
}

impl WorkerHandle {
    async fn send(&self, message: Message) {
        // A worker that is gone has returned why; the evaluator is ending.
        if self.messages.send(message).await.is_ok() {
            self.waker.wake();
        }
    }
}
