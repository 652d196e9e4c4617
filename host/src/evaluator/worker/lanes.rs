//! The partitions of a worker: they come with what was remembered of them, and go with a checkpoint, or without where they
//! are somebody else's already.

use std::collections::{BTreeMap, HashSet};

use tocsin_engine::Arming;
use tocsin_engine::domain::{BindingId, Symbol};
use tracing::{error, warn};

use super::arming::{Waiting, arm, release};
use super::{Home, RETRY_WAIT, Worker};
use crate::bus::BusError;
use crate::evaluator::restore::Restored;
use crate::evaluator::{EvaluatorError, Handed, Leaving};
use crate::store::{Checkpoint, Commit, HandedOver};

/// One partition.
#[derive(Default)]
pub(super) struct Lane {
    /// Bindings that wait for the offset from which they count.
    pub(super) waiting: Waiting,
    /// Ticks before this offset were published before this worker began, and may have been told by another one: until
    /// they are judged again as they were then, nothing is released and nothing handed over.
    told_until: u64,
    /// Bindings that are to be released from quarantine.
    pub(super) release_due: Vec<BindingId>,
    /// Bindings that are to be handed over.
    pub(super) hand_over_due: Vec<BindingId>,
    /// Bindings that left quarantine since the last checkpoint.
    pub(super) recovered: Vec<BindingId>,
    /// Position and revision at the last checkpoint.
    checkpointed: Option<(u64, u64)>,
}

/// What is done to bindings right behind a checkpoint that names them, by partition.
type Behind = BTreeMap<u32, Due>;

#[derive(Default)]
struct Due {
    /// They are released from quarantine.
    released: Vec<BindingId>,
    /// They are handed over to the store.
    handed_over: Vec<BindingId>,
}

impl Worker {
    /// Goes on with a partition as it was at its checkpoint.
    pub(super) fn take(&mut self, restored: Restored) -> Result<(), EvaluatorError> {
        let Restored { claim, from, told_until, armed, new, released, release_due, asked_for, sought } = restored;
        let partition = claim.partition;
        match self.with_patience(|worker| worker.reader.add(vec![from])) {
            Err(error @ BusError::OffsetOutOfRange { .. }) => return self.halt(partition, &error),
            added => added?,
        }
        self.send(Handed::Claimed(claim))?;
        let lane = Lane { told_until, release_due, hand_over_due: asked_for, ..Lane::default() };
        self.lanes.insert(partition, lane);
        for arming in armed {
            arm(&mut self.shard, arming)?;
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

    /// Stops with one partition, loudly: somebody has to decide how it goes on.
    pub(super) fn halt(&mut self, partition: u32, why: &BusError) -> Result<(), EvaluatorError> {
        error!(partition, error = %why, "evaluation of a partition has halted");
        self.stats.halted(partition, why.to_string());
        self.checkpoint()?;
        self.forget(&[partition]);
        Ok(())
    }

    fn forget(&mut self, partitions: &[u32]) {
        self.lanes.retain(|partition, _| !partitions.contains(partition));
        self.reader.remove(partitions);
        self.batch.drain(..self.judged);
        self.judged = 0;
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

    /// Releases and hands over where that is due, right behind a checkpoint that says so.
    pub(super) fn do_what_is_due(&mut self) -> Result<(), EvaluatorError> {
        if self.lanes.values().all(|lane| lane.release_due.is_empty() && lane.hand_over_due.is_empty()) {
            return Ok(());
        }
        let positions = self.positions();
        let mut behind = Behind::new();
        for (partition, lane) in &mut self.lanes {
            if positions[partition] >= lane.told_until {
                let released = std::mem::take(&mut lane.release_due);
                behind.insert(*partition, Due { released, handed_over: std::mem::take(&mut lane.hand_over_due) });
            }
        }
        let released: Vec<BindingId> = behind.values().flat_map(|due| &due.released).copied().collect();
        let handed_over: HashSet<BindingId> = behind.values().flat_map(|due| &due.handed_over).copied().collect();
        if released.is_empty() && handed_over.is_empty() {
            return Ok(());
        }
        self.checkpoint_before(behind)?;
        for binding in released {
            release(&mut self.shard, binding)?;
        }
        for binding in &handed_over {
            self.shard.disarm(*binding);
        }
        self.forget_waiting(|arming| handed_over.contains(&arming.binding));
        Ok(())
    }

    /// Hands over what is remembered of partitions that have gone on.
    pub(super) fn checkpoint(&mut self) -> Result<(), EvaluatorError> {
        self.checkpoint_before(Behind::new())
    }

    fn checkpoint_before(&mut self, mut behind: Behind) -> Result<(), EvaluatorError> {
        let mut groups: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for group in self.shard.take_changed() {
            if let Some(Home::At(partition)) = self.homes.get(&group.symbol) {
                groups.entry(*partition).or_default().push(group);
            }
        }
        let (positions, revision, shard) = (self.positions(), self.revision, &self.shard);
        let mut checkpoints = Vec::new();
        for (partition, lane) in &mut self.lanes {
            let next_offset = positions[partition];
            let groups = groups.remove(partition).unwrap_or_default();
            let Due { released, handed_over } = behind.remove(partition).unwrap_or_default();
            let handed_over: Vec<HandedOver> =
                handed_over.into_iter().map(|binding| HandedOver { binding, saved: shard.saved(binding) }).collect();
            let now = (next_offset, revision);
            if groups.is_empty() && released.is_empty() && handed_over.is_empty() && lane.checkpointed == Some(now) {
                continue;
            }
            // What it releases changes no group before the next one: that must be written, and release nothing.
            lane.checkpointed = released.is_empty().then_some(now);
            let (partition, recovered) = (*partition, std::mem::take(&mut lane.recovered));
            checkpoints.push(Checkpoint { partition, next_offset, revision, recovered, released, handed_over, groups });
        }
        if checkpoints.is_empty() {
            return Ok(());
        }
        self.send(Handed::Events(Box::new(Commit { checkpoints, ..Commit::default() })))
    }

    /// Asks the bus again for as long as its brokers are away.
    pub(super) fn with_patience<T>(
        &mut self,
        mut ask: impl FnMut(&mut Self) -> Result<T, BusError>,
    ) -> Result<T, BusError> {
        loop {
            match ask(self) {
                Err(error) if error.passes() && !self.stop.is_cancelled() => {
                    warn!(%error, "evaluation waits for the bus");
                    std::thread::sleep(RETRY_WAIT);
                }
                other => return other,
            }
        }
    }
}
