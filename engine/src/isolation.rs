//! Evaluates one binding at a time, from copies of its records, on an instance that holds no other's: what a rule answers
//! here is the truth about it, since it has seen nothing else.
//!
//! Three need it: a binding that faulted of late (a fault costs its record then, and nothing of the others), a firing before
//! it is recorded, and the sample of evaluations that is audited.

use tocsin_rules_sdk::abi;

use crate::domain::Tick;
use crate::fault::Fault;
use crate::instance::{Answer, Answered, CallEnd, Instance, MemoryError};
use crate::limits::FUEL_PER_EVALUATION;
use crate::runtime::Rule;

/// Places in the room where records can begin, each 8 bytes behind the other.
const PLACES: usize = 16;

/// How often an evaluation that the host was too slow for is tried again before the engine gives up.
const DEADLINE_RETRIES: u32 = 10;

/// An instance for one binding at a time.
pub(crate) struct Apart {
    instance: Instance,
    /// Room for the records, wherever in it they begin.
    room: Place,
    /// Evaluations so far: each begins elsewhere.
    evaluations: usize,
    /// The state after the last evaluation.
    state: Vec<u8>,
    /// Whether it was used since [`Self::take_used`].
    is_used: bool,
}

/// Where a binding's records are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) params_at: usize,
    pub(crate) state_at: usize,
}

/// The records of a binding before an evaluation, and where they lie for the others.
#[derive(Clone, Copy)]
pub(crate) struct Records<'a> {
    pub(crate) params: &'a [u8],
    pub(crate) state: &'a [u8],
    pub(crate) place: Place,
}

/// One evaluation.
pub(crate) struct Evaluated {
    /// The answer, None for hold; or what it did instead.
    pub(crate) answer: Result<Option<Answer>, Fault>,
    /// Fuel that it burnt, at most.
    pub(crate) fuel: u64,
}

/// No evaluation came to an end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApartError {
    #[error(transparent)]
    Memory(#[from] MemoryError),
    #[error("{DEADLINE_RETRIES} calls in a row passed their deadline")]
    Deadline,
}

impl Apart {
    pub(crate) fn new(rule: &Rule) -> Result<Self, MemoryError> {
        let manifest = rule.manifest();
        let mut instance = Instance::new(rule)?;
        // A record of no bytes lies where it lies for the others: its address means nothing.
        let slack = |bytes: usize| if bytes == 0 { 0 } else { PLACES * abi::RECORD_ALIGN };
        let (params_bytes, state_bytes) = (manifest.params.packed_bytes(), manifest.state_bytes);
        let params_at = instance.allocate(params_bytes + slack(params_bytes))?;
        let state_at = instance.allocate(state_bytes + slack(state_bytes))?;
        let room = Place { params_at, state_at };
        Ok(Self { instance, room, evaluations: 0, state: Vec::new(), is_used: true })
    }

    /// Evaluates a tick from the given records, on pages and globals as they are at first, and at other addresses than
    /// the records have: a rule that looks at addresses is impure too.
    pub(crate) fn evaluate(&mut self, tick: &Tick, records: Records<'_>) -> Result<Evaluated, ApartError> {
        self.is_used = true;
        let Records { params, state, .. } = records;
        let place = self.next_place(records);
        for _ in 0..DEADLINE_RETRIES {
            self.instance.bytes_mut(place.params_at, params.len()).copy_from_slice(params);
            self.instance.bytes_mut(place.state_at, state.len()).copy_from_slice(state);
            self.instance.set_tick(tick);
            let end = self.instance.call(place.params_at, place.state_at, 1);
            let evaluated = match end {
                CallEnd::Evaluated(Answered { answers, fuel, .. }) => {
                    let answer = Ok(self.instance.answers(answers).next());
                    Some(Evaluated { answer, fuel: self.instance.rule().fuel_of(1, fuel) })
                }
                CallEnd::Fault(fault) => Some(Evaluated { answer: Err(fault), fuel: FUEL_PER_EVALUATION }),
                CallEnd::Deadline => None,
            };
            self.state.clear();
            self.state.extend_from_slice(self.instance.bytes(place.state_at, state.len()));
            self.instance.reset();
            // Nothing of this binding is left for the next one, nor of this evaluation.
            self.instance.bytes_mut(place.params_at, params.len()).fill(0);
            self.instance.bytes_mut(place.state_at, state.len()).fill(0);
            self.instance.clear_answer();
            if let Some(evaluated) = evaluated {
                return Ok(evaluated);
            }
        }
        Err(ApartError::Deadline)
    }

    /// Another place than the last one, with other addresses than the records have: a rule that looks at addresses should
    /// not see the same ones twice.
    fn next_place(&mut self, records: Records<'_>) -> Place {
        let other = records.place;
        let step = |is_there: bool, at: usize| if is_there { at % PLACES * abi::RECORD_ALIGN } else { 0 };
        let (has_params, has_state) = (!records.params.is_empty(), !records.state.is_empty());
        loop {
            self.evaluations = self.evaluations.wrapping_add(1);
            let (params, state) = (self.evaluations, self.evaluations + self.evaluations / PLACES);
            let place = Place {
                params_at: self.room.params_at + step(has_params, params),
                state_at: self.room.state_at + step(has_state, state),
            };
            let differs = |is_there: bool, one: usize, other: usize| !is_there || one != other;
            if differs(has_params, place.params_at, other.params_at)
                && differs(has_state, place.state_at, other.state_at)
            {
                return place;
            }
        }
    }

    /// The state after the last evaluation; of no meaning after a fault.
    pub(crate) fn state(&self) -> &[u8] {
        &self.state
    }

    /// The same, for who takes it and gives it back.
    pub(crate) fn state_mut(&mut self) -> &mut Vec<u8> {
        &mut self.state
    }

    /// Whether it was used since the last call of this.
    pub(crate) fn take_used(&mut self) -> bool {
        std::mem::take(&mut self.is_used)
    }
}
