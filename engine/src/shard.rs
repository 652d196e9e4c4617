//! A shard: all groups of the partitions that one thread owns, and their states. Nothing here is shared, nothing takes
//! a lock.
//!
//! A shard is fed the ticks of its partitions in order. It applies the lifecycle: a binding that may fire once is gone
//! after it fired. One that faults too often is quarantined, and tried again after a number of ticks.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::domain::{
    AlertId, BindingId, Digest, Firing, FiringId, Lifecycle, Position, Repeat, RuleRef, Symbol, Tenant, Tick,
};
use crate::fault::{Fault, FaultBundle};
use crate::group::{Group, Member, Parked};
use crate::health::Health;
use crate::instance::{Instance, MemoryError};
use crate::judging::{Bench, JudgeError, Outcome, Waking};
use crate::limits::FUEL_PER_EVALUATION;
use crate::purity::{Audit, Impurity};
use crate::runtime::Rule;
use crate::slab::Slab;
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
        /// It faulted too often: it is not judged until it is tried again, or released.
        quarantined: bool,
        /// What it takes to see the fault again.
        bundle: Box<FaultBundle>,
    },
    /// It was quarantined, and was tried again with success.
    Recovered {
        /// The alert.
        alert: AlertId,
        /// The binding.
        binding: BindingId,
        /// Where the tick lay.
        position: Position,
    },
    /// A rule version gave two answers to the same question. All of its bindings are disarmed.
    Impure {
        /// The rule version.
        rule: RuleRef,
        /// What differed.
        impurity: Impurity,
    },
}

/// How a shard judges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judging {
    /// Whom a tick is put before.
    pub waking: Waking,
    /// One call of so many is audited for purity; none if 0.
    pub audit_every_calls: u32,
}

/// Where a binding is.
#[derive(Clone, Copy)]
struct Place {
    group: u32,
    /// Its slot, or [`PARKED`].
    slot: u32,
}

/// The slot of a binding that is quarantined.
const PARKED: u32 = u32::MAX;

impl Place {
    fn new(group: usize, slot: usize) -> Self {
        Self { group: group as u32, slot: slot as u32 }
    }
}

/// The groups of one thread's partitions.
#[derive(Default)]
pub struct Shard {
    instances: Slab<Instance>,
    /// The instance of each rule and tenant, and how many groups it has.
    instance_of: HashMap<(Tenant, Digest), (usize, usize)>,
    groups: Slab<Group>,
    symbols: HashMap<Symbol, usize>,
    /// The groups of each symbol.
    groups_of: Slab<Vec<usize>>,
    places: HashMap<BindingId, Place>,
    waking: Waking,
    audit: Audit,
    bench: Bench,
}

impl Shard {
    /// A shard without bindings.
    pub fn new(judging: Judging) -> Self {
        Self { waking: judging.waking, audit: Audit::every(judging.audit_every_calls), ..Self::default() }
    }

