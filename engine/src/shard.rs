//! A shard: the groups of the partitions that one thread owns, with the states of their bindings. Nothing in it is shared or
//! locked.
//!
//! A shard evaluates the ticks of its partitions in order and applies the lifecycle: a binding that may fire once is
//! disarmed after it fired, and one that faults too often is quarantined, and put on probe after a number of ticks.
//!
//! Groups with much work on a tick take turns of one step each, so that no rule delays the others until all of its bindings
//! are evaluated. Between two steps the caller may do other work.

mod arming;
mod event;
mod memory;
mod tick;

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::domain::{AlertId, BindingId, Digest, RuleRef, Symbol, Tenant};
use crate::evaluate::{Scratch, Waking, Work};
use crate::group::Group;
use crate::ids::{GroupId, InstanceId, Slot, SymbolId};
use crate::instance::Instance;
use crate::limits::FIRINGS_AT_ONCE;
use crate::purity::{Audit, Impurity};
use crate::slab::Slab;
use crate::usage::RuleUsage;

pub use arming::{ArmError, Arming};
pub use event::Event;

/// Rule versions without bindings whose usage is remembered.
const MAX_PAST_RULES: usize = 256;

/// How a shard evaluates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvaluationOptions {
    /// Which bindings are evaluated on a tick.
    pub waking: Waking,
    /// Calls of which one is audited for purity, on average; 0 for none. Firings are always audited.
    pub audit_every_calls: u32,
    /// Firings of one binding that are recorded in a burst. After a burst, one more is recorded for each
    /// [`FIRING_INTERVAL_MS`](crate::limits::FIRING_INTERVAL_MS) of event time.
    pub firings_at_once: u32,
}

impl Default for EvaluationOptions {
    fn default() -> Self {
        Self { waking: Waking::default(), audit_every_calls: 0, firings_at_once: FIRINGS_AT_ONCE }
    }
}

/// Where a binding is kept: in a slot of its group's table, or in the quarantine of its group.
///
/// There is one for each binding, so it is packed in 8 bytes.
#[derive(Clone, Copy)]
struct Location {
    group: GroupId,
    /// The index of the slot, or [`QUARANTINED`].
    slot: u32,
}

const QUARANTINED: u32 = u32::MAX;

impl Location {
    fn in_table(group: GroupId, slot: Slot) -> Self {
        Self { group, slot: slot.index() as u32 }
    }

    fn quarantined(group: GroupId) -> Self {
        Self { group, slot: QUARANTINED }
    }

    /// Returns the slot, `None` if the binding is quarantined.
    fn slot(self) -> Option<Slot> {
        (self.slot != QUARANTINED).then(|| Slot::new(self.slot as usize))
    }
}

/// An instance, and the number of groups that use it.
struct InstanceUse {
    instance: InstanceId,
    groups: usize,
}

/// The groups of one thread's partitions.
pub struct Shard {
    instances: Slab<InstanceId, Instance>,
    instance_of: HashMap<(Tenant, Digest), InstanceUse>,
    groups: Slab<GroupId, Group>,
    symbols: HashMap<Symbol, SymbolId>,
    groups_of: Slab<SymbolId, Vec<GroupId>>,
    locations: HashMap<BindingId, Location>,
    /// What rule versions have cost that no binding is on any more.
    past_usage: HashMap<(Tenant, Digest), RuleUsage>,
    /// The number of firings that were not recorded since [`Self::take_suppressed`].
    suppressed: BTreeMap<BindingId, u64>,
    /// Memory for the groups of the symbol whose tick is evaluated.
    tick_groups: Vec<GroupId>,
    /// The groups that have had a turn on the tick that is evaluated, with the work that is left.
    unfinished: VecDeque<(GroupId, Box<Work>)>,
    /// The work on the last group, to be used again.
    spare_work: Option<Box<Work>>,
    /// The instance that is being called. It is still set while a panic unwinds.
    in_call: Option<InstanceId>,
    /// Whether it takes impure rule versions out of service.
    disarms_impure_rules: bool,
    /// Where it does not: the rule versions of which it has found a binding impure, with the last finding.
    found_impure: HashMap<Digest, (RuleRef, Impurity)>,
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
    /// Creates a shard without bindings.
    pub fn new(options: EvaluationOptions) -> Self {
        let EvaluationOptions { waking, audit_every_calls, firings_at_once } = options;
        Self {
            instances: Slab::default(),
            instance_of: HashMap::new(),
            groups: Slab::default(),
            symbols: HashMap::new(),
            groups_of: Slab::default(),
            locations: HashMap::new(),
            past_usage: HashMap::new(),
            suppressed: BTreeMap::new(),
            tick_groups: Vec::new(),
            unfinished: VecDeque::new(),
            spare_work: None,
            in_call: None,
            disarms_impure_rules: true,
            found_impure: HashMap::new(),
            waking,
            firings_at_once,
            audit: Audit::every(audit_every_calls),
            scratch: Scratch::default(),
        }
    }

