//! The evaluate role: ticks from the bus, through rules, to firings in the store.
//!
//! Evaluators are a consumer group, whose members share the partitions. The *coordinator* follows the group: it restores the
//! partitions that are assigned to this member, gives each to a *worker*, and passes changes of alerts on to workers. A worker
//! is a thread that reads ticks and steps a *processor* through them, which evaluates them and knows no IO. A *committer* for
//! each worker writes what comes of it. All are joined by bounded queues. What a worker sends stays in order, so that a
//! checkpoint never passes a firing.
//!
//! A partition comes with its checkpoint from the store and a claim on it, under which alone anything is written. It goes
//! with a last checkpoint; where it is lost instead, the evaluator that claims it next evaluates again what was not
//! checkpointed.
//!
//! A binding counts every tick from its own offset on, and no other. If its worker has read on meanwhile, the ticks in
//! between are read again for it alone; if its worker is behind, the binding waits until its offset comes.
//!
//! A symbol's ticks count on the one partition that it is assigned to: that of its first tick since an alert watches it.
//! Where ticks of it turn up on another partition too, because producers have other partitioners or the topic has grown,
//! those are not evaluated, and that is reported. A binding whose symbol is not assigned yet notes where each partition
//! ended when the binding was created.
//!
//! The assignment of a symbol that no alert watches any more is forgotten, whatever workers know of its ticks: where the next
//! alert has to wait for the first one, they look for it again, also among the ticks that they have read since that alert
//! was created.
//!
//! Unquarantining by hand takes effect right after a checkpoint that names it: a replay from there begins with the same. For
//! a promotion to another version of its rule a binding is handed off to the store right after a checkpoint, with its state
//! and the offset up to which it is evaluated. It comes back like a new one that remembers: on the new version or, if the
//! promotion failed, on the old one. Either way it catches up from that offset, and no tick is evaluated twice. Where a
//! promotion is cancelled before a binding was handed off, its worker keeps it; where the two cross, the store gives the
//! binding back.
//!
//! What is read together is applied in the order in which it happened: a binding is armed first. One that is to be
//! unquarantined and is not armed yet leaves quarantine once it is.
//!
//! Neither is done before a worker has evaluated what was published before it began: an earlier worker may have fired on
//! those ticks, and they are evaluated again as they were then.

