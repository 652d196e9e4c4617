//! Evaluating one binding at a time, from copies of its records, on an instance that holds no other binding's records. So
//! the result depends on nothing that belongs to another binding.
//!
//! Three kinds of evaluation need it: of a binding that faulted lately, since a fault here costs the others nothing; of a
//! firing, before it is recorded; and of the sample that is audited.

use tocsin_rules_sdk::abi;

use crate::domain::Tick;
use crate::fault::Fault;
use crate::instance::{Answer, Answered, CallEnd, Instance, MemoryError};
use crate::limits::FUEL_PER_EVALUATION;
use crate::runtime::Rule;

/// The number of addresses at which a record can begin, [`abi::RECORD_ALIGN`] bytes apart.
const PLACES: usize = 16;

/// How many calls in a row may pass their deadline before the engine gives up.
const DEADLINE_RETRIES: u32 = 10;

/// An instance that evaluates one binding at a time.
pub(crate) struct IsolatedInstance {
    instance: Instance,
    /// The first of the addresses at which records can begin.
    first: Addresses,
    /// The number of evaluations so far. The records of each begin at other addresses than those of the one before.
    evaluations: usize,
    /// The state after the last evaluation.
    state: Vec<u8>,
    is_used: bool,
}

/// The addresses of a binding's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) params: usize,
    pub(crate) state: usize,
}

/// The records of a binding before an evaluation.
#[derive(Clone, Copy)]
pub(crate) struct Records<'a> {
    pub(crate) params: &'a [u8],
    pub(crate) state: &'a [u8],
    /// Their addresses in the instance of the group.
    pub(crate) addresses: Addresses,
}

/// The result of an evaluation.
pub(crate) struct Evaluated {
    /// The answer, `None` for hold.
    pub(crate) answer: Result<Option<Answer>, Fault>,
    /// An upper bound of the fuel that it burnt.
    pub(crate) fuel: u64,
}

/// Why an evaluation has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IsolationError {
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error("{DEADLINE_RETRIES} calls in a row passed their deadline")]
    Deadline,
}

impl IsolatedInstance {
    pub(crate) fn new(rule: &Rule) -> Result<Self, MemoryError> {
        let manifest = rule.manifest();
        let mut instance = Instance::new(rule)?;
        // The address of an empty record means nothing, so it needs no other ones.
        let slack = |bytes: usize| if bytes == 0 { 0 } else { PLACES * abi::RECORD_ALIGN };
        let (params_bytes, state_bytes) = (manifest.params.packed_bytes(), manifest.state_bytes);
        let params = instance.allocate(params_bytes + slack(params_bytes))?;
        let state = instance.allocate(state_bytes + slack(state_bytes))?;
        let first = Addresses { params, state };
        Ok(Self { instance, first, evaluations: 0, state: Vec::new(), is_used: true })
    }

    pub(crate) fn rule(&self) -> &Rule {
        self.instance.rule()
    }

    /// Evaluates a tick from records, on the rule's first pages and globals, and with the records at other addresses than in
    /// the group's instance: so a rule whose answers depend on addresses is found to be impure.
    ///
    /// # Errors
    /// Where the machine is too slow.
    pub(crate) fn evaluate(&mut self, tick: &Tick, records: Records<'_>) -> Result<Evaluated, IsolationError> {
        self.is_used = true;
        let Records { params, state, .. } = records;
        let at = self.next_addresses(records);
        for _ in 0..DEADLINE_RETRIES {
            self.instance.bytes_mut(at.params, params.len()).copy_from_slice(params);
            self.instance.bytes_mut(at.state, state.len()).copy_from_slice(state);
            self.instance.set_tick(tick);
            let end = self.instance.call(at.params, at.state, 1);
            let evaluated = match end {
                CallEnd::Evaluated(Answered { answers, fuel, .. }) => {
                    let answer = Ok(self.instance.answers(answers).next());
                    Some(Evaluated { answer, fuel: self.instance.rule().fuel_of(1, fuel) })
                }
                CallEnd::Fault(fault) => Some(Evaluated { answer: Err(fault), fuel: FUEL_PER_EVALUATION }),
                CallEnd::Deadline => None,
            };
            self.state.clear();
            self.state.extend_from_slice(self.instance.bytes(at.state, state.len()));
            self.instance.reset();
            // The next evaluation, of another binding, must find nothing of this one.
            self.instance.bytes_mut(at.params, params.len()).fill(0);
            self.instance.bytes_mut(at.state, state.len()).fill(0);
            self.instance.clear_answer();
            if let Some(evaluated) = evaluated {
                return Ok(evaluated);
            }
        }
        Err(IsolationError::Deadline)
    }

    /// Returns the addresses of the next evaluation's records: others than those of the last one, and others than in the
    /// group's instance.
    fn next_addresses(&mut self, records: Records<'_>) -> Addresses {
        let others = records.addresses;
        let step = |has_bytes: bool, count: usize| if has_bytes { count % PLACES * abi::RECORD_ALIGN } else { 0 };
        let (has_params, has_state) = (!records.params.is_empty(), !records.state.is_empty());
        loop {
            self.evaluations = self.evaluations.wrapping_add(1);
            let (params, state) = (self.evaluations, self.evaluations + self.evaluations / PLACES);
            let next = Addresses {
                params: self.first.params + step(has_params, params),
                state: self.first.state + step(has_state, state),
            };
            let differs = |has_bytes: bool, one: usize, other: usize| !has_bytes || one != other;
            if differs(has_params, next.params, others.params) && differs(has_state, next.state, others.state) {
                return next;
            }
        }
    }

    /// Returns the state after the last evaluation. It means nothing after a fault.
    pub(crate) fn state(&self) -> &[u8] {
        &self.state
    }

    /// Returns the buffer of [`Self::state`], for a caller that takes it and puts it back.
    pub(crate) fn state_mut(&mut self) -> &mut Vec<u8> {
        &mut self.state
    }

    /// Returns whether it was used since the last call.
    pub(crate) fn take_used(&mut self) -> bool {
        std::mem::take(&mut self.is_used)
    }
}