    /// How many bindings are armed.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether no binding is armed.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many verdicts were asked for so far: bindings that slept on are not counted.
    pub fn evaluations(&self) -> u64 {
        self.bench.evaluations
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
        group.recorded |= arming.saved.is_some();
        let member = Member { binding: arming.binding, alert: arming.alert, repeat: arming.lifecycle.repeat };
        let pushed = match arming.saved {
            Some(SavedBinding { health, state, .. }) if health.is_quarantined() => {
                group.parked.push(Parked { member, params: arming.params, state, health });
                group.changed = true;
                Ok(PARKED as usize)
            }
            saved => {
                let health = saved.as_ref().map_or(Health::default(), |saved| saved.health);
                let state = saved.as_ref().map(|saved| saved.state.as_slice());
                group.push(&mut self.instances[group.instance], member, &arming.params, state, health)
            }
        };
        match pushed {
            Ok(slot) => {
                self.places.insert(arming.binding, Place::new(key, slot));
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
        let Some(place) = self.places.remove(&binding) else { return false };
        let key = place.group as usize;
        let group = &mut self.groups[key];
        if place.slot == PARKED {
            group.parked.retain(|parked| parked.member.binding != binding);
            group.changed = true;
        } else if let Some(moved) = group.swap_remove(&mut self.instances[group.instance], place.slot as usize) {
            self.places.insert(moved, place);
        }
        self.drop_if_empty(key);
        true
    }

    /// Releases a quarantined binding: it is judged again, on probe. False if it is not quarantined.
    pub fn release(&mut self, binding: BindingId) -> Result<bool, ArmError> {
        let Some(place) = self.places.get(&binding).filter(|place| place.slot == PARKED) else { return Ok(false) };
        let key = place.group as usize;
        let group = &mut self.groups[key];
        let parked = group.parked.iter().position(|parked| parked.member.binding == binding);
        let parked = parked.expect("a binding is where its place says");
        let (_, slot) = group.release(&mut self.instances[group.instance], parked)?;
        self.places.insert(binding, Place::new(key, slot));
        Ok(true)
    }

    /// Judges one tick, which lies at `position`, and appends what happened to `events`.
    pub fn judge(&mut self, tick: &Tick, position: Position, events: &mut Vec<Event>) -> Result<(), JudgeError> {
        let Some(symbol) = self.symbols.get(&tick.symbol).copied() else { return Ok(()) };
        // Groups may come to an end while they are walked, but none is made: from the last to the first.
        for at in (0..self.groups_of[symbol].len()).rev() {
            let Some(key) = self.groups_of[symbol].get(at).copied() else { continue };
            let judged = self.judge_group(key, tick);
            if self.bench.has_news() {
                let mut bench = std::mem::take(&mut self.bench);
                self.settle(key, tick, position, &mut bench, events);
                self.bench = bench;
            }
            judged?;
        }
        Ok(())
    }

    fn judge_group(&mut self, key: usize, tick: &Tick) -> Result<(), JudgeError> {
        let group = &mut self.groups[key];
        let instance = &mut self.instances[group.instance];
        if !group.parked.is_empty() {
            for (binding, slot) in group.count_waiting(instance)? {
                self.places.insert(binding, Place::new(key, slot));
            }
        }
        group.judge(instance, tick, self.waking, &mut self.audit, &mut self.bench)
    }

    /// Makes events of what judging a group came to, and takes those bindings away that have come to an end.
    fn settle(&mut self, key: usize, tick: &Tick, position: Position, bench: &mut Bench, events: &mut Vec<Event>) {
        let group = &self.groups[key];
        let rule = self.instances[group.instance].rule().reference().clone();
        let mut fired = Vec::new();
        let mut quarantined = Vec::new();
        for (slot, outcome) in bench.outcomes.drain(..) {
            let member = &group.members[slot];
            let event = event(group, member, &rule, tick, position, outcome);
            match event {
                Event::Fired { last: true, .. } => fired.push(member.binding),
                Event::Faulted { quarantined: true, .. } => quarantined.push(member.binding),
                _ => {}
            }
            events.push(event);
        }
        for binding in quarantined {
            let group = &mut self.groups[key];
            let place = self.places.insert(binding, Place { slot: PARKED, group: key as u32 });
            let slot = place.expect("who was judged is armed").slot;
            if let Some(moved) = group.park(&mut self.instances[group.instance], slot as usize) {
                self.places.insert(moved, Place { slot, group: key as u32 });
            }
        }
        for binding in fired {
            self.disarm(binding);
        }
        if let Some(impurity) = bench.impurity.take() {
            self.disarm_rule(&rule.digest);
            events.push(Event::Impure { rule, impurity });
        }
    }

    /// Disarms all bindings of a rule version.
    pub fn disarm_rule(&mut self, rule: &Digest) {
        let instances = &self.instances;
        let groups = self.groups.iter().filter(|group| instances[group.instance].rule().reference().digest == *rule);
        for binding in groups.flat_map(Group::bindings).collect::<Vec<_>>() {
            self.disarm(binding);
        }
    }

    /// Disarms all bindings on symbols that are chosen.
    pub fn disarm_symbols(&mut self, chosen: impl Fn(&Symbol) -> bool) {
        let groups = self.groups.iter().filter(|group| chosen(&group.symbol));
        for binding in groups.flat_map(Group::bindings).collect::<Vec<_>>() {
            self.disarm(binding);
        }
    }

    /// What an armed binding remembers.
    pub fn saved(&self, binding: BindingId) -> Option<SavedBinding> {
        let place = self.places.get(&binding)?;
        let group = &self.groups[place.group as usize];
        let slot = place.slot as usize;
        if place.slot == PARKED {
            let parked = group.parked.iter().find(|parked| parked.member.binding == binding)?;
            return Some(SavedBinding { binding, health: parked.health, state: parked.state.clone() });
        }
        let state = group.table.state(&self.instances[group.instance], slot).to_vec();
        Some(SavedBinding { binding, health: group.health(slot), state })
    }

    /// Snapshots of all groups that changed since the last call. A binding without state that never faulted has nothing
    /// to remember; nor has a group of such.
    pub fn take_changed(&mut self) -> Vec<GroupSnapshot> {
        let mut snapshots = Vec::new();
        for group in self.groups.iter_mut() {
            if !std::mem::take(&mut group.changed) {
                continue;
            }
            let instance = &self.instances[group.instance];
            if group.table.state_bytes == 0 && group.all_clean() && !std::mem::take(&mut group.recorded) {
                continue;
            }
            let records =
                group.records(instance).filter(|record| !record.state.is_empty() || !record.health.is_clean());
            let records = records.map(|record| (record.member.binding, record.health, record.state));
            let digest = instance.rule().reference().digest;
            let snapshot = GroupSnapshot::pack(group.tenant.clone(), group.symbol.clone(), digest, records);
            group.recorded = !snapshot.bytes.is_empty();
            snapshots.push(snapshot);
        }
        snapshots
    }

    /// Takes over all bindings of another shard, with their states.
    pub fn absorb(&mut self, other: &Shard) -> Result<(), ArmError> {
        for group in other.groups.iter() {
            let instance = &other.instances[group.instance];
            for record in group.records(instance) {
                let Member { binding, alert, repeat } = *record.member;
                self.arm(Arming {
                    binding,
                    alert,
                    tenant: group.tenant.clone(),
                    symbol: group.symbol.clone(),
                    rule: instance.rule().clone(),
                    params: record.params.to_vec(),
                    lifecycle: Lifecycle { repeat },
                    saved: Some(SavedBinding { binding, health: record.health, state: record.state.to_vec() }),
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
        let symbol = *self.symbols.entry(arming.symbol.clone()).or_insert_with(|| self.groups_of.insert(Vec::new()));
        let keys = &mut self.groups_of[symbol];
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
        if !self.groups[key].is_empty() {
            return;
        }
        let mut group = self.groups.remove(key);
        group.table.release(&mut self.instances[group.instance]);
        // An empty list stays: a symbol that was watched once is watched again.
        let symbol = self.symbols[&group.symbol];
        self.groups_of[symbol].retain(|other| *other != key);
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

fn event(group: &Group, member: &Member, rule: &RuleRef, tick: &Tick, position: Position, outcome: Outcome) -> Event {
    let Member { binding, alert, repeat } = *member;
    match outcome {
        Outcome::Fired(evidence) => Event::Fired {
            firing: Firing {
                id: FiringId::derive(binding, position),
                tenant: group.tenant.clone(),
                alert,
                binding,
                tick: tick.clone(),
                position,
                rule: rule.clone(),
                evidence,
            },
            last: repeat == Repeat::Once,
        },
        Outcome::Faulted { fault, quarantined, params, state } => {
            let bundle = FaultBundle {
                rule: rule.clone(),
                tick: tick.clone(),
                position,
                params,
                state,
                fuel: FUEL_PER_EVALUATION,
                fault: fault.clone(),
            };
            Event::Faulted { alert, binding, fault, quarantined, bundle: Box::new(bundle) }
        }
        Outcome::Recovered => Event::Recovered { alert, binding, position },
    }
}
