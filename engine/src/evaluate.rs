//! Evaluating a group on a tick: which of its bindings the tick wakes, the calls into the sandbox, and what the answers mean.
//!
//! Bindings are evaluated in batches, one batch a call. Those that faulted lately, and those of a call that faulted, are
//! evaluated in [isolation](crate::isolation). A group's work on a tick is done in steps of a few milliseconds at most, so
//! that other groups get their turn.

mod batch;
mod isolated;
mod outcome;
mod verdict;
mod work;

use crate::domain::{Evidence, Tick};
use crate::fault::Fault;
use crate::group::Group;
use crate::instance::{Answer, Instance, MemoryError};
use crate::isolation::IsolationError;
use crate::purity::Audit;
use crate::wake::Band;

pub(crate) use work::Work;

/// Which bindings are evaluated on a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Waking {
    /// Those that the tick wakes.
    #[default]
    Indexed,
    /// All. A binding that is asleep, but fires or changes its state, faults. Finds rules that break the promise of their
    /// wake bands, and fires exactly as `Indexed` does.
    Checked,
    /// All, and wake bands are ignored. The oracle of the other two.
    Naive,
}

/// What became of one binding on one tick, other than to hold without a fault.
pub(crate) enum Outcome {
    Fired(Evidence),
    /// It fired more often than a binding may: the firing is not recorded.
    Suppressed,
    Faulted {
        fault: Fault,
        quarantined: bool,
        /// The records before the evaluation, to which the state is restored.
        params: Vec<u8>,
        state: Vec<u8>,
    },
    /// It was on probe, and did not fault.
    Recovered,
}

/// Why the engine could not evaluate.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// No instance of a rule could be made.
    #[error("no instance of a rule could be made: {0}")]
    Memory(String),
    /// Calls that fuel bounds to milliseconds took seconds, again and again.
    #[error("this machine is too slow to evaluate: {0}")]
    Deadline(String),
    /// The caller interrupted the evaluation of a tick. The states of its bindings are those of no offset.
    #[error("evaluation was interrupted in the middle of a tick")]
    Interrupted,
}

impl From<MemoryError> for EvaluateError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error.to_string())
    }
}

impl From<IsolationError> for EvaluateError {
    fn from(error: IsolationError) -> Self {
        match error {
            IsolationError::Memory(error) => error.into(),
            IsolationError::Deadline => Self::Deadline(error.to_string()),
        }
    }
}

/// Memory that is used again by each evaluation, and counters of all of them.
#[derive(Default)]
pub(crate) struct Scratch {
    /// Evaluations so far.
    pub(crate) evaluations: u64,
    /// Fuel burnt so far.
    pub(crate) fuel: u64,
    fired: Vec<Fired>,
    /// The wake bands that a call returned, each with the index of its binding in the call.
    bands: Vec<(usize, Band)>,
    /// The states of a call's bindings before the call.
    before: Vec<u8>,
    /// The params of one binding.
    params: Vec<u8>,
    /// The state of one binding after its evaluation.
    after: Vec<u8>,
    /// The addresses of the params and the state of each listed binding.
    addresses: Vec<(u32, u32)>,
}

/// A binding that fired in a call.
struct Fired {
    /// Its index in the call.
    index: usize,
    answer: Answer,
    evidence: Evidence,
}

/// What evaluating a group on a tick needs beside the group.
pub(crate) struct TickContext<'a> {
    pub(crate) tick: &'a Tick,
    /// The offset of the tick.
    pub(crate) offset: u64,
    /// The instance of the group.
    pub(crate) instance: &'a mut Instance,
    pub(crate) waking: Waking,
    pub(crate) firings_at_once: u32,
    pub(crate) audit: &'a mut Audit,
    pub(crate) scratch: &'a mut Scratch,
}

impl Group {
    /// Begins to evaluate a tick. Returns false if it wakes no binding.
    pub(crate) fn begin(&mut self, context: &mut TickContext<'_>, work: &mut Work) -> bool {
        let (count, mut listed) = (self.slots(), false);
        if let Some(sleepers) = self.sleepers.as_mut().filter(|_| context.waking != Waking::Naive) {
            sleepers.wake(context.tick.price, context.tick.time_ms);
            // Most ticks wake none.
            if context.waking == Waking::Indexed && sleepers.awake().is_empty() {
                return false;
            }
            listed = context.waking == Waking::Indexed && sleepers.awake().len() < count;
        }
        work.restart(count);
        if let Some(sleepers) = self.sleepers.as_ref().filter(|_| listed) {
            work.list(sleepers.awake());
        }
        if work.count == 0 {
            return false;
        }
        self.changed |= self.table.state_bytes > 0;
        context.scratch.evaluations += work.count as u64;
        context.instance.set_tick(context.tick);
        true
    }

    /// Does the next step of a group's work: one call, or some evaluations in isolation. A binding without an outcome held.
    pub(crate) fn step(&mut self, context: &mut TickContext<'_>, work: &mut Work) -> Result<(), EvaluateError> {
        if self.is_isolated_next(work) { self.step_isolated(context, work) } else { self.step_batch(context, work) }
    }

    /// Returns whether the next binding is evaluated in isolation.
    fn is_isolated_next(&self, work: &Work) -> bool {
        work.next < work.isolated_until || self.suspects.contains_key(&work.slot(work.next))
    }
}

fn copy(from: &[u8], to: &mut Vec<u8>) {
    to.clear();
    to.extend_from_slice(from);
}
