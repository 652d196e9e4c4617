//! A group: all bindings of one (rule version, tenant, symbol). Their records are packed in a table in guest memory;
//! which ones they are, which sleep and which are quarantined is kept here. Evaluating them is [`crate::evaluate`]'s.

use std::collections::{BTreeMap, HashMap};

use crate::domain::{AlertId, BindingId, Repeat, Symbol, Tenant};
use crate::health::Health;
use crate::instance::{Instance, MemoryError};
use crate::limits::MAX_PROBES_PER_TICK;
use crate::pace::Pace;
use crate::runtime::Rule;
use crate::snapshot::Remembered;
use crate::table::Table;
use crate::wake::Sleepers;

/// A binding, wherever it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) binding: BindingId,
    pub(crate) alert: AlertId,
    pub(crate) repeat: Repeat,
}

/// A quarantined binding: outside of the table, so that what is evaluated stays packed.
pub(crate) struct Parked {
    pub(crate) slot: Slot,
    pub(crate) params: Vec<u8>,
    pub(crate) state: Vec<u8>,
    pub(crate) health: Health,
}

/// What is known of one binding.
pub(crate) struct Record<'a> {
    pub(crate) slot: &'a Slot,
    pub(crate) params: &'a [u8],
    pub(crate) state: &'a [u8],
    pub(crate) health: Health,
}

pub(crate) struct Group {
    pub(crate) tenant: Tenant,
    pub(crate) symbol: Symbol,
    /// The key of its instance.
    pub(crate) instance: usize,
    pub(crate) slots: Vec<Slot>,
    pub(crate) table: Table,
    /// By slot, where it is not clean: few ever are.
    pub(crate) suspects: BTreeMap<usize, Health>,
    pub(crate) parked: Vec<Parked>,
    /// How fast bindings may fire that fired of late.
    pub(crate) paces: HashMap<BindingId, Pace>,
    /// Which bindings sleep, if the rule can.
    pub(crate) sleepers: Option<Sleepers>,
    /// Whether states or healths changed since the last snapshot.
    pub(crate) changed: bool,
    /// Whether the last snapshot holds something, which must be replaced when there is nothing left to remember.
    pub(crate) recorded: bool,
}

impl Group {
    pub(crate) fn new(tenant: Tenant, symbol: Symbol, instance: usize, rule: &Rule) -> Self {
        Self {
            tenant,
            symbol,
            instance,
            slots: Vec::new(),
            table: Table::new(rule.manifest()),
            suspects: BTreeMap::new(),
            parked: Vec::new(),
            paces: HashMap::new(),
            sleepers: rule.manifest().sleeps.then(Sleepers::default),
            changed: false,
            recorded: false,
        }
    }

