//! What evaluating costs, by rule version and tenant, for reports. No verdict depends on it: a replay may count otherwise.

use std::time::{Duration, Instant};

use crate::domain::{RuleRef, Tenant};
use crate::evaluate::Outcome;

/// Cheap steps of which one is timed, for all of them: reading the clock costs as much as some of them do.
const TIMED_ONE_IN: u32 = 64;

/// The fuel of a costly step, tens of microseconds at least. The next step of its rule is timed.
const COSTLY_FUEL: u64 = 250_000;

/// What evaluating the bindings of one rule version and tenant has cost, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The number of evaluations.
    pub evaluations: u64,
    /// The number of recorded firings.
    pub firings: u64,
    /// The number of firings that were not recorded, because their binding fired too often.
    pub suppressed: u64,
    /// The number of faults.
    pub faults: u64,
    /// The fuel that was burnt; for a certified rule an upper bound of it.
    pub fuel: u64,
    /// The wall time, estimated from a sample.
    pub time: Duration,
    is_costly: bool,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, more: Self) {
        self.evaluations += more.evaluations;
        self.firings += more.firings;
        self.suppressed += more.suppressed;
        self.faults += more.faults;
        self.fuel += more.fuel;
        self.time += more.time;
        self.is_costly |= more.is_costly;
    }
}

/// The usage of a rule version by a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleUsage {
    /// The rule version.
    pub rule: RuleRef,
    /// The tenant.
    pub tenant: Tenant,
    /// What it has cost.
    pub usage: Usage,
}

/// Chooses which steps are timed.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    steps: u32,
}

/// A step that is timed.
pub(crate) struct Started {
    at: Instant,
    stands_for: u32,
}

impl Watch {
    /// Begins a step. Returns `None` if the step is not timed.
    #[inline]
    pub(crate) fn start(&mut self, usage: &Usage) -> Option<Started> {
        self.steps = self.steps.wrapping_add(1);
        if usage.is_costly {
            return Some(Started { at: Instant::now(), stands_for: 1 });
        }
        self.steps.is_multiple_of(TIMED_ONE_IN).then(|| Started { at: Instant::now(), stands_for: TIMED_ONE_IN })
    }
}

impl Usage {
    /// Counts a step.
    #[inline]
    pub(crate) fn count(&mut self, evaluations: u64, fuel: u64, started: Option<Started>) {
        self.evaluations += evaluations;
        self.fuel += fuel;
        self.is_costly = fuel >= COSTLY_FUEL;
        if let Some(Started { at, stands_for }) = started {
            self.time += at.elapsed() * stands_for;
        }
    }

    pub(crate) fn count_outcome(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Fired(_) => self.firings += 1,
            Outcome::Suppressed => self.suppressed += 1,
            Outcome::Faulted { .. } => self.faults += 1,
            Outcome::Recovered => {}
        }
    }
}
