//! Writes what a worker sends, in its order, and retries while the store is away: the worker waits meanwhile, and nothing is
//! lost.
//!
//! What belongs to a partition is written under the worker's claim on it. Where another evaluator has claimed the
//! partition, all that is left of it is dropped: the other one evaluates those ticks itself.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use backon::Retryable;
use tocsin_base::failpoint;
use tocsin_base::retry::RetryPolicy;
use tocsin_bus::Clock;
use tocsin_engine::domain::Symbol;
use tocsin_store::{Claim, Commit, Store, StoreError};
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use super::worker::WorkerOutput;
use super::{EvaluatorError, EvaluatorStats, Stopped};
use crate::telemetry::LogBudget;

/// Firings that are written in one transaction at most, unless one commit alone has more: other writers of the store wait for
/// tens of milliseconds then, and not for half a second.
const MAX_FIRINGS: usize = 2_000;

/// Faults that are written in one transaction at most, unless one commit alone has more: each is a few statements.
const MAX_FAULTS: usize = 2_000;

pub(super) struct Committer {
    store: Store,
    queue: mpsc::Receiver<WorkerOutput>,
    /// Where partitions are reported of which nothing more is written: another evaluator has claimed them, or the store has
    /// refused their checkpoint. None where partitions cannot go to another evaluator: then that is an error.
    stopped: Option<mpsc::UnboundedSender<Stopped>>,
    stats: Arc<EvaluatorStats>,
    clock: Clock,
    /// New firings are put into the outbox.
    outbox: bool,
    claims: Vec<Claim>,
    log_budget: LogBudget,
}

impl Committer {
    pub(super) fn new(
        store: Store,
        queue: mpsc::Receiver<WorkerOutput>,
        stopped: Option<mpsc::UnboundedSender<Stopped>>,
        stats: Arc<EvaluatorStats>,
        clock: Clock,
        outbox: bool,
    ) -> Self {
        Self { store, queue, stopped, stats, clock, outbox, claims: Vec::new(), log_budget: LogBudget::new() }
    }

    /// Returns once the worker is gone and all that it sent is written.
    pub(super) async fn run(mut self) -> Result<(), EvaluatorError> {
        let mut next = self.queue.recv().await;
        while let Some(output) = next.take() {
            match output {
                WorkerOutput::Claimed(claim) => self.claims.push(claim),
                WorkerOutput::GaveUp(partitions, how) => {
                    self.claims.retain(|claim| !partitions.contains(&claim.partition));
                    drop(how);
                }
                WorkerOutput::SymbolSeen(symbol, partition) => self.assign_symbol(&symbol, partition).await?,
                WorkerOutput::Marker(marker) => drop(marker),
                WorkerOutput::Halted(partition, why) => self.halt(partition, &why).await?,
                WorkerOutput::OutOfService(commit, written) => {
                    self.write(*commit).await?;
                    // The worker may have stopped waiting.
                    let _ = written.send(());
                }
                WorkerOutput::Commit(mut commit) => {
                    next = self.gather(&mut commit);
                    self.write(*commit).await?;
                }
            }
            if next.is_none() {
                next = self.queue.recv().await;
            }
        }
        Ok(())
    }

    /// Adds commits that wait behind this one to it. Returns the first output that is none.
    fn gather(&mut self, commit: &mut Commit) -> Option<WorkerOutput> {
        // A checkpoint ends a transaction: within one, what it remembers is written last.
        while commit.firings.len() < MAX_FIRINGS
            && commit.faults.len() < MAX_FAULTS
            && commit.checkpoints.is_empty()
            && let Ok(output) = self.queue.try_recv()
        {
            let WorkerOutput::Commit(more) = output else { return Some(output) };
            commit.firings.extend(more.firings);
            commit.faults.extend(more.faults);
            commit.impure_rules.extend(more.impure_rules);
            commit.checkpoints.extend(more.checkpoints);
        }
        None
    }

