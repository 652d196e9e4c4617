//! The partitions of a worker: they come with what was remembered of them, and go with a checkpoint, or without where they
//! are somebody else's already.

use std::collections::BTreeMap;
use std::sync::Arc;

use tocsin_engine::Arming;
use tocsin_engine::domain::{BindingId, Symbol};
use tracing::{error, warn};

use super::arming::{Waiting, arm, release};
use super::due::{Behind, Due, DueNow};
use super::{Home, RETRY_WAIT, Worker};
use crate::bus::BusError;
use crate::evaluator::restore::Restored;
use crate::evaluator::{Asked, EvaluatorError, Handed, Leaving};
use crate::store::{Checkpoint, Commit, Handoff};

/// One partition.
#[derive(Default)]
pub(super) struct Lane {
    /// Bindings that wait for the offset from which they count.
    pub(super) waiting: Waiting,
    /// Ticks before this offset were published before this worker began, and may have been told by another one: until
    /// they are evaluated again as they were then, nothing is released and nothing handed over.
    pub(super) replay_until: u64,
    /// What is to be done right behind a checkpoint.
    pub(super) due: Due,
    /// Bindings that left quarantine since the last checkpoint.
    pub(super) recovered: Vec<BindingId>,
    /// Position and revision at the last checkpoint.
    checkpointed: Option<(u64, u64)>,
}

impl Worker {
    /// Goes on with a partition as it was at its checkpoint.
    pub(super) fn take(&mut self, restored: Restored) -> Result<(), EvaluatorError> {
        let Restored { claim, from, replay_until, armed, new, released, unquarantine_due, asked_for, sought } =
            restored;
        let partition = claim.partition;
        // Also where it halts at once: that is noted under the claim.
        self.send(Handed::Claimed(claim))?;
        match self.with_patience(|worker| worker.reader.add(vec![from])) {
            Err(error @ BusError::OffsetOutOfRange { .. }) => return self.halt(partition, &error),
            added => added?,
        }
        let lane = Lane { replay_until, due: Due::new(unquarantine_due, asked_for), ..Lane::default() };
        self.lanes.insert(partition, lane);
        for arming in armed {
            arm(&mut self.shard, &self.stats, arming)?;
        }
        for binding in released {
            release(&mut self.shard, binding)?;
        }
        self.arm_new(new)?;
        self.count_bindings();
        self.seek(&sought, &[partition])
    }

    /// Lets go of partitions.
    pub(super) fn leave(&mut self, partitions: &[u32], leaving: Leaving) -> Result<(), EvaluatorError> {
        if !matches!(leaving, Leaving::Lost) {
            self.checkpoint()?;
        }
        self.forget(partitions);
        self.send(Handed::Left(partitions.to_vec(), leaving))
    }

    /// Stops evaluating one partition, and reports it: an operator has to decide how it goes on.
    pub(super) fn halt(&mut self, partition: u32, why: &BusError) -> Result<(), EvaluatorError> {
        error!(partition, error = %why, "evaluation of a partition has halted");
        self.stats.halted(partition, why.to_string());
        self.checkpoint()?;
        self.forget(&[partition]);
        self.send(Handed::Halted(partition, why.to_string()))
    }

    pub(super) fn forget(&mut self, partitions: &[u32]) {
        self.lanes.retain(|partition, _| !partitions.contains(partition));
        self.reader.remove(partitions);
        self.batch.drain(..self.evaluated);
        self.evaluated = 0;
        self.batch.retain(|record| !partitions.contains(&record.position.partition));
        let homes = &self.homes;
        let at_home =
            |symbol: &Symbol| homes.get(symbol).is_some_and(|home| partitions.iter().any(|p| *home == Home::At(*p)));
        self.shard.disarm_symbols(at_home);
        self.count_bindings();
    }

    /// Notes something for a partition, if it is still there.
    pub(super) fn when_due(&mut self, partition: u32, note: impl FnOnce(&mut Lane)) {
        if let Some(lane) = self.lanes.get_mut(&partition) {
            note(lane);
        }
    }

    pub(super) fn forget_waiting(&mut self, forgotten: impl Fn(&Arming) -> bool) {
        for lane in self.lanes.values_mut() {
            lane.waiting.retain(|_, armings| {
                armings.retain(|arming| !forgotten(arming));
                !armings.is_empty()
            });
        }
        self.count_bindings();
    }

    /// Hands over what is remembered of partitions that have gone on.
    pub(super) fn checkpoint(&mut self) -> Result<(), EvaluatorError> {
        self.checkpoint_before(Behind::new())
    }

    /// Takes a checkpoint that names what is done right behind it.
    pub(super) fn checkpoint_before(&mut self, mut behind: Behind) -> Result<(), EvaluatorError> {
        let mut groups: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for group in self.shard.take_changed() {
            if let Some(partition) = self.home_of(&group.symbol) {
                groups.entry(partition).or_default().push(group);
            }
        }
        let mut suppressed: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for (binding, count) in self.shard.take_suppressed() {
            if let Some(alert) = self.shard.alert_of(binding) {
                self.stats.count_alert(alert, |activity| activity.suppressed += count);
            }
            if let Some(partition) = self.shard.symbol_of(binding).and_then(|symbol| self.home_of(symbol)) {
                suppressed.entry(partition).or_default().push((binding, count));
            }
        }
        let (positions, revision, shard) = (self.positions(), self.revision, &self.shard);
        let mut checkpoints = Vec::new();
        for (partition, lane) in &mut self.lanes {
            let next_offset = positions[partition];
            let groups = groups.remove(partition).unwrap_or_default();
            let suppressed = suppressed.remove(partition).unwrap_or_default();
            let DueNow { released, handed_over } = behind.remove(partition).unwrap_or_default();
            let handed_over = handed_over.into_iter().map(|Asked { binding, armed_revision }| Handoff {
                binding,
                armed_revision,
                saved: shard.saved(binding),
            });
            let handed_over: Vec<Handoff> = handed_over.collect();
            let now = (next_offset, revision);
            if groups.is_empty() && released.is_empty() && handed_over.is_empty() && lane.checkpointed == Some(now) {
                continue;
            }
            // What it releases changes no group before the next one: that must be written, and release nothing.
            lane.checkpointed = released.is_empty().then_some(now);
            let (partition, recovered) = (*partition, std::mem::take(&mut lane.recovered));
            checkpoints.push(Checkpoint {
                partition,
                next_offset,
                revision,
                recovered,
                unquarantined: released,
                handoffs: handed_over,
                suppressed,
                groups,
            });
        }
        if checkpoints.is_empty() {
            return Ok(());
        }
        self.send(Handed::Events(Box::new(Commit { checkpoints, ..Commit::default() })))?;
        let written = Arc::new(());
        self.unwritten_checkpoint = Arc::downgrade(&written);
        self.send(Handed::Marker(written))
    }

    fn home_of(&self, symbol: &Symbol) -> Option<u32> {
        match self.homes.get(symbol) {
            Some(Home::At(partition)) => Some(*partition),
            _ => None,
        }
    }

    /// Asks the bus again for as long as its brokers are away.
    pub(super) fn with_patience<T>(
        &mut self,
        mut ask: impl FnMut(&mut Self) -> Result<T, BusError>,
    ) -> Result<T, BusError> {
        loop {
            match ask(self) {
                Err(error) if error.is_transient() && !self.stop.is_cancelled() => {
                    warn!(%error, "evaluation waits for the bus");
                    std::thread::sleep(RETRY_WAIT);
                }
                other => return other,
            }
        }
    }
}
