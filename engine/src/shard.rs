//! A shard: all groups of the partitions that one thread owns, and their states. Nothing here is shared, nothing takes
//! a lock.
//!
//! A shard is fed the ticks of its partitions in order. It applies the lifecycle: a binding that may fire once is gone
//! after it fired. One that faults too often is quarantined, and tried again after a number of ticks.
//!
//! Groups that have much to do on a tick take turns, one step each, so that no rule makes the others wait for all of its
//! bindings; between two steps the caller may look at what else is due.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::ControlFlow;

use crate::domain::{
    AlertId, BindingId, Digest, Firing, FiringId, Lifecycle, Position, Repeat, RuleRef, Symbol, Tenant, Tick,
};
use crate::evaluate::{EvaluateError, Outcome, Round, Scratch, Waking, Work};
use crate::fault::{Fault, FaultBundle};
use crate::group::{Group, Parked, Slot};
use crate::health::Health;
use crate::instance::{Instance, MemoryError};
use crate::limits::{FIRINGS_AT_ONCE, FUEL_PER_CALL, FUEL_PER_EVALUATION, IMPURE_BINDINGS, IMPURE_SHARE};
use crate::purity::{Audit, Impurity};
use crate::runtime::Rule;
use crate::slab::Slab;
use crate::snapshot::{GroupSnapshot, SavedBinding};
use crate::usage::{RuleUsage, Watch};

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
    /// The rule that decides when it fires.
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
        /// Its lifecycle says once: it is not evaluated again.
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
        /// It faulted too often, or is impure: it is not evaluated until it is tried again, or unquarantined.
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
    /// A rule version gave two answers to the same question, for several bindings. All of its bindings are disarmed.
    Impure {
        /// The rule version.
        rule: RuleRef,
        /// What differed.
        impurity: Impurity,
    },
}

/// How a shard evaluates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvaluationOptions {
    /// Which bindings are evaluated on a tick.
    pub waking: Waking,
    /// One call of so many is audited for purity, beside all that fire; none if 0.
    pub audit_every_calls: u32,
    /// Firings of one binding that may follow each other at once; then one for each
    /// [`FIRING_INTERVAL_MS`](crate::limits::FIRING_INTERVAL_MS) of event time.
    pub firings_at_once: u32,
}

impl Default for EvaluationOptions {
    fn default() -> Self {
        Self { waking: Waking::default(), audit_every_calls: 0, firings_at_once: FIRINGS_AT_ONCE }
    }
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
pub struct Shard {
    instances: Slab<Instance>,
    /// The instance of each rule and tenant, and how many groups it has.
    instance_of: HashMap<(Tenant, Digest), (usize, usize)>,
    groups: Slab<Group>,
    symbols: HashMap<Symbol, usize>,
    /// The groups of each symbol.
    groups_of: Slab<Vec<usize>>,
    places: HashMap<BindingId, Place>,
    watch: Watch,
    /// Firings that were not recorded since [`Self::take_suppressed`].
    suppressed: BTreeMap<BindingId, u64>,
    /// The groups of the symbol that is being evaluated.
    keys: Vec<usize>,
    /// The instance that is being evaluated, kept while a panic unwinds.
    in_call: Option<usize>,
    /// Whether it takes rule versions out of service.
    decides_on_rules: bool,
    waking: Waking,
    firings_at_once: u32,
    audit: Audit,
    scratch: Scratch,
}

impl Default for Shard {
    fn default() -> Self {
        Self::new(EvaluationOptions::default())
    }
}

impl Shard {
    /// A shard without bindings.
    pub fn new(options: EvaluationOptions) -> Self {
        let EvaluationOptions { waking, audit_every_calls, firings_at_once } = options;
        Self {
            instances: Slab::default(),
            instance_of: HashMap::new(),
            groups: Slab::default(),
            symbols: HashMap::new(),
            groups_of: Slab::default(),
            places: HashMap::new(),
            watch: Watch::default(),
            suppressed: BTreeMap::new(),
            keys: Vec::new(),
            in_call: None,
            decides_on_rules: true,
            waking,
            firings_at_once,
            audit: Audit::every(audit_every_calls),
            scratch: Scratch::default(),
        }
    }