    /// Creates a shard for some bindings that catch up with another shard. It has too few bindings of a rule version to take
    /// the version out of service: [`Self::absorb`] does, with all of them.
    pub fn for_catching_up(options: EvaluationOptions) -> Self {
        Self { disarms_impure_rules: false, ..Self::new(options) }
    }

    /// Returns the number of armed bindings, the quarantined ones included.
    pub fn len(&self) -> usize {
        self.locations.len()
    }

    /// Returns whether no binding is armed.
    pub fn is_empty(&self) -> bool {
        self.locations.is_empty()
    }

    /// Returns the number of evaluations so far. Bindings that a tick did not wake are not counted.
    pub fn evaluations(&self) -> u64 {
        self.scratch.evaluations
    }

    /// Returns what each rule version has cost each of its tenants so far. Of those without bindings, the cheapest are
    /// forgotten where they are more than some hundreds.
    pub fn usage(&self) -> impl Iterator<Item = RuleUsage> + '_ {
        let present = self
            .instance_of
            .iter()
            .map(|((tenant, _), InstanceUse { instance, .. })| self.instances[*instance].rule_usage(tenant));
        present.chain(self.past_usage.values().cloned())
    }

    /// Returns the number of firings of each binding that were not recorded since the last call, because the binding fired
    /// too often.
    pub fn take_suppressed(&mut self) -> BTreeMap<BindingId, u64> {
        std::mem::take(&mut self.suppressed)
    }

    /// Returns the whole memory of each instance, in an order that stays the same while none is dropped. For tests that look
    /// for stray writes.
    pub fn memories(&self) -> impl Iterator<Item = &[u8]> {
        self.instances.iter().map(Instance::memory)
    }

    /// Returns whether a binding is armed.
    pub fn holds(&self, binding: BindingId) -> bool {
        self.locations.contains_key(&binding)
    }

    /// Returns the params record of an armed binding.
    pub fn params(&self, binding: BindingId) -> Option<Vec<u8>> {
        let location = self.locations.get(&binding)?;
        let group = &self.groups[location.group];
        match location.slot() {
            Some(slot) => Some(group.table.params(&self.instances[group.instance], slot).to_vec()),
            None => group.quarantined(binding).map(|quarantined| quarantined.params.clone()),
        }
    }

    /// Returns the alert of an armed binding.
    pub fn alert_of(&self, binding: BindingId) -> Option<AlertId> {
        let location = self.locations.get(&binding)?;
        let group = &self.groups[location.group];
        match location.slot() {
            Some(slot) => Some(group.binding(slot).alert),
            None => group.quarantined(binding).map(|quarantined| quarantined.binding.alert),
        }
    }

    /// Returns the symbol of an armed binding.
    pub fn symbol_of(&self, binding: BindingId) -> Option<&Symbol> {
        self.locations.get(&binding).map(|location| &self.groups[location.group].symbol)
    }

    /// Returns the rule version that was being evaluated when a call of this shard panicked. The shard must not be used
    /// any more.
    pub fn evaluated_in_panic(&self) -> Option<RuleRef> {
        self.in_call.map(|instance| self.instances[instance].rule().reference().clone())
    }
}
