//! A group: all bindings of one (rule version, tenant, symbol). Their records are packed in a table in guest memory. Which
//! bindings they are, which of them sleep and which are quarantined is kept on the host's side. [`crate::evaluate`]
//! evaluates them.

use std::collections::{BTreeMap, HashMap};

use crate::domain::{AlertId, BindingId, Repeat, Symbol, Tenant};
use crate::health::Health;
use crate::ids::{InstanceId, Slot};
use crate::instance::{Instance, MemoryError};
use crate::limits::MAX_PROBES_PER_TICK;
use crate::pace::Pace;
use crate::runtime::Rule;
use crate::snapshot::Remembered;
use crate::table::Table;
use crate::wake::Sleepers;

/// What stays the same of a binding while it is armed.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    pub(crate) id: BindingId,
    pub(crate) alert: AlertId,
    pub(crate) repeat: Repeat,
}

/// A quarantined binding. It is kept outside of the table, so that the table has only bindings that are evaluated.
pub(crate) struct Quarantined {
    pub(crate) binding: Binding,
    pub(crate) params: Vec<u8>,
    pub(crate) state: Vec<u8>,
    pub(crate) health: Health,
}

/// A binding of a group with its records, borrowed.
pub(crate) struct Record<'a> {
    pub(crate) binding: &'a Binding,
    pub(crate) params: &'a [u8],
    pub(crate) state: &'a [u8],
    pub(crate) health: Health,
}

pub(crate) struct Group {
    pub(crate) tenant: Tenant,
    pub(crate) symbol: Symbol,
    pub(crate) instance: InstanceId,
    /// The bindings in the table, by slot.
    bindings: Vec<Binding>,
    pub(crate) table: Table,
    /// The healths that are not clean. Few ever are.
    pub(crate) suspects: BTreeMap<Slot, Health>,
    pub(crate) quarantine: Vec<Quarantined>,
    /// No quarantined binding is due to be put on probe before this offset.
    no_probe_before: u64,
    /// The firing rates of the bindings that fired lately.
    pub(crate) paces: HashMap<BindingId, Pace>,
    /// The index of wake bands, if the rule returns any.
    pub(crate) sleepers: Option<Sleepers>,
    /// Whether there may be something new to remember since the last snapshot.
    pub(crate) changed: bool,
    /// Whether the last snapshot is not empty. It must then be replaced when there is nothing left to remember.
    pub(crate) recorded: bool,
}

impl Group {
    pub(crate) fn new(tenant: Tenant, symbol: Symbol, instance: InstanceId, rule: &Rule) -> Self {
        Self {
            tenant,
            symbol,
            instance,
            bindings: Vec::new(),
            table: Table::new(rule.manifest()),
            suspects: BTreeMap::new(),
            quarantine: Vec::new(),
            no_probe_before: 0,
            paces: HashMap::new(),
            sleepers: rule.manifest().sleeps.then(Sleepers::default),
            changed: false,
            recorded: false,
        }
    }

    /// Returns the number of bindings, the quarantined ones included.
    pub(crate) fn len(&self) -> usize {
        self.bindings.len() + self.quarantine.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of bindings in the table.
    pub(crate) fn slots(&self) -> usize {
        self.bindings.len()
    }

    /// Returns the binding in a slot.
    pub(crate) fn binding(&self, slot: Slot) -> &Binding {
        &self.bindings[slot.index()]
    }

    /// Returns a quarantined binding.
    pub(crate) fn quarantined(&self, binding: BindingId) -> Option<&Quarantined> {
        self.quarantine.iter().find(|quarantined| quarantined.binding.id == binding)
    }

    /// Returns the number of bindings that are quarantined as impure.
    pub(crate) fn condemned(&self) -> usize {
        self.quarantine.iter().filter(|quarantined| quarantined.health.is_condemned()).count()
    }

    /// Returns the ids of all bindings, the quarantined ones included.
    pub(crate) fn binding_ids(&self) -> impl Iterator<Item = BindingId> + '_ {
        let quarantined = self.quarantine.iter().map(|quarantined| &quarantined.binding);
        self.bindings.iter().chain(quarantined).map(|binding| binding.id)
    }

