//! A shard: all groups of the partitions that one thread owns, and their states. Nothing here is shared, nothing takes
//! a lock.
//!
//! A shard is fed the ticks of its partitions in order. It applies the lifecycle: a binding that may fire once is gone
//! after it fired, one that faulted too often is gone as well.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::domain::{AlertId, BindingId, Digest, Firing, FiringId, Lifecycle, Position, Repeat, Symbol, Tenant, Tick};
use crate::fault::Fault;
use crate::group::{Group, JudgeError, Member, Outcome};
use crate::instance::{Instance, MemoryError};
use crate::runtime::Rule;
use crate::snapshot::{GroupSnapshot, SavedBinding};

/// A binding as a shard takes it.
#[derive(Clone, Debug)]
pub struct Arming {
    /// The binding's number.
    pub binding: BindingId,
    /// Its alert.
    pub alert: AlertId,
    /// Who owns it.
    pub tenant: Tenant,
    /// What it watches.
    pub symbol: Symbol,
    /// The rule that judges it.
    pub rule: Rule,
    /// The packed params record.
    pub params: Vec<u8>,
    /// What follows a fire verdict.
    pub lifecycle: Lifecycle,
    /// What it remembered when it was last saved; None for a new one.
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
    /// The rule's instance has no room.
    #[error("{0}")]
    Memory(String),
}

impl From<MemoryError> for ArmError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error.to_string())
    }
}

/// What happened to a binding on a tick.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It fired.
    Fired {
        /// The firing.
        firing: Firing,
        /// Its lifecycle says once: it is judged no more.
        last: bool,
    },
    /// Its rule faulted; its state is as before the tick.
    Faulted {
        /// The alert.
        alert: AlertId,
        /// The binding.
        binding: BindingId,
        /// What went wrong.
        fault: Fault,
        /// It faulted too often in a row: it is judged no more.
        quarantined: bool,
    },
}

/// The groups of one thread's partitions.
#[derive(Default)]
pub struct Shard {
    instances: Slab<Instance>,
    /// The instance of each rule and tenant, and how many groups it has.
    instance_of: HashMap<(Tenant, Digest), (usize, usize)>,
    groups: Slab<Group>,
    groups_of: HashMap<Symbol, Vec<usize>>,
    /// The group and slot of each binding.
    places: HashMap<BindingId, (usize, usize)>,
    evaluations: u64,
    outcomes: Vec<(usize, Outcome)>,
}

impl Shard {
    /// A shard without bindings.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many bindings are armed.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether no binding is armed.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many verdicts were asked for so far.
    pub fn evaluations(&self) -> u64 {
        self.evaluations
    }

    /// Whether a binding is armed.
    pub fn holds(&self, binding: BindingId) -> bool {
        self.places.contains_key(&binding)
    }

    /// Arms a binding; one that is armed already is left as it is.
    pub fn arm(&mut self, arming: Arming) -> Result<(), ArmError> {
        if self.holds(arming.binding) {
            return Ok(());
        }
        let manifest = arming.rule.manifest();
        check_size("params", arming.params.len(), manifest.params.packed_bytes())?;
        if let Some(saved) = &arming.saved {
            check_size("state", saved.state.len(), manifest.state_bytes)?;
        }
        let key = self.group(&arming)?;
        let group = &mut self.groups[key];
        let (faults, state) = match &arming.saved {
            Some(saved) => (saved.faults, Some(saved.state.as_slice())),
            None => (0, None),
        };
        let member = Member { binding: arming.binding, alert: arming.alert, repeat: arming.lifecycle.repeat, faults };
        let pushed = group.push(&mut self.instances[group.instance], member, &arming.params, state);
        match pushed {
            Ok(slot) => {
                self.places.insert(arming.binding, (key, slot));
                Ok(())
            }
            Err(error) => {
                self.drop_if_empty(key);
                Err(error.into())
            }
        }
    }

    /// Disarms a binding; false if it was not armed.
    pub fn disarm(&mut self, binding: BindingId) -> bool {
        let Some((key, slot)) = self.places.remove(&binding) else { return false };
        let group = &mut self.groups[key];
        if let Some(moved) = group.swap_remove(&mut self.instances[group.instance], slot) {
            self.places.insert(moved, (key, slot));
        }
        self.drop_if_empty(key);
        true
    }

    /// Judges one tick, which lies at `position`, and appends what happened to `events`.
    pub fn judge(&mut self, tick: &Tick, position: Position, events: &mut Vec<Event>) -> Result<(), JudgeError> {
        let Some(keys) = self.groups_of.get(&tick.symbol).cloned() else { return Ok(()) };
        for key in keys {
            let mut outcomes = std::mem::take(&mut self.outcomes);
            let group = &mut self.groups[key];
            let instance = &mut self.instances[group.instance];
            self.evaluations += group.members.len() as u64;
            instance.set_tick(tick);
            let judged = group.judge(instance, &mut outcomes);
            let mut ended = Vec::new();
            for (slot, outcome) in outcomes.drain(..) {
                let member = &group.members[slot];
                let event = event(group, member, instance.rule(), tick, position, outcome);
                if let Event::Fired { last: true, .. } | Event::Faulted { quarantined: true, .. } = event {
                    ended.push(member.binding);
                }
                events.push(event);
            }
            self.outcomes = outcomes;
            judged?;
            for binding in ended {
                self.disarm(binding);
            }
        }
        Ok(())
    }

