//! What the bindings of a shard remember: snapshots of it, and moving it from one shard to another.

use super::{ArmError, Arming, Event, InstanceUse, Shard};
use crate::domain::{AlertId, BindingId, Lifecycle};
use crate::group::Binding;
use crate::snapshot::{GroupSnapshot, SavedBinding};

impl Shard {
    /// Returns what an armed binding remembers.
    pub fn saved(&self, binding: BindingId) -> Option<SavedBinding> {
        let location = self.locations.get(&binding)?;
        let group = &self.groups[location.group];
        let pace = group.paces.get(&binding).copied();
        let Some(slot) = location.slot() else {
            let quarantined = group.quarantined(binding)?;
            let state = quarantined.state.clone();
            return Some(SavedBinding { binding, health: quarantined.health, pace, state });
        };
        let state = group.table.state(&self.instances[group.instance], slot).to_vec();
        Some(SavedBinding { binding, health: group.health(slot), pace, state })
    }

    /// Returns snapshots of all groups that changed since the last call.
    ///
    /// A binding without state that never faulted and has not fired lately has nothing to remember. A group of such
    /// bindings has a snapshot only to replace an earlier one that was not empty.
    pub fn take_changed(&mut self) -> Vec<GroupSnapshot> {
        let mut snapshots = Vec::new();
        for instance in self.instances.iter_mut() {
            instance.free_unused();
        }
        for group in self.groups.iter_mut() {
            if !std::mem::take(&mut group.changed) {
                continue;
            }
            let instance = &self.instances[group.instance];
            if group.table.state_bytes == 0 && group.has_states_only() && !std::mem::take(&mut group.recorded) {
                continue;
            }
            let records = group.records(instance).filter_map(|record| group.remembered(&record));
            let digest = instance.rule().reference().digest;
            let snapshot = GroupSnapshot::pack(group.tenant.clone(), group.symbol.clone(), digest, records);
            group.recorded = !snapshot.bytes.is_empty();
            snapshots.push(snapshot);
        }
        snapshots
    }

    /// Arms all bindings of another shard, with what they remember, and adds what they have cost. Returns the alerts whose
    /// bindings could not be armed, with the reasons. Takes rule versions out of service of which enough bindings are impure
    /// now, and appends that to `events`.
    pub fn absorb(&mut self, other: &Shard, events: &mut Vec<Event>) -> Vec<(AlertId, ArmError)> {
        for (binding, count) in &other.suppressed {
            *self.suppressed.entry(*binding).or_default() += count;
        }
        let mut failed = Vec::new();
        for group in other.groups.iter() {
            let instance = &other.instances[group.instance];
            for record in group.records(instance) {
                let Binding { id: binding, alert, repeat } = *record.binding;
                let pace = group.paces.get(&binding).copied();
                let armed = self.arm(Arming {
                    binding,
                    alert,
                    tenant: group.tenant.clone(),
                    symbol: group.symbol.clone(),
                    rule: instance.rule().clone(),
                    params: record.params.to_vec(),
                    lifecycle: Lifecycle { repeat },
                    saved: Some(SavedBinding { binding, health: record.health, pace, state: record.state.to_vec() }),
                });
                failed.extend(armed.err().map(|error| (alert, error)));
            }
        }
        for used in other.usage() {
            match self.instance_of.get(&(used.tenant.clone(), used.rule.digest)) {
                Some(InstanceUse { instance, .. }) => self.instances[*instance].usage += used.usage,
                None => self.remember_usage(used),
            }
        }
        for (rule, impurity) in other.found_impure.values() {
            self.found_impure(rule.clone(), impurity.clone(), events);
        }
        failed
    }
}
