//! A group: all bindings of one (rule version, tenant, symbol), as packed tables in guest memory, judged by one call.

use tocsin_rules_sdk::abi;

use crate::domain::{AlertId, BindingId, Evidence, Repeat, Symbol, Tenant};
use crate::fault::Fault;
use crate::instance::{Answer, CallEnd, Instance, MemoryError};
use crate::limits::{MAX_BINDINGS_PER_CALL, QUARANTINE_AFTER_FAULTS};
use crate::runtime::Rule;

/// Slots of a new table.
const FIRST_CAPACITY: usize = 4;

/// The most state, in bytes, that is copied aside for one call: large states are judged in smaller calls.
const MAX_CALL_STATE_BYTES: usize = 1024 * 1024;

/// How often a call that the host was too slow for is tried again before the engine gives up.
const DEADLINE_RETRIES: u32 = 10;

/// A binding in its slot.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) binding: BindingId,
    pub(crate) alert: AlertId,
    pub(crate) repeat: Repeat,
    /// Faults in a row.
    pub(crate) faults: u32,
}

/// What became of one binding on one tick.
pub(crate) enum Outcome {
    Fired(Evidence),
    Faulted { fault: Fault, quarantined: bool },
}

/// The engine itself could not judge.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// No instance of a rule could be made.
    #[error("a rule's instance could not be replaced after a fault: {0}")]
    Memory(String),
    /// Calls that fuel bounds to milliseconds took seconds, again and again.
    #[error("this machine is too slow to judge: {DEADLINE_RETRIES} calls in a row passed their deadline")]
    Deadline,
}

impl From<MemoryError> for JudgeError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error.to_string())
    }
}

pub(crate) struct Group {
    pub(crate) tenant: Tenant,
    pub(crate) symbol: Symbol,
    /// The key of its instance.
    pub(crate) instance: usize,
    pub(crate) members: Vec<Member>,
    /// Whether states or fault counts changed since the last snapshot.
    pub(crate) changed: bool,
    table: Table,
}

/// Where the records of a group's slots lie.
#[derive(Clone, Copy)]
struct Table {
    params_at: usize,
    states_at: usize,
    params_bytes: usize,
    state_bytes: usize,
    capacity: usize,
}

impl Table {
    fn params(&self, slot: usize) -> usize {
        self.params_at + slot * self.params_bytes
    }

    fn state(&self, slot: usize) -> usize {
        self.states_at + slot * self.state_bytes
    }
}

impl Group {
    pub(crate) fn new(tenant: Tenant, symbol: Symbol, instance: usize, rule: &Rule) -> Self {
        let manifest = rule.manifest();
        let table = Table {
            params_at: 0,
            states_at: 0,
            params_bytes: manifest.params.packed_bytes(),
            state_bytes: manifest.state_bytes,
            capacity: 0,
        };
        Self { tenant, symbol, instance, members: Vec::new(), changed: false, table }
    }

    /// Puts a binding into the next slot. `state` is None for a new one, whose state is all zero.
    pub(crate) fn push(
        &mut self,
        instance: &mut Instance,
        member: Member,
        params: &[u8],
        state: Option<&[u8]>,
    ) -> Result<usize, MemoryError> {
        let slot = self.members.len();
        if slot == self.table.capacity {
            self.grow(instance)?;
        }
        let table = self.table;
        instance.bytes_mut(table.params(slot), table.params_bytes).copy_from_slice(params);
        let place = instance.bytes_mut(table.state(slot), table.state_bytes);
        match state {
            Some(state) => place.copy_from_slice(state),
            None => place.fill(0),
        }
        self.members.push(member);
        self.changed = true;
        Ok(slot)
    }

    fn grow(&mut self, instance: &mut Instance) -> Result<(), MemoryError> {
        let old = self.table;
        let capacity = (old.capacity * 2).max(FIRST_CAPACITY);
        let params_at = instance.allocate(capacity * old.params_bytes)?;
        let states_at = match instance.allocate(capacity * old.state_bytes) {
            Ok(at) => at,
            Err(error) => {
                instance.release(params_at, capacity * old.params_bytes);
                return Err(error);
            }
        };
        let count = self.members.len();
        instance.copy(old.params_at, params_at, count * old.params_bytes);
        instance.copy(old.states_at, states_at, count * old.state_bytes);
        self.release(instance);
        self.table = Table { params_at, states_at, capacity, ..old };
        Ok(())
    }

    /// Gives its tables back. The group must hold no members, or get new tables at once.
    pub(crate) fn release(&mut self, instance: &mut Instance) {
        let table = self.table;
        instance.release(table.params_at, table.capacity * table.params_bytes);
        instance.release(table.states_at, table.capacity * table.state_bytes);
        self.table.capacity = 0;
    }

    /// Empties a slot: the last one moves into it. Returns the binding that moved.
    pub(crate) fn swap_remove(&mut self, instance: &mut Instance, slot: usize) -> Option<BindingId> {
        let last = self.members.len() - 1;
        let table = self.table;
        self.members.swap_remove(slot);
        self.changed = true;
        if slot == last {
            return None;
        }
        instance.copy(table.params(last), table.params(slot), table.params_bytes);
        instance.copy(table.state(last), table.state(slot), table.state_bytes);
        Some(self.members[slot].binding)
    }