    /// How many bindings it has.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() + self.parked.len()
    }

    /// How many of them are in quarantine as impure.
    pub(crate) fn condemned(&self) -> usize {
        self.parked.iter().filter(|parked| parked.health.is_condemned()).count()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.parked.is_empty()
    }

    /// A binding that is quarantined.
    pub(crate) fn parked(&self, binding: BindingId) -> Option<&Parked> {
        self.parked.iter().find(|parked| parked.slot.binding == binding)
    }

    /// The bindings, wherever they are kept.
    pub(crate) fn bindings(&self) -> impl Iterator<Item = BindingId> + '_ {
        let parked = self.parked.iter().map(|parked| &parked.slot);
        self.slots.iter().chain(parked).map(|slot| slot.binding)
    }

    /// What is known of each binding, those in the table first, by slot.
    pub(crate) fn records<'a>(&'a self, instance: &'a Instance) -> impl Iterator<Item = Record<'a>> + 'a {
        let in_table = self.slots.iter().enumerate().map(|(at, slot)| Record {
            slot,
            params: self.table.params(instance, at),
            state: self.table.state(instance, at),
            health: self.health(at),
        });
        let parked = self.parked.iter().map(|parked| Record {
            slot: &parked.slot,
            params: &parked.params,
            state: &parked.state,
            health: parked.health,
        });
        in_table.chain(parked)
    }

    /// What must be remembered of a record, None if nothing.
    pub(crate) fn remembered<'a>(&self, record: &Record<'a>) -> Option<Remembered<'a>> {
        let Record { slot, health, state, .. } = *record;
        let pace = self.paces.get(&slot.binding).copied();
        let is_nothing = state.is_empty() && health.is_clean() && pace.is_none();
        (!is_nothing).then_some(Remembered { binding: slot.binding, health, pace, state })
    }

    /// Whether no binding faulted or fired of late: then there is nothing to remember but states.
    pub(crate) fn has_states_only(&self) -> bool {
        self.suspects.is_empty() && self.parked.is_empty() && self.paces.is_empty()
    }

    /// Puts a binding into the next slot, awake. `state` is None for a new one, whose state is all zero.
    pub(crate) fn push(
        &mut self,
        instance: &mut Instance,
        new: Slot,
        params: &[u8],
        state: Option<&[u8]>,
        health: Health,
    ) -> Result<usize, MemoryError> {
        let slot = self.slots.len();
        self.table.push(instance, slot, params, state)?;
        self.slots.push(new);
        if !health.is_clean() {
            self.suspects.insert(slot, health);
        }
        if let Some(sleepers) = &mut self.sleepers {
            sleepers.push();
        }
        self.changed = true;
        Ok(slot)
    }

    /// Empties a slot: the last one moves into it. Returns the binding that moved.
    pub(crate) fn swap_remove(&mut self, instance: &mut Instance, slot: usize) -> Option<BindingId> {
        let last = self.slots.len() - 1;
        self.table.swap_remove(instance, self.slots.len(), slot);
        if let Some(sleepers) = &mut self.sleepers {
            sleepers.swap_remove(slot);
        }
        self.suspects.remove(&slot);
        if let Some(health) = self.suspects.remove(&last) {
            self.suspects.insert(slot, health);
        }
        self.slots.swap_remove(slot);
        if self.slots.capacity() > 8 && self.slots.len() <= self.slots.capacity() / 4 {
            self.slots.shrink_to(self.slots.len() * 2);
            if let Some(sleepers) = &mut self.sleepers {
                sleepers.shrink();
            }
        }
        self.changed = true;
        (slot != last).then(|| self.slots[slot].binding)
    }

    /// Takes a binding out of the table, since its health says so.
    pub(crate) fn park(&mut self, instance: &mut Instance, slot: usize) -> Option<BindingId> {
        let (params, state) = (self.table.params(instance, slot).to_vec(), self.table.state(instance, slot).to_vec());
        self.parked.push(Parked { slot: self.slots[slot].clone(), params, state, health: self.health(slot) });
        self.swap_remove(instance, slot)
    }

    /// A tick has come for the quarantined: those that have waited long enough go back to the table, on probe, but no more
    /// than [`MAX_PROBES_PER_TICK`] at once. Returns them with their slots.
    pub(crate) fn count_waiting(&mut self, instance: &mut Instance) -> Result<Vec<(BindingId, usize)>, MemoryError> {
        self.changed |= !self.parked.is_empty();
        let mut due: Vec<BindingId> = Vec::new();
        for parked in &mut self.parked {
            if parked.health.wait() {
                due.push(parked.slot.binding);
            }
        }
        // In an order that a replay has, too.
        due.sort_unstable();
        due.truncate(MAX_PROBES_PER_TICK);
        due.into_iter().map(|binding| self.probe(instance, binding)).collect()
    }

    /// Puts a quarantined binding back into the table, on probe. It must be in quarantine.
    pub(crate) fn probe(
        &mut self,
        instance: &mut Instance,
        binding: BindingId,
    ) -> Result<(BindingId, usize), MemoryError> {
        let at = self.parked.iter().position(|parked| parked.slot.binding == binding);
        let mut parked = self.parked.swap_remove(at.expect("it is in quarantine"));
        parked.health.begin_probe();
        let slot = self.push(instance, parked.slot, &parked.params, Some(&parked.state), parked.health)?;
        Ok((binding, slot))
    }

    /// The health of a slot.
    pub(crate) fn health(&self, slot: usize) -> Health {
        self.suspects.get(&slot).copied().unwrap_or_default()
    }

    /// Keeps the health of a slot.
    pub(crate) fn set_health(&mut self, slot: usize, health: Health) {
        if health.is_clean() {
            self.suspects.remove(&slot);
        } else {
            self.suspects.insert(slot, health);
        }
        self.changed = true;
    }
}