    /// The state of an armed binding.
    pub fn saved(&self, binding: BindingId) -> Option<SavedBinding> {
        let (key, slot) = *self.places.get(&binding)?;
        let group = &self.groups[key];
        let state = group.state(&self.instances[group.instance], slot).to_vec();
        Some(SavedBinding { binding, faults: group.members[slot].faults, state })
    }

    /// Snapshots of all groups whose states changed since the last call. A group of a rule without state whose
    /// bindings never faulted has nothing to remember and makes none.
    pub fn take_changed(&mut self) -> Vec<GroupSnapshot> {
        let mut snapshots = Vec::new();
        for group in self.groups.iter_mut() {
            if !std::mem::take(&mut group.changed) {
                continue;
            }
            if group.state_bytes() == 0 && group.members.iter().all(|member| member.faults == 0) {
                continue;
            }
            let instance = &self.instances[group.instance];
            let members = group.members.iter().enumerate();
            let records = members.map(|(slot, m)| (m.binding, m.faults, group.state(instance, slot)));
            let digest = instance.rule().reference().digest;
            snapshots.push(GroupSnapshot::pack(group.tenant.clone(), group.symbol.clone(), digest, records));
        }
        snapshots
    }

    /// Takes over all bindings of another shard, with their states.
    pub fn absorb(&mut self, other: &Shard) -> Result<(), ArmError> {
        for group in other.groups.iter() {
            let instance = &other.instances[group.instance];
            for (slot, member) in group.members.iter().enumerate() {
                let state = group.state(instance, slot).to_vec();
                self.arm(Arming {
                    binding: member.binding,
                    alert: member.alert,
                    tenant: group.tenant.clone(),
                    symbol: group.symbol.clone(),
                    rule: instance.rule().clone(),
                    params: group.params(instance, slot).to_vec(),
                    lifecycle: Lifecycle { repeat: member.repeat },
                    saved: Some(SavedBinding { binding: member.binding, faults: member.faults, state }),
                })?;
            }
        }
        Ok(())
    }

    /// The group that a binding belongs to, made if it is the first.
    fn group(&mut self, arming: &Arming) -> Result<usize, ArmError> {
        let digest = arming.rule.reference().digest;
        let (instance, groups) = match self.instance_of.entry((arming.tenant.clone(), digest)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert((self.instances.insert(Instance::new(&arming.rule)?), 0)),
        };
        let keys = self.groups_of.entry(arming.symbol.clone()).or_default();
        if let Some(key) = keys.iter().find(|key| self.groups[**key].instance == *instance) {
            return Ok(*key);
        }
        let group = Group::new(arming.tenant.clone(), arming.symbol.clone(), *instance, &arming.rule);
        *groups += 1;
        let key = self.groups.insert(group);
        keys.push(key);
        Ok(key)
    }

    /// Forgets a group without members, and its instance if that was its last.
    fn drop_if_empty(&mut self, key: usize) {
        if !self.groups[key].members.is_empty() {
            return;
        }
        let mut group = self.groups.remove(key);
        group.release(&mut self.instances[group.instance]);
        if let Some(keys) = self.groups_of.get_mut(&group.symbol) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.groups_of.remove(&group.symbol);
            }
        }
        let digest = self.instances[group.instance].rule().reference().digest;
        if let Entry::Occupied(mut entry) = self.instance_of.entry((group.tenant, digest)) {
            entry.get_mut().1 -= 1;
            if entry.get().1 == 0 {
                entry.remove();
                self.instances.remove(group.instance);
            }
        }
    }
}

fn check_size(what: &'static str, got: usize, expected: usize) -> Result<(), ArmError> {
    if got == expected { Ok(()) } else { Err(ArmError::Size { what, got, expected }) }
}

fn event(group: &Group, member: &Member, rule: &Rule, tick: &Tick, position: Position, outcome: Outcome) -> Event {
    match outcome {
        Outcome::Fired(evidence) => Event::Fired {
            firing: Firing {
                id: FiringId::derive(member.binding, position),
                tenant: group.tenant.clone(),
                alert: member.alert,
                binding: member.binding,
                tick: tick.clone(),
                position,
                rule: rule.reference().clone(),
                evidence,
            },
            last: member.repeat == Repeat::Once,
        },
        Outcome::Faulted { fault, quarantined } => {
            Event::Faulted { alert: member.alert, binding: member.binding, fault, quarantined }
        }
    }
}

/// Values under small stable keys.
struct Slab<T> {
    values: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { values: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    fn insert(&mut self, value: T) -> usize {
        match self.free.pop() {
            Some(key) => {
                self.values[key] = Some(value);
                key
            }
            None => {
                self.values.push(Some(value));
                self.values.len() - 1
            }
        }
    }

    fn remove(&mut self, key: usize) -> T {
        self.free.push(key);
        self.values[key].take().expect("a key is used until its value is removed")
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.values.iter().flatten()
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.values.iter_mut().flatten()
    }
}

impl<T> std::ops::Index<usize> for Slab<T> {
    type Output = T;

    fn index(&self, key: usize) -> &T {
        self.values[key].as_ref().expect("a key is used until its value is removed")
    }
}

impl<T> std::ops::IndexMut<usize> for Slab<T> {
    fn index_mut(&mut self, key: usize) -> &mut T {
        self.values[key].as_mut().expect("a key is used until its value is removed")
    }
}