mod changes;
mod committer;
mod coordinator;
pub mod health;
mod processor;
#[cfg(test)]
pub(crate) mod simulation;
mod stats;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tocsin_bus::{Bus, BusError, Clock};
use tocsin_engine::domain::RuleRef;
use tocsin_engine::{EvaluateError, EvaluationOptions};
use tocsin_store::{Store, StoreError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use self::committer::Committer;
use self::coordinator::{Coordinator, LogWatch, StoredRules, WorkerHandle};
use self::worker::Worker;
use crate::rules::{RuleCache, RuleCacheError};

pub use self::stats::{
    AlertActivity, EvaluatorSnapshot, EvaluatorStats, MisroutedTicks, PartitionState, UnassignedTick,
};

/// The consumer group of a server, named as in GoStocks. What it commits is for monitoring only.
pub const GROUP: &str = "alert-service-group";

/// How many commits of each worker may wait for the store. Then the worker waits.
const COMMIT_QUEUE: usize = 64;

/// How many messages may wait for a worker.
const MESSAGE_QUEUE: usize = 64;

/// How an evaluator works.
#[derive(Clone, Debug)]
pub struct EvaluatorConfig {
    /// The consumer group.
    pub group: String,
    /// Worker threads; no more than there are partitions.
    pub workers: usize,
    /// Time between checkpoints: how much is replayed after a crash, against how often states are written.
    pub checkpoint_interval: Duration,
    /// Go on at the oldest tick where retention has removed some that were never evaluated, in place of halting that
    /// partition.
    pub skip_lost_ticks: bool,
    /// Put new firings into the outbox, for delivery.
    pub outbox: bool,
    /// How ticks are evaluated.
    pub evaluation: EvaluationOptions,
}

/// Why an evaluator stopped, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum EvaluatorError {
    /// The bus failed.
    #[error("the bus failed: {0}")]
    Bus(#[from] BusError),
    /// The store failed in a way that a retry does not mend.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine failed.
    #[error("the engine failed: {0}")]
    Evaluate(#[from] EvaluateError),
    /// A rule of alerts could not be loaded.
    #[error("a rule could not be loaded: {0}")]
    Rules(#[from] RuleCacheError),
    /// A binding could not be armed.
    #[error("binding {0} could not be armed: {1}")]
    Arm(i64, String),
    /// Retention was faster than evaluation.
    #[error(
        "partition {partition}: the ticks from offset {next} up to {earliest} were removed by retention before they \
         were evaluated; alerts may have missed them. Start with --skip-lost-ticks to go on without them"
    )]
    LostTicks {
        /// The partition.
        partition: u32,
        /// The next offset to be evaluated.
        next: u64,
        /// The oldest offset that is left.
        earliest: u64,
    },
    /// A checkpoint holds changes that the store does not have.
    #[error(
        "the checkpoint of partition {partition} holds alerts up to revision {revision}, but the newest in the store is \
         {newest}: the database lacks changes that were committed. Restore one that has them; without that, nothing is \
         evaluated"
    )]
    LostRevisions {
        /// The partition.
        partition: u32,
        /// The revision of its checkpoint.
        revision: u64,
        /// The newest revision.
        newest: u64,
    },
    /// The log has lost its last records.
    #[error(
        "partition {partition}: the log ends at offset {end}, and offsets before {referenced} were used: it has lost \
         records that alerts counted, and would give their offsets to others. Bring them back if you can; or, to go on \
         without them, run `tocsin log accept` (docs/operations.md, Another log)"
    )]
    LogCut {
        /// The partition.
        partition: u32,
        /// Where it ends.
        end: u64,
        /// Behind the last offset that something refers to.
        referenced: u64,
    },
    /// A thread could not be started.
    #[error("a worker thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
    /// The engine panicked. The rule version that was being evaluated is out of service.
    #[error(
        "the engine panicked while it evaluated the rule {} {}: {text}. The rule version is out of service, and a new start \
         goes on without it; please report this with the module",
        .rule.name, .rule.version
    )]
    Panicked {
        /// The rule version.
        rule: Box<RuleRef>,
        /// The panic's message.
        text: String,
    },
    /// A worker, the coordinator or a committer ended before the evaluator was stopped.
    #[error("a part of the evaluator ended early: {0}")]
    Ended(String),
}

impl EvaluatorError {
    /// Whether only the partition halts, until an operator acts.
    fn halts(&self) -> bool {
        matches!(self, Self::LostTicks { .. } | Self::LogCut { .. } | Self::Store(StoreError::OtherLog { .. }))
    }

    /// Returns whether a retry may succeed: a backend is away.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Bus(error) => error.is_transient(),
            Self::Store(error) | Self::Rules(RuleCacheError::Store(error)) => error.is_transient(),
            _ => false,
        }
    }
}

/// A partition of which a committer writes nothing more, and why.
struct Stopped {
    partition: u32,
    /// The claim under which it was written.
    epoch: u64,
    why: String,
    /// Whether another evaluator has claimed it.
    is_fenced: bool,
}