    /// A shard for some bindings that are to catch up with another one: what it sees of a rule version is too little to
    /// speak against the version itself.
    pub fn for_catching_up(options: EvaluationOptions) -> Self {
        Self { decides_on_rules: false, ..Self::new(options) }
    }

    /// How many bindings are armed.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether no binding is armed.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// How many evaluations there were so far: bindings that slept on are not counted.
    pub fn evaluations(&self) -> u64 {
        self.scratch.evaluations
    }

    /// What each rule version has cost each of its tenants so far.
    pub fn usage(&self) -> impl Iterator<Item = RuleUsage> + '_ {
        self.instance_of.iter().map(|((tenant, _), (instance, _))| {
            let instance = &self.instances[*instance];
            RuleUsage { rule: instance.rule().reference().clone(), tenant: tenant.clone(), usage: instance.usage }
        })
    }

    /// How many firings of each binding were not recorded, because it fired too often, since the last call of this.
    pub fn take_suppressed(&mut self) -> BTreeMap<BindingId, u64> {
        std::mem::take(&mut self.suppressed)
    }

    /// All memory of each instance, in the order in which they were made: for tests that look for stray writes.
    pub fn memories(&self) -> impl Iterator<Item = &[u8]> {
        self.instances.iter().map(Instance::memory)
    }

    /// The params record of an armed binding, as it is kept now.
    pub fn params(&self, binding: BindingId) -> Option<Vec<u8>> {
        let place = self.places.get(&binding)?;
        let group = &self.groups[place.group as usize];
        if place.slot == PARKED {
            return group.parked(binding).map(|parked| parked.params.clone());
        }
        Some(group.table.params(&self.instances[group.instance], place.slot as usize).to_vec())
    }

    /// The alert of an armed binding.
    pub fn alert_of(&self, binding: BindingId) -> Option<AlertId> {
        let place = self.places.get(&binding)?;
        let group = &self.groups[place.group as usize];
        if place.slot == PARKED {
            return group.parked(binding).map(|parked| parked.slot.alert);
        }
        Some(group.slots[place.slot as usize].alert)
    }

    /// The symbol of an armed binding.
    pub fn symbol_of(&self, binding: BindingId) -> Option<&Symbol> {
        self.places.get(&binding).map(|place| &self.groups[place.group as usize].symbol)
    }

