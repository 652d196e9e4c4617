//! The evaluate role: ticks from the bus, through shards, to firings in the store.
//!
//! Each worker is a thread that owns some partitions and one engine [`tocsin_engine::Shard`]. It hears of changed
//! bindings from the *feeder* and hands what happened to its *committer*, both tasks. All three are joined by bounded
//! queues. What a worker hands over stays in order, so that a checkpoint never passes a firing.
//!
//! A binding counts every tick from its own offset on, and no other. If its worker has read on meanwhile, the ticks in
//! between are read again for it alone; if its worker is behind, the binding waits until its offset comes.
//!
//! A manual release from quarantine takes effect right behind a checkpoint that names it: a replay from there begins with
//! the same release. For a promotion to another version of its rule a binding is handed over to the store right behind a
//! checkpoint, with its state and the offset up to which it is judged. It comes back like a new one that remembers: on the
//! new version or, if the promotion failed, on the old one. Either way it catches up from that offset, and no tick is judged
//! twice.
//!
//! Neither is done before a worker has judged what was published before it began: an earlier one may have told of those
//! ticks, and they are judged again as they were then.

mod committer;
mod feeder;
mod restore;
mod stats;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use tocsin_engine::domain::{BindingId, Digest, Position};
use tocsin_engine::{Arming, JudgeError, Judging};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::committer::Committer;
use self::feeder::Feeder;
use self::worker::Worker;
use crate::bus::{Bus, BusError, Clock};
use crate::library::{Library, LibraryError};
use crate::store::{Commit, Store, StoreError};

pub use self::stats::{EvaluatorSnapshot, EvaluatorStats};

/// How many commits may wait for the store, for each worker: then the worker waits.
const COMMIT_QUEUE: usize = 64;

/// How many batches of changes may wait for a worker.
const CHANGE_QUEUE: usize = 64;

/// How an evaluator works.
#[derive(Clone, Debug)]
pub struct EvaluatorConfig {
    /// Worker threads; no more than there are partitions.
    pub workers: usize,
    /// Time between checkpoints: how much is replayed after a crash, against how often states are written.
    pub checkpoint_interval: Duration,
    /// Go on at the oldest tick where retention has removed some that were never judged, in place of refusing to
    /// start.
    pub skip_lost_ticks: bool,
    /// How shards judge.
    pub judging: Judging,
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
    Judge(#[from] JudgeError),
    /// A rule that alerts are bound to is not to be had.
    #[error("a rule could not be loaded: {0}")]
    Library(#[from] LibraryError),
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
    /// A thread could not be started.
    #[error("a worker thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
    /// A worker, the feeder or a committer ended though nobody stopped it.
    #[error("a part of the evaluator ended early: {0}")]
    Ended(String),
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
    HandOver(BindingId, u32),
    /// Disarm all bindings of a rule version: it is impure.
    DisarmRule(Digest),
}

/// Changes up to a revision.
#[derive(Debug)]
struct Changes {
    list: Vec<Change>,
    revision: u64,
}

/// Loads the checkpoints of all partitions and evaluates until `stop` is cancelled, then writes a last checkpoint.
/// Returns once evaluation has begun.
pub async fn start(
    store: Store,
    bus: Bus,
    library: Library,
    config: EvaluatorConfig,
    clock: Clock,
    stop: CancellationToken,
) -> Result<RunningEvaluator, EvaluatorError> {
    let stats = Arc::new(EvaluatorStats::default());
    let workers = config.workers.clamp(1, bus.partitions() as usize);
    let revision = *store.newest_revision().await?.borrow();
    let mut tasks = JoinSet::new();
    let mut feeds = Vec::new();
    for index in 0..workers {
        let partitions: Vec<u32> = (0..bus.partitions()).filter(|p| *p as usize % workers == index).collect();
        let restored = restore::restore(&store, &bus, &library, &partitions, revision, &config).await?;
        let (commits, commit_queue) = mpsc::channel::<Commit>(COMMIT_QUEUE);
        let (changes, change_queue) = mpsc::channel::<Changes>(CHANGE_QUEUE);
        let committer =
            Committer::new(store.clone(), restored.claims.clone(), commit_queue, stats.clone(), clock.clone());
        let worker = Worker::new(bus.clone(), restored, revision, commits, change_queue, stats.clone(), &config)?;
        feeds.push(feeder::Feed { partitions, changes, waker: worker.waker() });
        let done = worker.spawn(stop.clone())?;
        tasks.spawn(async move {
            done.await.unwrap_or_else(|_| Err(EvaluatorError::Ended("a worker thread panicked".into())))
        });
        tasks.spawn(committer.run());
    }
    tasks.spawn(Feeder::new(store, library, feeds, revision, stop).run());
    Ok(RunningEvaluator { tasks, stats })
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
            ended.unwrap_or_else(|error| Err(EvaluatorError::Ended(error.to_string())))?;
        }
        Ok(())
    }
}
