//! Arming and disarming bindings.

use std::collections::hash_map::Entry;

use super::{InstanceUse, Location, MAX_PAST_RULES, Shard};
use crate::domain::{AlertId, BindingId, Digest, Lifecycle, Symbol, Tenant};
use crate::group::{Binding, Group, Quarantined};
use crate::health::Health;
use crate::ids::GroupId;
use crate::instance::{Instance, MemoryError};
use crate::runtime::Rule;
use crate::snapshot::SavedBinding;
use crate::usage::RuleUsage;

/// A binding to be armed.
#[derive(Clone, Debug)]
pub struct Arming {
    /// The id of the binding.
    pub binding: BindingId,
    /// The id of its alert.
    pub alert: AlertId,
    /// The tenant of the alert.
    pub tenant: Tenant,
    /// The symbol whose ticks it is evaluated on.
    pub symbol: Symbol,
    /// The rule that decides when it fires.
    pub rule: Rule,
    /// The packed params record.
    pub params: Vec<u8>,
    /// What follows a fire verdict.
    pub lifecycle: Lifecycle,
    /// What it remembers; `None` for a new binding.
    pub saved: Option<SavedBinding>,
}

/// Why a binding could not be armed.
#[derive(Debug, thiserror::Error)]
pub enum ArmError {
    /// The params or the state are not of the size that the rule's manifest names.
    #[error("the {what} record has {got} bytes, but the rule's manifest says {expected}")]
    Size {
        /// `params` or `state`.
        what: &'static str,
        /// Bytes given.
        got: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// The rule's instance has no memory left.
    #[error("{0}")]
    Memory(String),
}

impl From<MemoryError> for ArmError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error.to_string())
    }
}

impl Shard {
    /// Arms a binding. Does nothing if it is armed already.
    ///
    /// # Errors
    /// Where a record is not of the size in the rule's manifest, or there is no memory for it.
    pub fn arm(&mut self, arming: Arming) -> Result<(), ArmError> {
        if self.holds(arming.binding) {
            return Ok(());
        }
        let manifest = arming.rule.manifest();
        check_size("params", arming.params.len(), manifest.params.packed_bytes())?;
        if let Some(saved) = &arming.saved {
            check_size("state", saved.state.len(), manifest.state_bytes)?;
        }
        let id = self.group_for(&arming)?;
        let group = &mut self.groups[id];
        group.recorded |= arming.saved.is_some();
        let binding = Binding { id: arming.binding, alert: arming.alert, repeat: arming.lifecycle.repeat };
        if let Some(pace) = arming.saved.as_ref().and_then(|saved| saved.pace) {
            group.paces.insert(arming.binding, pace);
        }
        let armed = match arming.saved {
            Some(SavedBinding { health, state, .. }) if health.is_quarantined() => {
                group.push_quarantined(Quarantined { binding, params: arming.params, state, health });
                Ok(Location::quarantined(id))
            }
            saved => {
                let health = saved.as_ref().map_or(Health::default(), |saved| saved.health);
                let state = saved.as_ref().map(|saved| saved.state.as_slice());
                let instance = &mut self.instances[group.instance];
                let pushed = group.push(instance, binding, &arming.params, state, health);
                pushed.map(|slot| Location::in_table(id, slot))
            }
        };
        match armed {
            Ok(location) => {
                self.locations.insert(arming.binding, location);
                Ok(())
            }
            Err(error) => {
                self.drop_if_empty(id);
                Err(error.into())
            }
        }
    }

    /// Disarms a binding. Returns false if it was not armed.
    pub fn disarm(&mut self, binding: BindingId) -> bool {
        let Some(location) = self.locations.remove(&binding) else { return false };
        let group = &mut self.groups[location.group];
        group.paces.remove(&binding);
        match location.slot() {
            Some(slot) => {
                if let Some(moved) = group.swap_remove(&mut self.instances[group.instance], slot) {
                    self.locations.insert(moved, location);
                }
            }
            None => {
                group.quarantine.retain(|quarantined| quarantined.binding.id != binding);
                group.changed = true;
            }
        }
        self.drop_if_empty(location.group);
        true
    }

