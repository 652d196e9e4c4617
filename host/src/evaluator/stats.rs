//! Counters of an evaluator, for the log and health.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tocsin_engine::domain::Symbol;
use tracing::error;

/// Counters since the start.
#[derive(Debug, Default)]
pub struct EvaluatorStats {
    pub(super) ticks: AtomicU64,
    pub(super) evaluations: AtomicU64,
    pub(super) firings: AtomicU64,
    pub(super) faults: AtomicU64,
    pub(super) quarantined: AtomicU64,
    pub(super) recovered: AtomicU64,
    pub(super) impurities: AtomicU64,
    pub(super) checkpoints: AtomicU64,
    /// Not a counter: bindings armed now. Workers add and take away.
    pub(super) bindings: AtomicU64,
    workers: Mutex<Vec<Arc<AtomicI64>>>,
    partitions: Mutex<BTreeMap<u32, PartitionState>>,
    strays: Mutex<BTreeMap<Symbol, Strays>>,
}

/// Symbols whose strays are told: more than a broken partitioner needs to be found.
const MAX_STRAY_SYMBOLS: usize = 16;

/// Ticks of a watched symbol beside its home, which nobody judges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strays {
    /// The partition whose ticks count.
    pub home: u32,
    /// Where the last other one was.
    pub partition: u32,
    /// How many there were.
    pub ticks: u64,
}

/// How a partition is that this evaluator has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionState {
    /// The next offset to be judged, at the last checkpoint.
    pub next_offset: Option<u64>,
    /// Why it is judged no more, where it has halted.
    pub halted: Option<String>,
}

/// How far one worker has come.
#[derive(Debug)]
pub(super) struct Progress(Arc<AtomicI64>);

/// A worker waits for ticks, and no tick for it.
const CAUGHT_UP: i64 = i64::MAX;

impl Progress {
    /// When the next tick to be judged was published; None if none waits.
    pub(super) fn reached(&self, published_ms: Option<i64>) {
        self.0.store(published_ms.unwrap_or(CAUGHT_UP), Relaxed);
    }
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvaluatorSnapshot {
    /// Ticks judged.
    pub ticks: u64,
    /// Verdicts asked for.
    pub evaluations: u64,
    /// Firings that were new to the store.
    pub firings: u64,
    /// Faults of rules.
    pub faults: u64,
    /// Faults that quarantined their binding.
    pub quarantined: u64,
    /// Quarantined bindings that were tried again with success.
    pub recovered: u64,
    /// Rule versions that were found to be impure.
    pub impurities: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Bindings armed now.
    pub bindings: u64,
}

impl EvaluatorStats {
    /// For one more worker to tell how far it has come.
    pub(super) fn progress(&self) -> Progress {
        let progress = Arc::new(AtomicI64::new(CAUGHT_UP));
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(progress.clone());
        Progress(progress)
    }

    /// When the oldest tick that waits for its worker was published, Unix milliseconds; None if none waits.
    pub fn oldest_waiting_ms(&self) -> Option<i64> {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.iter().map(|progress| progress.load(Relaxed)).min().filter(|oldest| *oldest != CAUGHT_UP)
    }

    /// The partitions that this evaluator has.
    pub fn partitions(&self) -> BTreeMap<u32, PartitionState> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn taken(&self, partition: u32) {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, PartitionState::default());
    }

    pub(super) fn left(&self, partition: u32) {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).remove(&partition);
    }

    pub(super) fn checkpointed(&self, partition: u32, next_offset: u64) {
        self.update(partition, |state| state.next_offset = Some(next_offset));
    }

    /// Says why a partition has halted; whether that is news.
    pub(super) fn halted(&self, partition: u32, why: String) -> bool {
        let mut is_news = false;
        self.update(partition, |state| {
            is_news = state.halted.as_ref() != Some(&why);
            state.halted = Some(why);
        });
        is_news
    }

    pub(super) fn goes_on(&self, partition: u32) {
        self.update(partition, |state| state.halted = None);
    }

    pub(super) fn stray_tick(&self, symbol: &Symbol, home: u32, partition: u32) {
        let mut strays = self.strays.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = strays.get_mut(symbol) {
            *known = Strays { home, partition, ticks: known.ticks + 1 };
        } else if strays.len() < MAX_STRAY_SYMBOLS {
            error!(%symbol, home, partition, "a symbol's ticks turn up beside its home: they are not judged");
            strays.insert(symbol.clone(), Strays { home, partition, ticks: 1 });
        }
    }

    /// Symbols whose ticks turned up beside their homes, some of them.
    pub fn strays(&self) -> BTreeMap<Symbol, Strays> {
        self.strays.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn update(&self, partition: u32, update: impl FnOnce(&mut PartitionState)) {
        let mut partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was given up meanwhile is told of no more.
        partitions.get_mut(&partition).map(update);
    }

    /// The counters now.
    pub fn snapshot(&self) -> EvaluatorSnapshot {
        EvaluatorSnapshot {
            ticks: self.ticks.load(Relaxed),
            evaluations: self.evaluations.load(Relaxed),
            firings: self.firings.load(Relaxed),
            faults: self.faults.load(Relaxed),
            quarantined: self.quarantined.load(Relaxed),
            recovered: self.recovered.load(Relaxed),
            impurities: self.impurities.load(Relaxed),
            checkpoints: self.checkpoints.load(Relaxed),
            bindings: self.bindings.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_tick_that_waits_for_any_worker_counts() {
        let stats = EvaluatorStats::default();
        assert_eq!(stats.oldest_waiting_ms(), None);
        let workers = [stats.progress(), stats.progress()];
        assert_eq!(stats.oldest_waiting_ms(), None);
        workers[0].reached(Some(7_000));
        workers[1].reached(Some(5_000));
        assert_eq!(stats.oldest_waiting_ms(), Some(5_000));
        workers[1].reached(None);
        assert_eq!(stats.oldest_waiting_ms(), Some(7_000));
    }
}
