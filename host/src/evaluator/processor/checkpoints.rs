//! Checkpoints: what partitions remember at an offset.

use std::collections::BTreeMap;

use tocsin_engine::GroupSnapshot;
use tocsin_engine::domain::BindingId;
use tocsin_store::{Checkpoint, Handoff};

use super::pending::{Actions, ActionsOf};
use super::{Output, Processor};

impl Processor {
    /// Returns checkpoints of all partitions that have changed since their last one.
    pub(super) fn checkpoint(&mut self, outputs: &mut Vec<Output>) {
        self.checkpoint_before(Actions::new(), outputs);
    }

    /// Returns checkpoints that name what is done right after them.
    pub(super) fn checkpoint_before(&mut self, mut actions: Actions, outputs: &mut Vec<Output>) {
        debug_assert!(self.rereads.is_empty(), "rereads come before checkpoints");
        let mut groups = self.take_changed_groups();
        let mut suppressed = self.take_suppressed(outputs);
        let mut checkpoints = Vec::new();
        for (number, partition) in &mut self.partitions {
            let groups = groups.remove(number).unwrap_or_default();
            let suppressed = suppressed.remove(number).unwrap_or_default();
            let ActionsOf { unquarantine, hand_off } = actions.remove(number).unwrap_or_default();
            let now = (partition.next_offset, self.revision);
            let is_same = partition.checkpointed == Some(now);
            if is_same && groups.is_empty() && unquarantine.is_empty() && hand_off.is_empty() {
                continue;
            }
            // An unquarantine changes no group before the next checkpoint: that one must be written, and name none.
            partition.checkpointed = unquarantine.is_empty().then_some(now);
            let handoffs = hand_off.into_iter().map(|request| Handoff {
                binding: request.binding,
                armed_revision: request.armed_revision,
                saved: self.shard.saved(request.binding),
            });
            checkpoints.push(Checkpoint {
                partition: *number,
                next_offset: partition.next_offset,
                revision: self.revision,
                recovered: std::mem::take(&mut partition.recovered),
                unquarantined: unquarantine,
                handoffs: handoffs.collect(),
                suppressed,
                groups,
            });
        }
        if !checkpoints.is_empty() {
            outputs.push(Output::Checkpoints(checkpoints));
        }
    }

    fn take_changed_groups(&mut self) -> BTreeMap<u32, Vec<GroupSnapshot>> {
        let mut groups: BTreeMap<u32, Vec<GroupSnapshot>> = BTreeMap::new();
        for group in self.shard.take_changed() {
            if let Some(partition) = self.partition_of(&group.symbol) {
                groups.entry(partition).or_default().push(group);
            }
        }
        groups
    }

    fn take_suppressed(&mut self, outputs: &mut Vec<Output>) -> BTreeMap<u32, Vec<(BindingId, u64)>> {
        let mut suppressed: BTreeMap<u32, Vec<(BindingId, u64)>> = BTreeMap::new();
        for (binding, firings) in self.shard.take_suppressed() {
            if let Some(alert) = self.shard.alert_of(binding) {
                outputs.push(Output::Suppressed { alert, firings });
            }
            if let Some(partition) = self.shard.symbol_of(binding).and_then(|symbol| self.partition_of(symbol)) {
                suppressed.entry(partition).or_default().push((binding, firings));
            }
        }
        suppressed
    }
}