/// Takes part in evaluation until `stop` is cancelled, then writes a last checkpoint. Returns once the first partitions
/// are restored, or none were to be had for a while.
pub async fn start(
    store: Store,
    bus: Bus,
    rules: RuleCache,
    config: EvaluatorConfig,
    clock: Clock,
    stop: CancellationToken,
) -> Result<RunningEvaluator, EvaluatorError> {
    let Parts { workers, coordinator, has_begun } =
        parts(store, bus, rules, &config, clock, &stop, COMMIT_QUEUE).await?;
    let stats = coordinator.stats.clone();
    let (at_work, all_done) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    for (worker, committer) in workers {
        let done = worker.spawn()?;
        tasks.spawn(async move {
            done.await.unwrap_or_else(|_| Err(EvaluatorError::Ended("a worker thread panicked".into())))
        });
        let at_work = at_work.clone();
        tasks.spawn(async move {
            let ended = committer.run().await;
            drop(at_work);
            ended
        });
    }
    drop(at_work);
    tasks.spawn(coordinator.run(stop, all_done));
    let mut evaluator = RunningEvaluator { tasks, stats };
    let ended = tokio::select! {
        Ok(()) = has_begun => return Ok(evaluator),
        Some(ended) = evaluator.tasks.join_next() => task_ended(ended),
    };
    // What ended first may have ended because another part failed.
    let ended = match ended {
        Ok(()) => evaluator.finished().await,
        failed => failed,
    };
    Err(ended.err().unwrap_or_else(stopped_early))
}

/// The parts of an evaluator, none of which runs yet.
struct Parts {
    workers: Vec<(Worker, Committer)>,
    coordinator: Coordinator,
    /// Gets a message once the first partitions are restored, or none were to be had for a while.
    has_begun: oneshot::Receiver<()>,
}

/// Makes an evaluator's parts, and joins the group.
async fn parts(
    store: Store,
    bus: Bus,
    rules: RuleCache,
    config: &EvaluatorConfig,
    clock: Clock,
    stop: &CancellationToken,
    commit_queue: usize,
) -> Result<Parts, EvaluatorError> {
    let stats = Arc::new(EvaluatorStats::default());
    let revision = *store.newest_revision().await?.borrow();
    let membership = bus.join(&config.group)?;
    let (stopped, stops) = mpsc::unbounded_channel();
    let stopped = membership.is_shared().then_some(stopped);
    let (mut workers, mut handles) = (Vec::new(), Vec::new());
    for _ in 0..config.workers.clamp(1, bus.partitions() as usize) {
        let (committer, queue) = mpsc::channel(commit_queue);
        let (sender, messages) = mpsc::channel(MESSAGE_QUEUE);
        let worker = Worker::new(bus.clone(), revision, committer, messages, stats.clone(), config, stop.clone())?;
        handles.push(WorkerHandle { claims: BTreeMap::new(), messages: sender, waker: worker.waker() });
        let (stopped, stats, clock) = (stopped.clone(), stats.clone(), clock.clone());
        workers.push((worker, Committer::new(store.clone(), queue, stopped, stats, clock, config.outbox)));
    }
    let (begun, has_begun) = oneshot::channel();
    let coordinator = Coordinator {
        rules: StoredRules { store: store.clone(), cache: rules, clock },
        store,
        bus,
        membership,
        workers: handles,
        stops,
        revision,
        log: LogWatch::default(),
        fenced: BTreeMap::new(),
        skip_lost_ticks: config.skip_lost_ticks,
        stats,
        begun: Some(begun),
    };
    Ok(Parts { workers, coordinator, has_begun })
}

fn task_ended(ended: Result<Result<(), EvaluatorError>, JoinError>) -> Result<(), EvaluatorError> {
    ended.unwrap_or_else(|error| Err(EvaluatorError::Ended(error.to_string())))
}

fn stopped_early() -> EvaluatorError {
    EvaluatorError::Ended("it was stopped before it had begun".into())
}

/// An evaluator at work.
pub struct RunningEvaluator {
    tasks: JoinSet<Result<(), EvaluatorError>>,
    stats: Arc<EvaluatorStats>,
}

impl RunningEvaluator {
    /// Returns the evaluator's counters.
    pub fn stats(&self) -> Arc<EvaluatorStats> {
        self.stats.clone()
    }

    /// Waits until the evaluator has stopped. Returns the first error that any part met.
    pub async fn finished(mut self) -> Result<(), EvaluatorError> {
        while let Some(ended) = self.tasks.join_next().await {
            task_ended(ended)?;
        }
        Ok(())
    }
}
