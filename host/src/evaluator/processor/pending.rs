//! What is done to bindings right after a checkpoint that names it: they are unquarantined, or handed off to a promotion.
//!
//! An unquarantine waits until its binding is armed: it may have crossed a handoff, after which the binding comes back. Once
//! the binding has fired for the last time or was deleted, or its rule version is out of service, nothing waits for it. The
//! handoff of a binding that is not armed hands nothing off.

use std::collections::{BTreeMap, HashSet};

use tocsin_engine::domain::{BindingId, Digest};

use super::{Output, Processor};
use crate::evaluator::EvaluatorError;
use crate::evaluator::changes::{HandoffRequest, Unquarantine};

/// What is to be done to bindings of a partition.
pub(super) struct Pending {
    /// Bindings that are to be unquarantined, each with its rule version.
    unquarantine: BTreeMap<BindingId, Digest>,
    /// Bindings that are to be handed off, each with the change by which evaluators began with it.
    handoffs: BTreeMap<BindingId, u64>,
    /// How many unquarantines wait since their bindings are not armed, as was reported last.
    reported: usize,
}

/// What is done right after a checkpoint, by partition.
pub(super) type Actions = BTreeMap<u32, ActionsOf>;

/// What is done to bindings of one partition right after a checkpoint.
#[derive(Default)]
pub(super) struct ActionsOf {
    pub(super) unquarantine: Vec<BindingId>,
    pub(super) hand_off: Vec<HandoffRequest>,
}

impl Pending {
    pub(super) fn new(unquarantine: &[Unquarantine], handoffs: &[HandoffRequest]) -> Self {
        let unquarantine = unquarantine.iter().map(|due| (due.binding, due.rule));
        let handoffs = handoffs.iter().map(|request| (request.binding, request.armed_revision));
        Self { unquarantine: unquarantine.collect(), handoffs: handoffs.collect(), reported: 0 }
    }

    pub(super) fn unquarantine(&mut self, due: Unquarantine) {
        self.unquarantine.insert(due.binding, due.rule);
    }

    pub(super) fn hand_off(&mut self, request: HandoffRequest) {
        self.handoffs.insert(request.binding, request.armed_revision);
    }

    /// Takes a request to hand a binding off back.
    pub(super) fn keep(&mut self, binding: BindingId) {
        self.handoffs.remove(&binding);
    }

    /// Removes all that was to be done to a binding.
    pub(super) fn forget(&mut self, binding: BindingId) {
        self.keep(binding);
        self.unquarantine.remove(&binding);
    }

    /// Removes unquarantines of bindings on a rule version that is out of service: none of them is armed again.
    pub(super) fn forget_rule(&mut self, rule: &Digest) {
        self.unquarantine.retain(|_, of_binding| of_binding != rule);
    }

    /// Whether there is neither anything to be done nor anything to be reported.
    fn is_idle(&self) -> bool {
        self.unquarantine.is_empty() && self.handoffs.is_empty() && self.reported == 0
    }
}

impl Processor {
    /// Whether [`Input::ApplyPending`](super::Input::ApplyPending) may have an effect.
    pub(in crate::evaluator) fn has_pending(&self) -> bool {
        self.partitions.values().any(|partition| !partition.pending.is_idle())
    }

    /// Unquarantines bindings and hands them off where that can be done now, right after a checkpoint that says so.
    pub(super) fn apply_pending(&mut self, outputs: &mut Vec<Output>) -> Result<(), EvaluatorError> {
        let actions = self.take_actions(outputs);
        let unquarantined: Vec<BindingId> = actions.values().flat_map(|of| of.unquarantine.iter().copied()).collect();
        let handed_off: HashSet<BindingId> =
            actions.values().flat_map(|of| &of.hand_off).map(|request| request.binding).collect();
        if unquarantined.is_empty() && handed_off.is_empty() {
            return Ok(());
        }
        self.checkpoint_before(actions, outputs);
        for binding in unquarantined {
            self.unquarantine(binding)?;
        }
        for binding in &handed_off {
            self.shard.disarm(*binding);
        }
        self.forget_waiting(|arming| handed_off.contains(&arming.binding));
        Ok(())
    }

    /// Returns what can be done now: nothing on partitions whose records may have been evaluated by an earlier worker.
    fn take_actions(&mut self, outputs: &mut Vec<Output>) -> Actions {
        let shard = &self.shard;
        let mut actions = Actions::new();
        for (number, partition) in &mut self.partitions {
            if partition.next_offset < partition.replay_until {
                continue;
            }
            let unquarantine = partition.pending.unquarantine.extract_if(.., |binding, _| shard.holds(*binding));
            let unquarantine = unquarantine.map(|(binding, _)| binding).collect();
            let handoffs = std::mem::take(&mut partition.pending.handoffs);
            let not_begun: HashSet<BindingId> = match handoffs.is_empty() {
                true => HashSet::new(),
                false => partition.waiting.values().flatten().map(|arming| arming.binding).collect(),
            };
            let (hand_off, missing): (Vec<HandoffRequest>, Vec<HandoffRequest>) = handoffs
                .into_iter()
                .map(|(binding, armed_revision)| HandoffRequest { binding, armed_revision })
                .partition(|request| shard.holds(request.binding) || not_begun.contains(&request.binding));
            let skipped = missing.into_iter().map(|request| request.binding);
            outputs.extend(skipped.map(|binding| Output::HandoffSkipped { partition: *number, binding }));
            let bindings = partition.pending.unquarantine.len();
            if std::mem::replace(&mut partition.pending.reported, bindings) != bindings {
                let first = partition.pending.unquarantine.keys().next().copied();
                outputs.push(Output::UnquarantineWaits { partition: *number, bindings, first });
            }
            actions.insert(*number, ActionsOf { unquarantine, hand_off });
        }
        actions
    }
}
