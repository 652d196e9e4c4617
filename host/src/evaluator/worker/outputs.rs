//! What a processor returns, as commits for the committer, counters and log messages.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

use tocsin_engine::Event;
use tocsin_store::{Commit, NewFault};
use tokio::sync::mpsc::{self, error::TrySendError};
use tracing::{error, info, warn};

use super::WorkerOutput;
use crate::evaluator::processor::{Output, Processor};
use crate::evaluator::{EvaluatorError, EvaluatorStats};
use crate::telemetry::LogBudget;

/// Firings and faults after which a commit is sent though its batch is not done.
const MAX_EVENTS: usize = 8192;

/// Bytes of records in fault bundles after which a commit is sent: together with the queue of commits they bound what a
/// flood of faults can hold in memory.
const MAX_BUNDLE_BYTES: usize = 1024 * 1024;

/// Collects what a processor returns.
pub(super) struct Outputs {
    committer: mpsc::Sender<WorkerOutput>,
    stats: Arc<EvaluatorStats>,
    /// Firings and faults that are not sent yet.
    commit: Commit,
    bundle_bytes: usize,
    /// A partition whose evaluation was interrupted.
    interrupted: Option<u32>,
    /// Alive until the last checkpoint is written.
    unwritten_checkpoint: Weak<()>,
    /// What was added to the shared counters.
    counted_evaluations: u64,
    counted_bindings: u64,
    /// Of quarantined bindings.
    log_budget: LogBudget,
}

impl Outputs {
    pub(super) fn new(committer: mpsc::Sender<WorkerOutput>, stats: Arc<EvaluatorStats>) -> Self {
        Self {
            committer,
            stats,
            commit: Commit::default(),
            bundle_bytes: 0,
            interrupted: None,
            unwritten_checkpoint: Weak::new(),
            counted_evaluations: 0,
            counted_bindings: 0,
            log_budget: LogBudget::new(),
        }
    }

    /// Takes all outputs, and sends them where there are many or where their order demands it.
    pub(super) fn accept(&mut self, outputs: &mut Vec<Output>) -> Result<(), EvaluatorError> {
        for output in outputs.drain(..) {
            match output {
                Output::Event(event) => self.accept_event(event),
                Output::Checkpoints(checkpoints) => {
                    self.flush()?;
                    self.send(WorkerOutput::Commit(Box::new(Commit { checkpoints, ..Commit::default() })))?;
                    let written = Arc::new(());
                    self.unwritten_checkpoint = Arc::downgrade(&written);
                    self.send(WorkerOutput::Marker(written))?;
                }
                Output::Suppressed { alert, firings } => {
                    self.stats.count_alert(alert, |activity| activity.suppressed += firings);
                }
                Output::SymbolSeen { symbol, position, published_ms } => {
                    self.stats.unassigned_tick(&symbol, position, published_ms);
                    self.send(WorkerOutput::SymbolSeen(symbol, position.partition))?;
                }
                Output::Misrouted { symbol, assigned, partition } => {
                    self.stats.misrouted_tick(&symbol, assigned, partition);
                }
                Output::NotArmed { alert, why } => {
                    error!(alert = alert.0, error = %why, "an alert cannot be evaluated");
                    self.stats.not_armed(alert, why);
                }
                Output::UnquarantineWaits { partition, bindings, first } => {
                    self.stats.unquarantine_waits(partition, bindings);
                    if let Some(first) = first {
                        warn!(
                            partition,
                            waits = bindings,
                            binding = first.0,
                            "bindings that are to leave quarantine are not armed; they leave it once they are"
                        );
                    }
                }
                Output::HandoffSkipped { partition, binding } => warn!(
                    partition,
                    binding = binding.0,
                    "a promotion requests a binding that is not armed here: nothing of it is handed off. It was handed off \
                     before, has fired for the last time or was deleted; if none of that, the promotion waits until it is \
                     cancelled"
                ),
                Output::Interrupted(partition) => self.interrupted = Some(partition),
            }
        }
        let events = self.commit.firings.len() + self.commit.faults.len();
        if events >= MAX_EVENTS || self.bundle_bytes >= MAX_BUNDLE_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn accept_event(&mut self, event: Event) {
        match event {
            Event::Fired { firing, last } => {
                self.stats.count_alert(firing.alert, |activity| activity.firings += 1);
                self.commit.firings.push((firing, last));
            }
            Event::Faulted { alert, binding, fault, quarantined, bundle } => {
                self.stats.faults.fetch_add(1, Relaxed);
                self.stats.count_alert(alert, |activity| activity.faults += 1);
                if quarantined {
                    if self.log_budget.count() {
                        warn!(alert = alert.0, binding = binding.0, %fault, "a binding is quarantined");
                    }
                    self.stats.quarantined.fetch_add(1, Relaxed);
                }
                self.bundle_bytes += bundle.params.len() + bundle.state.len();
                self.commit.faults.push(NewFault { alert, binding, quarantined, bundle });
            }
            Event::Recovered { alert, binding, .. } => {
                info!(alert = alert.0, binding = binding.0, "a quarantined binding was tried again and is evaluated");
                self.stats.recovered.fetch_add(1, Relaxed);
            }
            Event::Impure { rule, impurity } => {
                error!(rule = %rule.name, version = %rule.version, %impurity, "a rule is impure: it is quarantined");
                self.stats.impurities.fetch_add(1, Relaxed);
                self.commit.impure_rules.push((rule, impurity.to_string()));
            }
        }
    }

    /// Sends firings and faults that are not sent yet to the committer.
    pub(super) fn flush(&mut self) -> Result<(), EvaluatorError> {
        self.bundle_bytes = 0;
        match std::mem::take(&mut self.commit) {
            commit if commit.is_empty() => Ok(()),
            commit => self.send(WorkerOutput::Commit(Box::new(commit))),
        }
    }

    /// Sends to the committer, and waits while its queue is full.
    pub(super) fn send(&self, output: WorkerOutput) -> Result<(), EvaluatorError> {
        let sent = match self.committer.try_send(output) {
            Ok(()) => true,
            Err(TrySendError::Full(output)) => self.committer.blocking_send(output).is_ok(),
            Err(TrySendError::Closed(_)) => false,
        };
        if sent { Ok(()) } else { Err(EvaluatorError::Ended("the committer is gone".into())) }
    }

    /// Returns whether the store has the last checkpoint.
    pub(super) fn checkpoint_is_written(&self) -> bool {
        self.unwritten_checkpoint.strong_count() == 0
    }

    /// Returns the partition whose evaluation was interrupted since the last call of this.
    pub(super) fn take_interrupted(&mut self) -> Option<u32> {
        self.interrupted.take()
    }

    /// Adds evaluations and armed bindings to the shared counters, and logs how many messages were left out.
    pub(super) fn count(&mut self, processor: &Processor) {
        if let Some(more) = self.log_budget.take_suppressed() {
            warn!(more, "more bindings were quarantined");
        }
        let (evaluations, bindings) = (processor.evaluations(), processor.bindings() as u64);
        self.stats.evaluations.fetch_add(evaluations - self.counted_evaluations, Relaxed);
        // Wraps around where there are fewer bindings than before: so does the sum.
        self.stats.bindings.fetch_add(bindings.wrapping_sub(self.counted_bindings), Relaxed);
        self.counted_evaluations = evaluations;
        self.counted_bindings = bindings;
    }
}
