//! A group: all bindings of one (rule version, tenant, symbol). Their records are packed in a table in guest memory;
//! who they are, who sleeps and who is quarantined is kept here. Judging them is [`crate::judging`]'s.

use std::collections::BTreeMap;

use crate::domain::{AlertId, BindingId, Repeat, Symbol, Tenant};
use crate::health::Health;
use crate::instance::{Instance, MemoryError};
use crate::runtime::Rule;
use crate::table::Table;
use crate::wake::Sleepers;

/// A binding, wherever it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) binding: BindingId,
    pub(crate) alert: AlertId,
    pub(crate) repeat: Repeat,
}

/// A quarantined binding: outside of the table, so that what is judged stays packed.
pub(crate) struct Parked {
    pub(crate) member: Member,
    pub(crate) params: Vec<u8>,
    pub(crate) state: Vec<u8>,
    pub(crate) health: Health,
}

/// What is known of one binding.
pub(crate) struct Record<'a> {
    pub(crate) member: &'a Member,
    pub(crate) params: &'a [u8],
    pub(crate) state: &'a [u8],
    pub(crate) health: Health,
}

pub(crate) struct Group {
    pub(crate) tenant: Tenant,
    pub(crate) symbol: Symbol,
    /// The key of its instance.
    pub(crate) instance: usize,
    /// By slot.
    pub(crate) members: Vec<Member>,
    pub(crate) table: Table,
    /// By slot, where it is not clean: few ever are.
    pub(crate) suspects: BTreeMap<usize, Health>,
    pub(crate) parked: Vec<Parked>,
    /// Who sleeps, if the rule can.
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
            members: Vec::new(),
            table: Table::new(rule.manifest()),
            suspects: BTreeMap::new(),
            parked: Vec::new(),
            sleepers: rule.manifest().sleeps.then(Sleepers::default),
            changed: false,
            recorded: false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.parked.is_empty()
    }

    /// The bindings, wherever they are kept.
    pub(crate) fn bindings(&self) -> impl Iterator<Item = BindingId> + '_ {
        let parked = self.parked.iter().map(|parked| &parked.member);
        self.members.iter().chain(parked).map(|member| member.binding)
    }

    /// What is known of each binding, those in the table first, by slot.
    pub(crate) fn records<'a>(&'a self, instance: &'a Instance) -> impl Iterator<Item = Record<'a>> + 'a {
        let in_table = self.members.iter().enumerate().map(|(slot, member)| Record {
            member,
            params: self.table.params(instance, slot),
            state: self.table.state(instance, slot),
            health: self.health(slot),
        });
        let parked = self.parked.iter().map(|parked| Record {
            member: &parked.member,
            params: &parked.params,
            state: &parked.state,
            health: parked.health,
        });
        in_table.chain(parked)
    }

    /// Whether nobody ever faulted, as far as it is remembered.
    pub(crate) fn all_clean(&self) -> bool {
        self.suspects.is_empty() && self.parked.is_empty()
    }

    /// Puts a binding into the next slot, awake. `state` is None for a new one, whose state is all zero.
    pub(crate) fn push(
        &mut self,
        instance: &mut Instance,
        member: Member,
        params: &[u8],
        state: Option<&[u8]>,
        health: Health,
    ) -> Result<usize, MemoryError> {
        let slot = self.members.len();
        self.table.push(instance, slot, params, state)?;
        self.members.push(member);
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
        let last = self.members.len() - 1;
        self.table.swap_remove(instance, self.members.len(), slot);
        if let Some(sleepers) = &mut self.sleepers {
            sleepers.swap_remove(slot);
        }
        self.suspects.remove(&slot);
        if let Some(health) = self.suspects.remove(&last) {
            self.suspects.insert(slot, health);
        }
        self.members.swap_remove(slot);
        if self.members.capacity() > 8 && self.members.len() <= self.members.capacity() / 4 {
            self.members.shrink_to(self.members.len() * 2);
            if let Some(sleepers) = &mut self.sleepers {
                sleepers.shrink();
            }
        }
        self.changed = true;
        (slot != last).then(|| self.members[slot].binding)
    }

    /// Takes a binding out of the table, since its health says so.
    pub(crate) fn park(&mut self, instance: &mut Instance, slot: usize) -> Option<BindingId> {
        let (params, state) = (self.table.params(instance, slot).to_vec(), self.table.state(instance, slot).to_vec());
        let (member, health) = (self.members[slot].clone(), self.health(slot));
        self.parked.push(Parked { member, params, state, health });
        self.swap_remove(instance, slot)
    }

    /// A tick has come for the quarantined: those that have waited long enough go back to the table, on probe. Returns
    /// them with their slots.
    pub(crate) fn count_waiting(&mut self, instance: &mut Instance) -> Result<Vec<(BindingId, usize)>, MemoryError> {
        self.changed |= !self.parked.is_empty();
        let mut back = Vec::new();
        for at in (0..self.parked.len()).rev() {
            let health = &mut self.parked[at].health;
            health.wait_ticks -= 1;
            if health.wait_ticks == 0 {
                back.push(self.release(instance, at)?);
            }
        }
        Ok(back)
    }

    /// Puts a quarantined binding back into the table, on probe.
    pub(crate) fn release(&mut self, instance: &mut Instance, at: usize) -> Result<(BindingId, usize), MemoryError> {
        let mut parked = self.parked.swap_remove(at);
        parked.health.begin_probe();
        let binding = parked.member.binding;
        let slot = self.push(instance, parked.member, &parked.params, Some(&parked.state), parked.health)?;
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
