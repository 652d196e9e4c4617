//! Counters of an evaluator, for the log and health.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
