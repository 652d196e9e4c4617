//! What is done to bindings right behind a checkpoint that names it: bindings leave quarantine, or are handed over to
//! a promotion.
//!
//! Unquarantining waits for as long as its binding is not armed: it may have crossed a handover, after which the binding
//! comes back. What has fired for the last time or was deleted is waited for no more. A handover of a binding that is not armed
//! hands nothing over.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use tocsin_engine::domain::BindingId;
use tracing::warn;

use super::Worker;
use super::arming::release;
use crate::evaluator::{Asked, EvaluatorError};

/// What is to be done to bindings of a partition.
#[derive(Default)]
pub(super) struct Due {
    /// Bindings that are to leave quarantine.
    unquarantine: BTreeSet<BindingId>,
    /// Bindings that are to be handed over, each with the change by which evaluators began with it.
    handovers: BTreeMap<BindingId, u64>,
    /// How many of them wait since they are not armed, as was reported last.
    reported: usize,
}

/// What is done to bindings right behind a checkpoint, by partition.
pub(super) type Behind = BTreeMap<u32, DueNow>;

/// What is done to bindings of a partition right behind a checkpoint.
#[derive(Default)]
pub(super) struct DueNow {
    /// They leave quarantine.
    pub(super) released: Vec<BindingId>,
    /// They are handed over to the store.
    pub(super) handed_over: Vec<Asked>,
}

impl Due {
    pub(super) fn new(unquarantine: Vec<BindingId>, handovers: Vec<Asked>) -> Self {
        let handovers = handovers.into_iter().map(|asked| (asked.binding, asked.armed_revision));
        Self { unquarantine: unquarantine.into_iter().collect(), handovers: handovers.collect(), reported: 0 }
    }

    pub(super) fn unquarantine(&mut self, binding: BindingId) {
        self.unquarantine.insert(binding);
    }

    pub(super) fn hand_over(&mut self, asked: Asked) {
        self.handovers.insert(asked.binding, asked.armed_revision);
    }

    /// Hands a binding over no more.
    pub(super) fn keep(&mut self, binding: BindingId) {
        self.handovers.remove(&binding);
    }

    /// Does nothing to a binding any more.
    fn forget(&mut self, binding: BindingId) {
        self.keep(binding);
        self.unquarantine.remove(&binding);
    }

    fn bindings(&self) -> impl Iterator<Item = BindingId> {
        self.unquarantine.iter().chain(self.handovers.keys()).copied()
    }

    fn is_empty(&self) -> bool {
        self.unquarantine.is_empty() && self.handovers.is_empty()
    }
}

impl Worker {
    /// A binding has come to its end: nothing is to be done to it any more.
    pub(super) fn nothing_due(&mut self, binding: BindingId) {
        self.lanes.values_mut().for_each(|lane| lane.due.forget(binding));
    }

    /// Armed bindings to which something is to be done.
    pub(super) fn armed_and_due(&self) -> Vec<BindingId> {
        let due = self.lanes.values().flat_map(|lane| lane.due.bindings());
        due.filter(|binding| self.shard.holds(*binding)).collect()
    }

    /// Unquarantines and hands over where that is due, right behind a checkpoint that says so.
    pub(super) fn do_what_is_due(&mut self) -> Result<(), EvaluatorError> {
        if self.lanes.values().all(|lane| lane.due.is_empty() && lane.due.reported == 0) {
            return Ok(());
        }
        let behind = self.take_due();
        let released: Vec<BindingId> = behind.values().flat_map(|due| &due.released).copied().collect();
        let handed_over: HashSet<BindingId> =
            behind.values().flat_map(|due| &due.handed_over).map(|asked| asked.binding).collect();
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

    /// What can be done now: nothing on partitions where ticks are evaluated again that may have been before.
    fn take_due(&mut self) -> Behind {
        let (positions, shard) = (self.positions(), &self.shard);
        let mut behind = Behind::new();
        for (partition, lane) in &mut self.lanes {
            if positions[partition] < lane.replay_until {
                continue;
            }
            let (released, wait): (Vec<BindingId>, Vec<BindingId>) =
                std::mem::take(&mut lane.due.unquarantine).into_iter().partition(|id| shard.holds(*id));
            lane.due.unquarantine.extend(wait);
            let handovers = std::mem::take(&mut lane.due.handovers);
            let waiting: HashSet<BindingId> = match handovers.is_empty() {
                true => HashSet::new(),
                false => lane.waiting.values().flatten().map(|arming| arming.binding).collect(),
            };
            let (handed_over, missing): (Vec<Asked>, Vec<Asked>) = handovers
                .into_iter()
                .map(|(binding, armed_revision)| Asked { binding, armed_revision })
                .partition(|asked| shard.holds(asked.binding) || waiting.contains(&asked.binding));
            for Asked { binding, .. } in missing {
                warn!(
                    partition,
                    binding = binding.0,
                    "a promotion asks for a binding that is not armed here: nothing of it is handed over. It has been handed \
                     over before, has fired for the last time or was deleted; if none of that, the promotion waits until it \
                     is cancelled"
                );
            }
            let waits = lane.due.unquarantine.len();
            if std::mem::replace(&mut lane.due.reported, waits) != waits {
                self.stats.unquarantine_waits(*partition, waits);
                if let Some(binding) = lane.due.unquarantine.first() {
                    warn!(
                        partition,
                        waits,
                        binding = binding.0,
                        "bindings that are to leave quarantine are not armed; they leave it once they are"
                    );
                }
            }
            behind.insert(*partition, DueNow { released, handed_over });
        }
        behind
    }
}