    /// Records in the store that a partition is not evaluated, for promotions that wait for it.
    async fn halt(&mut self, partition: u32, why: &str) -> Result<(), EvaluatorError> {
        let Some(at) = self.claims.iter().position(|claim| claim.partition == partition) else { return Ok(()) };
        let claim = self.claims.swap_remove(at);
        (|| self.store.halt_partition(&claim, why))
            .retry(RetryPolicy::COMMIT.builder())
            .when(StoreError::is_transient)
            .notify(
                |error, wait| warn!(%error, ?wait, partition, "the note that a partition halted waits for the store"),
            )
            .await?;
        Ok(())
    }

    /// Assigns a symbol to a partition. Evaluators are notified of it as of any other change.
    async fn assign_symbol(&self, symbol: &Symbol, partition: u32) -> Result<(), EvaluatorError> {
        let assign = || self.store.assign_symbol(symbol, partition);
        let assigned = assign
            .retry(RetryPolicy::COMMIT.builder())
            .when(StoreError::is_transient)
            .notify(|error, wait| warn!(%error, ?wait, %symbol, "a symbol's partition waits for the store"))
            .await?;
        match assigned {
            Some(partition) => {
                info!(%symbol, partition, "the first tick of a watched symbol assigns it to its partition")
            }
            None => debug!(%symbol, partition, "the first tick of a symbol that no alert watches any more"),
        }
        Ok(())
    }

    async fn write(&mut self, mut commit: Commit) -> Result<(), EvaluatorError> {
        commit.at_ms = (self.clock)();
        commit.outbox = self.outbox;
        let inserted = loop {
            let claims = &self.claims;
            commit.retain_partitions(|partition| claims.iter().any(|claim| claim.partition == partition));
            if commit.is_empty() {
                return Ok(());
            }
            failpoint::pass(if commit.checkpoints.is_empty() { "before-commit" } else { "before-checkpoint" });
            let written = (|| self.store.commit(&self.claims, &commit))
                .retry(RetryPolicy::COMMIT.builder())
                .when(StoreError::is_transient)
                .notify(|error, wait| warn!(%error, ?wait, "firings wait for the store"))
                .await;
            match (written, &self.stopped) {
                (Err(StoreError::Fenced(partition)), Some(stopped)) => {
                    warn!(partition, "another evaluator has claimed a partition: nothing more of it is written here");
                    let epoch = self.epoch(partition);
                    self.claims.retain(|claim| claim.partition != partition);
                    // At the end, where all partitions are given up, the receiver is gone.
                    let why = "another evaluator has claimed it".into();
                    let _ = stopped.send(Stopped { partition, epoch, why, is_fenced: true });
                }
                (Err(error @ StoreError::CheckpointBehind { partition, .. }), Some(stopped)) => {
                    let why = error.to_string();
                    error!(partition, error = why, "evaluation of a partition has halted");
                    let epoch = self.epoch(partition);
                    let _ = stopped.send(Stopped { partition, epoch, why: why.clone(), is_fenced: false });
                    self.halt(partition, &why).await?;
                }
                (written, _) => {
                    failpoint::pass(if commit.checkpoints.is_empty() { "after-commit" } else { "after-checkpoint" });
                    break written?;
                }
            }
        };
        self.report(&commit, inserted);
        Ok(())
    }

    /// Returns the epoch under which a partition is written.
    fn epoch(&self, partition: u32) -> u64 {
        let claim = self.claims.iter().find(|claim| claim.partition == partition);
        claim.expect("what is refused was written under a claim").epoch
    }

    /// Counts and logs what was written.
    fn report(&mut self, commit: &Commit, inserted: u64) {
        self.stats.firings.fetch_add(inserted, Relaxed);
        self.stats.checkpoints.fetch_add(commit.checkpoints.len() as u64, Relaxed);
        for checkpoint in &commit.checkpoints {
            self.stats.checkpointed(checkpoint.partition, checkpoint.next_offset);
        }
        if let Some(more) = self.log_budget.take_suppressed() {
            info!(more, "more alerts fired");
        }
        for (firing, _) in &commit.firings {
            if self.log_budget.count() {
                let (tick, rule) = (&firing.tick, &firing.rule);
                info!(alert = firing.alert.0, rule = %rule.name, symbol = %tick.symbol, price = tick.price, "alert fired");
            }
        }
    }
}