    /// The rule version that was being evaluated when a call of this shard panicked; the shard must not be used any more.
    pub fn evaluated_in_panic(&self) -> Option<RuleRef> {
        self.in_call.map(|instance| self.instances[instance].rule().reference().clone())
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
        let slot = Slot { binding: arming.binding, alert: arming.alert, repeat: arming.lifecycle.repeat };
        if let Some(pace) = arming.saved.as_ref().and_then(|saved| saved.pace) {
            group.paces.insert(arming.binding, pace);
        }
        let pushed = match arming.saved {
            Some(SavedBinding { health, state, .. }) if health.is_quarantined() => {
                group.parked.push(Parked { slot, params: arming.params, state, health });
                group.changed = true;
                Ok(PARKED as usize)
            }
            saved => {
                let health = saved.as_ref().map_or(Health::default(), |saved| saved.health);
                let state = saved.as_ref().map(|saved| saved.state.as_slice());
                group.push(&mut self.instances[group.instance], slot, &arming.params, state, health)
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
        group.paces.remove(&binding);
        if place.slot == PARKED {
            group.parked.retain(|parked| parked.slot.binding != binding);
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
        let (_, slot) = group.probe(&mut self.instances[group.instance], binding)?;
        self.places.insert(binding, Place::new(key, slot));
        Ok(true)
    }

    /// Evaluates one tick, which lies at `position`, and appends what happened to `events`.
    pub fn evaluate(&mut self, tick: &Tick, position: Position, events: &mut Vec<Event>) -> Result<(), EvaluateError> {
        self.evaluate_in_turns(tick, position, events, &mut |_| ControlFlow::Continue(()))
    }

    /// The same for a caller with other things to do: `between` is called between two steps of a long evaluation, with the
    /// events so far, which it may take. If it breaks off, the states are those of no offset, and the shard must not be used
    /// any more.
    pub fn evaluate_in_turns(
        &mut self,
        tick: &Tick,
        position: Position,
        events: &mut Vec<Event>,
        between: &mut impl FnMut(&mut Vec<Event>) -> ControlFlow<()>,
    ) -> Result<(), EvaluateError> {
        let Some(symbol) = self.symbols.get(&tick.symbol).copied() else { return Ok(()) };
        let mut unfinished = VecDeque::new();
        let mut keys = std::mem::take(&mut self.keys);
        keys.clone_from(&self.groups_of[symbol]);
        let walked = self.first_steps(&keys, tick, position, events, between, &mut unfinished);
        self.keys = keys;
        walked?;
        while let Some((key, mut work)) = unfinished.pop_front() {
            if between(events).is_break() {
                return Err(EvaluateError::Interrupted);
            }
            // Its rule may have been found impure meanwhile.
            if !self.groups.contains(key) || self.turn(key, tick, position, &mut work, events)? {
                work.end(&mut self.scratch);
            } else {
                unfinished.push_back((key, work));
            }
        }
        Ok(())
    }

    /// The first turn of each group; those that are not done are put into `unfinished`.
    fn first_steps(
        &mut self,
        keys: &[usize],
        tick: &Tick,
        position: Position,
        events: &mut Vec<Event>,
        between: &mut impl FnMut(&mut Vec<Event>) -> ControlFlow<()>,
        unfinished: &mut VecDeque<(usize, Work)>,
    ) -> Result<(), EvaluateError> {
        let mut fuel = self.scratch.fuel;
        for key in keys.iter().rev().copied() {
            // It may have come to an end on this tick: its rule was found impure.
            if !self.groups.contains(key) {
                continue;
            }
            let Some(mut work) = self.begin(key, tick)? else { continue };
            if self.turn(key, tick, position, &mut work, events)? {
                work.end(&mut self.scratch);
            } else {
                unfinished.push_back((key, work));
            }
            if self.scratch.fuel - fuel >= FUEL_PER_CALL {
                fuel = self.scratch.fuel;
                if between(events).is_break() {
                    return Err(EvaluateError::Interrupted);
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, key: usize, tick: &Tick) -> Result<Option<Work>, EvaluateError> {
        let group = &mut self.groups[key];
        self.in_call = Some(group.instance);
        let instance = &mut self.instances[group.instance];
        if !group.parked.is_empty() {
            for (binding, slot) in group.count_waiting(instance)? {
                self.places.insert(binding, Place::new(key, slot));
            }
        }
        let mut round = Round {
            tick,
            waking: self.waking,
            firings_at_once: self.firings_at_once,
            audit: &mut self.audit,
            scratch: &mut self.scratch,
        };
        let work = group.begin(instance, &mut round);
        self.in_call = None;
        Ok(work)
    }

    /// A turn of a group: one step, and more while they are cheap. True if its work is done.
    fn turn(
        &mut self,
        key: usize,
        tick: &Tick,
        position: Position,
        work: &mut Work,
        events: &mut Vec<Event>,
    ) -> Result<bool, EvaluateError> {
        let fuel = self.scratch.fuel;
        loop {
            let is_done = self.step(key, tick, position, work, events)?;
            if is_done || self.scratch.fuel - fuel >= FUEL_PER_EVALUATION {
                return Ok(is_done);
            }
        }
    }

    /// One step of a group's work. True if that was the last one: then what came of it is settled.
    fn step(
        &mut self,
        key: usize,
        tick: &Tick,
        position: Position,
        work: &mut Work,
        events: &mut Vec<Event>,
    ) -> Result<bool, EvaluateError> {
        let group = &mut self.groups[key];
        let instance = &mut self.instances[group.instance];
        self.in_call = Some(group.instance);
        #[cfg(feature = "failpoints")]
        crate::failpoint::panic_on(&instance.rule().reference().name);
        let started = self.watch.start(&instance.usage);
        let fuel_before = self.scratch.fuel;
        let evaluated = work.evaluated();
        let mut round = Round {
            tick,
            waking: self.waking,
            firings_at_once: self.firings_at_once,
            audit: &mut self.audit,
            scratch: &mut self.scratch,
        };
        let stepped = group.step(instance, &mut round, work);
        instance.usage.count(work.evaluated() - evaluated, self.scratch.fuel - fuel_before, started);
        stepped?;
        if work.is_done() && !work.outcomes.is_empty() {
            self.settle(key, tick, position, work, events);
        }
        self.in_call = None;
        Ok(work.is_done())
    }

    /// Makes events of what evaluating a group came to, and takes those bindings away that have come to an end.
    fn settle(&mut self, key: usize, tick: &Tick, position: Position, work: &mut Work, events: &mut Vec<Event>) {
        let group = &self.groups[key];
        let rule = self.instances[group.instance].rule().reference().clone();
        let usage = &mut self.instances[group.instance].usage;
        let mut fired = Vec::new();
        let mut quarantined = Vec::new();
        let mut impurity = None;
        for (slot, outcome) in work.outcomes.drain(..) {
            let slot = &group.slots[slot];
            usage.count_outcome(&outcome);
            let Some(event) = event(group, slot, &rule, tick, position, outcome) else {
                *self.suppressed.entry(slot.binding).or_default() += 1;
                continue;
            };
            match &event {
                Event::Fired { last: true, .. } => fired.push(slot.binding),
                Event::Faulted { quarantined: true, fault, .. } => {
                    quarantined.push(slot.binding);
                    if let Fault::Impure(differed) = fault {
                        impurity = Some(Impurity { differed: differed.clone() });
                    }
                }
                _ => {}
            }
            events.push(event);
        }
        for binding in quarantined {
            let group = &mut self.groups[key];
            let place = self.places.insert(binding, Place { slot: PARKED, group: key as u32 });
            let slot = place.expect("what was evaluated is armed").slot;
            if let Some(moved) = group.park(&mut self.instances[group.instance], slot as usize) {
                self.places.insert(moved, Place { slot, group: key as u32 });
            }
        }
        for binding in fired {
            self.disarm(binding);
        }
        if let Some(impurity) = impurity.filter(|_| self.is_impure(&rule.digest)) {
            self.disarm_rule(&rule.digest);
            events.push(Event::Impure { rule, impurity });
        }
    }

    /// Whether enough bindings of a rule version are in quarantine as impure to speak against the version itself. Those that
    /// are deleted count no more, and those of before a restart do.
    fn is_impure(&self, rule: &Digest) -> bool {
        let is_of_rule = |group: &&Group| self.instances[group.instance].rule().reference().digest == *rule;
        let groups = || self.groups.iter().filter(is_of_rule);
        let found: usize = groups().map(Group::condemned).sum();
        let armed: usize = groups().map(Group::len).sum();
        self.decides_on_rules && found >= IMPURE_BINDINGS && found * IMPURE_SHARE >= armed
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
        let pace = group.paces.get(&binding).copied();
        if place.slot == PARKED {
            let parked = group.parked(binding)?;
            let (health, state) = (parked.health, parked.state.clone());
            return Some(SavedBinding { binding, health, pace, state });
        }
        let state = group.table.state(&self.instances[group.instance], slot).to_vec();
        Some(SavedBinding { binding, health: group.health(slot), pace, state })
    }

    /// Snapshots of all groups that changed since the last call. A binding without state that never faulted and did not fire
    /// again and again has nothing to remember; nor has a group of such.
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

    /// Takes over all bindings of another shard, with their states. Returns the alerts of those that there was no memory for.
    pub fn absorb(&mut self, other: &Shard) -> Vec<(AlertId, ArmError)> {
        for (binding, count) in &other.suppressed {
            *self.suppressed.entry(*binding).or_default() += count;
        }
        let mut left = Vec::new();
        for group in other.groups.iter() {
            let instance = &other.instances[group.instance];
            for record in group.records(instance) {
                let Slot { binding, alert, repeat } = *record.slot;
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
                left.extend(armed.err().map(|error| (alert, error)));
            }
        }
        left
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

/// What is reported of an outcome; nothing of a firing that is not recorded.
fn event(
    group: &Group,
    slot: &Slot,
    rule: &RuleRef,
    tick: &Tick,
    position: Position,
    outcome: Outcome,
) -> Option<Event> {
    let Slot { binding, alert, repeat } = *slot;
    let event = match outcome {
        Outcome::Suppressed => return None,
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
    };
    Some(event)
}