    /// Disarms all bindings of a rule version.
    pub fn disarm_rule(&mut self, rule: &Digest) {
        let instances = &self.instances;
        let groups = self.groups.iter().filter(|group| instances[group.instance].rule().reference().digest == *rule);
        for binding in groups.flat_map(Group::binding_ids).collect::<Vec<_>>() {
            self.disarm(binding);
        }
    }

    /// Disarms all bindings on the symbols for which `chosen` returns true.
    pub fn disarm_symbols(&mut self, chosen: impl Fn(&Symbol) -> bool) {
        let groups = self.groups.iter().filter(|group| chosen(&group.symbol));
        for binding in groups.flat_map(Group::binding_ids).collect::<Vec<_>>() {
            self.disarm(binding);
        }
    }

    /// Takes a binding out of quarantine: it is evaluated again, on probe. Returns false if it is not quarantined.
    ///
    /// # Errors
    /// Where there is no memory for its records.
    pub fn unquarantine(&mut self, binding: BindingId) -> Result<bool, ArmError> {
        let Some(location) = self.locations.get_mut(&binding).filter(|location| location.slot().is_none()) else {
            return Ok(false);
        };
        let group = &mut self.groups[location.group];
        let slot = group.probe(&mut self.instances[group.instance], binding)?;
        *location = Location::in_table(location.group, slot);
        Ok(true)
    }

    /// Returns the group of a binding. Creates it for its first binding.
    fn group_for(&mut self, arming: &Arming) -> Result<GroupId, ArmError> {
        let digest = arming.rule.reference().digest;
        let used = match self.instance_of.entry((arming.tenant.clone(), digest)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let mut instance = Instance::new(&arming.rule)?;
                if let Some(past) = self.past_usage.remove(entry.key()) {
                    instance.usage = past.usage;
                }
                let instance = self.instances.insert(instance);
                entry.insert(InstanceUse { instance, groups: 0 })
            }
        };
        let symbol = *self.symbols.entry(arming.symbol.clone()).or_insert_with(|| self.groups_of.insert(Vec::new()));
        let of_symbol = &mut self.groups_of[symbol];
        if let Some(id) = of_symbol.iter().find(|id| self.groups[**id].instance == used.instance) {
            return Ok(*id);
        }
        used.groups += 1;
        let group = Group::new(arming.tenant.clone(), arming.symbol.clone(), used.instance, &arming.rule);
        let id = self.groups.insert(group);
        of_symbol.push(id);
        Ok(id)
    }

    /// Drops a group without bindings, and its instance if no other group uses it.
    fn drop_if_empty(&mut self, id: GroupId) {
        if !self.groups[id].is_empty() {
            return;
        }
        let mut group = self.groups.remove(id);
        group.table.release(&mut self.instances[group.instance]);
        // An empty list is kept, since a symbol that was watched once is likely to be watched again.
        let symbol = self.symbols[&group.symbol];
        self.groups_of[symbol].retain(|other| *other != id);
        let digest = self.instances[group.instance].rule().reference().digest;
        if let Entry::Occupied(mut entry) = self.instance_of.entry((group.tenant, digest)) {
            entry.get_mut().groups -= 1;
            if entry.get().groups == 0 {
                let ((tenant, _), _) = entry.remove_entry();
                let used = self.instances.remove(group.instance).rule_usage(&tenant);
                self.remember_usage(used);
            }
        }
    }

    /// Adds what a rule version has cost that no binding is on any more.
    pub(super) fn remember_usage(&mut self, used: RuleUsage) {
        if used.usage.evaluations == 0 {
            return;
        }
        match self.past_usage.entry((used.tenant.clone(), used.rule.digest)) {
            Entry::Occupied(mut entry) => entry.get_mut().usage += used.usage,
            Entry::Vacant(entry) => _ = entry.insert(used),
        }
        if self.past_usage.len() > MAX_PAST_RULES {
            let cheapest = self.past_usage.iter().min_by_key(|(_, used)| (used.usage.time, used.usage.evaluations));
            if let Some(key) = cheapest.map(|(key, _)| key.clone()) {
                self.past_usage.remove(&key);
            }
        }
    }
}

fn check_size(what: &'static str, got: usize, expected: usize) -> Result<(), ArmError> {
    if got == expected { Ok(()) } else { Err(ArmError::Size { what, got, expected }) }
}