    /// The state of a slot.
    pub(crate) fn state<'a>(&self, instance: &'a Instance, slot: usize) -> &'a [u8] {
        instance.bytes(self.table.state(slot), self.table.state_bytes)
    }

    /// The params of a slot.
    pub(crate) fn params<'a>(&self, instance: &'a Instance, slot: usize) -> &'a [u8] {
        instance.bytes(self.table.params(slot), self.table.params_bytes)
    }

    pub(crate) fn state_bytes(&self) -> usize {
        self.table.state_bytes
    }

    /// Judges all members against the instance's tick. Outcomes come in the order of slots; a member
    /// without one held.
    pub(crate) fn judge(
        &mut self,
        instance: &mut Instance,
        outcomes: &mut Vec<(usize, Outcome)>,
    ) -> Result<(), JudgeError> {
        let state_bytes = self.table.state_bytes;
        self.changed |= state_bytes > 0;
        let fitting = MAX_CALL_STATE_BYTES.checked_div(state_bytes).unwrap_or(usize::MAX).max(1);
        let step = fitting.min(MAX_BINDINGS_PER_CALL as usize);
        let mut before = Vec::new();
        let mut first = 0;
        while first < self.members.len() {
            let count = step.min(self.members.len() - first);
            before.clear();
            before.extend_from_slice(instance.bytes(self.table.state(first), count * state_bytes));
            let outcomes_before = outcomes.len();
            match instance.call(self.table.params(first), self.table.state(first), count as u32) {
                CallEnd::Judged { bindings, answers } => {
                    let good = self.take_answers(instance, first, bindings, answers, outcomes);
                    if good {
                        self.forgive(first, bindings as usize);
                        first += bindings as usize;
                        continue;
                    }
                    outcomes.truncate(outcomes_before);
                }
                CallEnd::Fault(_) | CallEnd::Deadline => instance.replace()?,
            }
            // Somebody is at fault: put the states back and judge one by one, so that the others get the very answers
            // that they would have had.
            instance.bytes_mut(self.table.state(first), count * state_bytes).copy_from_slice(&before);
            self.judge_singly(instance, first, count, &before, outcomes)?;
            first += count;
        }
        Ok(())
    }

    /// Collects the answers of one call; false if one of them is no valid verdict, or names a binding that was not
    /// judged: the mailbox is in the guest's reach until the call returns.
    fn take_answers(
        &self,
        instance: &Instance,
        first: usize,
        bindings: u32,
        answers: u32,
        outcomes: &mut Vec<(usize, Outcome)>,
    ) -> bool {
        let rule = instance.rule();
        for answer in instance.answers(answers) {
            if answer.slot >= bindings {
                return false;
            }
            match verdict(rule, &answer) {
                Ok(Some(evidence)) => outcomes.push((first + answer.slot as usize, Outcome::Fired(evidence))),
                Ok(None) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Whoever answered is no longer on a run of faults.
    fn forgive(&mut self, first: usize, count: usize) {
        for member in &mut self.members[first..first + count] {
            member.faults = 0;
        }
    }

    fn judge_singly(
        &mut self,
        instance: &mut Instance,
        first: usize,
        count: usize,
        before: &[u8],
        outcomes: &mut Vec<(usize, Outcome)>,
    ) -> Result<(), JudgeError> {
        for slot in first..first + count {
            let state_bytes = self.table.state_bytes;
            let state = &before[(slot - first) * state_bytes..][..state_bytes];
            let judged = judge_one(instance, self.table, slot, state)?;
            let member = &mut self.members[slot];
            match judged {
                Ok(evidence) => {
                    member.faults = 0;
                    outcomes.extend(evidence.map(|evidence| (slot, Outcome::Fired(evidence))));
                }
                Err(fault) => {
                    instance.bytes_mut(self.table.state(slot), state_bytes).copy_from_slice(state);
                    member.faults += 1;
                    self.changed = true;
                    let quarantined = member.faults >= QUARANTINE_AFTER_FAULTS;
                    outcomes.push((slot, Outcome::Faulted { fault, quarantined }));
                }
            }
        }
        Ok(())
    }
}

/// Judges one slot by a call of its own. The outer result is the engine's, the inner one the rule's.
fn judge_one(
    instance: &mut Instance,
    table: Table,
    slot: usize,
    state: &[u8],
) -> Result<Result<Option<Evidence>, Fault>, JudgeError> {
    for _ in 0..DEADLINE_RETRIES {
        match instance.call(table.params(slot), table.state(slot), 1) {
            CallEnd::Judged { answers, .. } => {
                let answer = instance.answers(answers).next();
                return Ok(answer.map_or(Ok(None), |answer| verdict(instance.rule(), &answer)));
            }
            CallEnd::Fault(fault) => {
                instance.replace()?;
                return Ok(Err(fault));
            }
            CallEnd::Deadline => {
                instance.replace()?;
                instance.bytes_mut(table.state(slot), table.state_bytes).copy_from_slice(state);
            }
        }
    }
    Err(JudgeError::Deadline)
}

/// What an answer means: the evidence if it fires.
fn verdict(rule: &Rule, answer: &Answer) -> Result<Option<Evidence>, Fault> {
    let manifest = rule.manifest();
    let known = if manifest.sleeps { abi::FIRE | abi::ASLEEP } else { abi::FIRE };
    if answer.code & !known != 0 {
        return Err(Fault::BadCode(answer.code));
    }
    if answer.code & abi::FIRE == 0 {
        return Ok(None);
    }
    let numbers = manifest.evidence.iter().zip(answer.evidence).enumerate();
    numbers
        .map(
            |(at, (name, number))| {
                if number.is_finite() { Ok((name.clone(), number)) } else { Err(Fault::BadEvidence(at)) }
            },
        )
        .collect::<Result<Evidence, Fault>>()
        .map(Some)
}
