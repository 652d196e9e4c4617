//! The evaluate role: ticks from the bus, through shards, to firings in the store.
//!
//! Evaluators are a consumer group, whose members share the partitions out among themselves. Each worker is a thread that
//! owns some of this member's and one engine [`tocsin_engine::Shard`]. It hears of its partitions and of changed bindings
//! from the *feeder* and hands what happened to its *committer*, both tasks. All three are joined by bounded queues. What a
//! worker hands over stays in order, so that a checkpoint never passes a firing.
//!
//! A partition comes with its checkpoint from the store and a claim on it, under which alone anything is written. It goes
//! with a last checkpoint; where it is lost instead, whoever claims it next judges again what was not remembered.
//!
//! A binding counts every tick from its own offset on, and no other. If its worker has read on meanwhile, the ticks in
//! between are read again for it alone; if its worker is behind, the binding waits until its offset comes.
//!
//! A symbol's ticks count on one partition, its *home*: the one on which the first of them turned up since somebody watches
//! it. Where they turn up on another one too, because producers have other partitioners or the topic has grown, those are
//! not judged, and that is told. A binding whose symbol has no home yet has noted where each partition ended.
//!
//! A symbol that no alert watches any more is forgotten, whatever workers know of its ticks: where the next alert has to wait
//! for the first one, they look for it again, also among the ticks that they have read since that alert was created.
//!
//! A manual release from quarantine takes effect right behind a checkpoint that names it: a replay from there begins with
//! the same release. For a promotion to another version of its rule a binding is handed over to the store right behind a
//! checkpoint, with its state and the offset up to which it is judged. It comes back like a new one that remembers: on the
//! new version or, if the promotion failed, on the old one. Either way it catches up from that offset, and no tick is judged
//! twice. Where a promotion is taken back before a binding was handed over, its worker keeps it; where that crosses the
//! handover, the store gives the binding back.
//!
//! What is read together is applied in the order in which it happened: a binding is armed first. One that is to leave
//! quarantine and is not armed yet leaves it once it is.
//!
//! Neither is done before a worker has judged what was published before it began: an earlier one may have told of those
//! ticks, and they are judged again as they were then.

mod committer;
mod feeder;
pub mod health;
mod log_watch;
mod restore;
mod stats;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tocsin_engine::domain::{BindingId, Digest, Position, RuleRef, Symbol};
use tocsin_engine::{Arming, EvaluateError, EvaluationOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use self::committer::Committer;
use self::feeder::{Feed, Feeder};
use self::log_watch::LogWatch;
use self::restore::{Restored, StoredRules};
use self::worker::Worker;
use crate::bus::{Bus, BusError, Clock, Handover};
use crate::rules::{RuleCache, RuleCacheError};
use crate::store::{Claim, Commit, Store, StoreError, SymbolAssignment, UnassignedSymbol};

pub use self::stats::{AlertActivity, EvaluatorSnapshot, EvaluatorStats, PartitionState, Strays, UnassignedTick};

/// The consumer group of a server, named as in GoStocks. What it commits is for monitoring only.
pub const GROUP: &str = "alert-service-group";

/// How many commits may wait for the store, for each worker: then the worker waits.
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
    /// Go on at the oldest tick where retention has removed some that were never judged, in place of halting that
    /// partition.
    pub skip_lost_ticks: bool,
    /// Put new firings into the outbox: somebody delivers them.
    pub outbox: bool,
    /// How shards judge.
    pub evaluation: EvaluationOptions,
}

/// Why an evaluator stopped, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum EvaluatorError {
    /// The bus failed.
    #[error("the bus failed: {0}")]
    Bus(#[from] BusError),
    /// The store failed in a way that trying again does not mend.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine failed.
    #[error("the engine failed: {0}")]
    Evaluate(#[from] EvaluateError),
    /// A rule that alerts are bound to is not to be had.
    #[error("a rule could not be loaded: {0}")]
    Rules(#[from] RuleCacheError),
    /// A binding could not be armed.
    #[error("binding {0} could not be armed: {1}")]
    Arm(i64, String),
    /// Retention was faster than evaluation.
    #[error(
        "partition {partition}: the ticks from offset {next} up to {earliest} were removed by retention before they \
         were judged; alerts may have missed them. Start with --skip-lost-ticks to go on without them"
    )]
    LostTicks {
        /// The partition.
        partition: u32,
        /// The next offset to be judged.
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
    /// A worker, the feeder or a committer ended though nobody stopped it.
    #[error("a part of the evaluator ended early: {0}")]
    Ended(String),
}

impl EvaluatorError {
    /// Whether only the partition halts, until an operator acts.
    fn halts(&self) -> bool {
        matches!(self, Self::LostTicks { .. } | Self::LogCut { .. } | Self::Store(StoreError::OtherLog { .. }))
    }

    /// Whether the same may succeed later: a backend is away.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Bus(error) => error.is_transient(),
            Self::Store(error) | Self::Rules(RuleCacheError::Store(error)) => error.is_transient(),
            _ => false,
        }
    }
}

/// What a worker is told, in this order.
enum Message {
    /// Bindings have changed.
    Changes(Changes),
    /// A partition is its own from now on. The sender is dropped once its bindings are armed.
    Take(Box<Restored>, oneshot::Sender<()>),
    /// Partitions are not its own any more.
    Leave(Vec<u32>, Leaving),
}