    /// Returns the records of all bindings: those in the table by slot, then the quarantined ones.
    pub(crate) fn records<'a>(&'a self, instance: &'a Instance) -> impl Iterator<Item = Record<'a>> + 'a {
        let in_table = self.bindings.iter().enumerate().map(|(index, binding)| {
            let slot = Slot::new(index);
            let (params, state) = (self.table.params(instance, slot), self.table.state(instance, slot));
            Record { binding, params, state, health: self.health(slot) }
        });
        let quarantined = self.quarantine.iter().map(|quarantined| Record {
            binding: &quarantined.binding,
            params: &quarantined.params,
            state: &quarantined.state,
            health: quarantined.health,
        });
        in_table.chain(quarantined)
    }

    /// Returns what must be remembered of a record, `None` if nothing.
    pub(crate) fn remembered<'a>(&self, record: &Record<'a>) -> Option<Remembered<'a>> {
        let Record { binding, health, state, .. } = *record;
        let pace = self.paces.get(&binding.id).copied();
        let is_nothing = state.is_empty() && health.is_clean() && pace.is_none();
        (!is_nothing).then_some(Remembered { binding: binding.id, health, pace, state })
    }

    /// Returns whether there is nothing to remember but states: no binding faulted or fired lately.
    pub(crate) fn has_states_only(&self) -> bool {
        self.suspects.is_empty() && self.quarantine.is_empty() && self.paces.is_empty()
    }

    /// Adds a binding to the table, awake, and returns its slot. Without a `state` its state is all zero.
    pub(crate) fn push(
        &mut self,
        instance: &mut Instance,
        binding: Binding,
        params: &[u8],
        state: Option<&[u8]>,
        health: Health,
    ) -> Result<Slot, MemoryError> {
        let slot = Slot::new(self.bindings.len());
        self.table.push(instance, slot, params, state)?;
        self.bindings.push(binding);
        if !health.is_clean() {
            self.suspects.insert(slot, health);
        }
        if let Some(sleepers) = &mut self.sleepers {
            sleepers.push();
        }
        self.changed = true;
        Ok(slot)
    }

    /// Removes the binding in a slot. The last binding moves into the slot; returns its id, if it is another one.
    pub(crate) fn swap_remove(&mut self, instance: &mut Instance, slot: Slot) -> Option<BindingId> {
        let last = Slot::new(self.bindings.len() - 1);
        self.table.swap_remove(instance, last, slot);
        if let Some(sleepers) = &mut self.sleepers {
            sleepers.swap_remove(slot);
        }
        self.suspects.remove(&slot);
        if let Some(health) = self.suspects.remove(&last) {
            self.suspects.insert(slot, health);
        }
        self.bindings.swap_remove(slot.index());
        if self.bindings.capacity() > 8 && self.bindings.len() <= self.bindings.capacity() / 4 {
            self.bindings.shrink_to(self.bindings.len() * 2);
            if let Some(sleepers) = &mut self.sleepers {
                sleepers.shrink();
            }
        }
        self.changed = true;
        (slot != last).then(|| self.binding(slot).id)
    }

    /// Adds a quarantined binding.
    pub(crate) fn push_quarantined(&mut self, quarantined: Quarantined) {
        self.quarantine.push(quarantined);
        self.no_probe_before = 0;
        self.changed = true;
    }

    /// Moves the binding in a slot into quarantine. The last binding moves into the slot; returns its id, if it is another
    /// one.
    pub(crate) fn move_to_quarantine(&mut self, instance: &mut Instance, slot: Slot) -> Option<BindingId> {
        self.push_quarantined(Quarantined {
            binding: self.binding(slot).clone(),
            params: self.table.params(instance, slot).to_vec(),
            state: self.table.state(instance, slot).to_vec(),
            health: self.health(slot),
        });
        self.swap_remove(instance, slot)
    }

    /// Puts the quarantined bindings that have waited long enough on probe, at most [`MAX_PROBES_PER_TICK`]. Returns them with
    /// their slots.
    pub(crate) fn probe_due(
        &mut self,
        instance: &mut Instance,
        offset: u64,
    ) -> Result<Vec<(BindingId, Slot)>, MemoryError> {
        if offset < self.no_probe_before {
            return Ok(Vec::new());
        }
        let mut due: Vec<BindingId> = Vec::new();
        self.no_probe_before = u64::MAX;
        for Quarantined { binding, health, .. } in &mut self.quarantine {
            let probe_at = health.probe_seen_from(offset);
            self.changed |= health.wait_until(probe_at);
            self.no_probe_before = self.no_probe_before.min(probe_at);
            if probe_at <= offset {
                due.push(binding.id);
            }
        }
        // A replay must put the same bindings on probe: the order of the list is not part of a snapshot.
        due.sort_unstable();
        due.truncate(MAX_PROBES_PER_TICK);
        due.into_iter().map(|binding| Ok((binding, self.probe(instance, binding)?))).collect()
    }

    /// Moves a quarantined binding back into the table, on probe, and returns its slot. Panics if it is not quarantined.
    pub(crate) fn probe(&mut self, instance: &mut Instance, binding: BindingId) -> Result<Slot, MemoryError> {
        let index = self.quarantine.iter().position(|quarantined| quarantined.binding.id == binding);
        let mut quarantined = self.quarantine.swap_remove(index.expect("the binding is quarantined"));
        quarantined.health.begin_probe();
        let Quarantined { binding, params, state, health } = quarantined;
        self.push(instance, binding, &params, Some(&state), health)
    }

    pub(crate) fn health(&self, slot: Slot) -> Health {
        self.suspects.get(&slot).copied().unwrap_or_default()
    }

    pub(crate) fn set_health(&mut self, slot: Slot, health: Health) {
        if health.is_clean() {
            self.suspects.remove(&slot);
        } else {
            self.suspects.insert(slot, health);
        }
        self.changed = true;
    }
}