/// A partition that a committer writes nothing more of, and why.
struct Stopped {
    partition: u32,
    why: String,
}

/// How partitions are given up.
#[derive(Clone)]
enum Leaving {
    /// With a checkpoint; the handover is dropped once that is written.
    Orderly(#[expect(dead_code, reason = "its end is what is waited for")] Arc<Handover>),
    /// With a checkpoint, and they stay this evaluator's: it does not evaluate the log that is there.
    Halted,
    /// They are somebody else's already.
    Lost,
}

/// What a worker hands to its committer, in this order.
enum Handed {
    /// A partition is its own.
    Claimed(Claim),
    /// What happened, and what is remembered.
    Events(Box<Commit>),
    /// Is dropped once all that was handed over before it is written.
    Marker(Arc<()>),
    /// A rule version is taken out of service before the evaluator ends; the sender hears when that is written.
    OutOfService(Box<Commit>, std::sync::mpsc::Sender<()>),
    /// The first tick of a symbol that is waited for is on this partition.
    Seen(Symbol, u32),
    /// A partition is evaluated no more until an operator acts, and why.
    Halted(u32, String),
    /// Partitions are its own no more.
    Left(Vec<u32>, Leaving),
}

/// A change that a worker must apply.
#[derive(Debug)]
enum Change {
    /// Arm a binding that counts from a position.
    Arm(Box<Arming>, Position),
    /// Disarm a binding: its alert was deleted.
    Disarm(BindingId),
    /// Release a binding of a partition from quarantine.
    Release(BindingId, u32),
    /// Hand a binding of a partition over to the store, for a promotion.
    HandOver(Asked, u32),
    /// Keep a binding of a partition: it is to be handed over no more.
    Keep(BindingId, u32),
    /// Disarm all bindings of a rule version: it is impure.
    DisarmRule(Digest),
}

/// A binding that a promotion asks for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    binding: BindingId,
    /// The change by which evaluators began with it.
    armed_revision: u64,
}

/// Changes up to a revision.
#[derive(Debug)]
struct Changes {
    /// The partitions of symbols whose bindings are among the changes; None where the first tick is still to be seen.
    homes: Vec<SymbolAssignment>,
    /// Symbols without a home whose first tick may have been read already.
    sought: Vec<UnassignedSymbol>,
    list: Vec<Change>,
    revision: u64,
}

/// Takes part in evaluation until `stop` is cancelled, then writes a last checkpoint. Returns once the first partitions
/// are restored, or none were to be had for a while.
pub async fn start(
    store: Store,
    bus: Bus,
    library: RuleCache,
    config: EvaluatorConfig,
    clock: Clock,
    stop: CancellationToken,
) -> Result<RunningEvaluator, EvaluatorError> {
    let stats = Arc::new(EvaluatorStats::default());
    let workers = config.workers.clamp(1, bus.partitions() as usize);
    let revision = *store.newest_revision().await?.borrow();
    let membership = bus.join(&config.group)?;
    let (stopped, stops) = mpsc::unbounded_channel();
    let stopped = membership.is_shared().then_some(stopped);
    let (at_work, all_done) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    let mut feeds = Vec::new();
    for _ in 0..workers {
        let (handed, queue) = mpsc::channel(COMMIT_QUEUE);
        let (sender, messages) = mpsc::channel(MESSAGE_QUEUE);
        let (store, stats, clock, stopped) = (store.clone(), stats.clone(), clock.clone(), stopped.clone());
        let worker = Worker::new(bus.clone(), revision, handed, messages, stats.clone(), &config, stop.clone())?;
        let committer = Committer::new(store, queue, stopped, stats, clock, config.outbox);
        feeds.push(Feed { partitions: BTreeSet::new(), messages: sender, waker: worker.waker() });
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
    let (begun, has_begun) = oneshot::channel();
    let feeder = Feeder {
        rules: StoredRules { store: store.clone(), library, clock },
        store,
        bus,
        membership,
        feeds,
        stops,
        revision,
        log: LogWatch::default(),
        skip_lost_ticks: config.skip_lost_ticks,
        stats: stats.clone(),
        begun: Some(begun),
    };
    tasks.spawn(feeder.run(stop, all_done));
    let mut evaluator = RunningEvaluator { tasks, stats };
    let ended = tokio::select! {
        Ok(()) = has_begun => return Ok(evaluator),
        Some(ended) = evaluator.tasks.join_next() => part_ended(ended),
    };
    // What ended first may have ended because another part failed.
    let ended = match ended {
        Ok(()) => evaluator.finished().await,
        failed => failed,
    };
    Err(ended.err().unwrap_or_else(stopped_early))
}

fn part_ended(ended: Result<Result<(), EvaluatorError>, JoinError>) -> Result<(), EvaluatorError> {
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
    /// Its counters.
    pub fn stats(&self) -> Arc<EvaluatorStats> {
        self.stats.clone()
    }

    /// Waits until it has stopped; the first error that any part met.
    pub async fn finished(mut self) -> Result<(), EvaluatorError> {
        while let Some(ended) = self.tasks.join_next().await {
            part_ended(ended)?;
        }
        Ok(())
    }
}
