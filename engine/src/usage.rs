//! What evaluating costs, by rule version and tenant, for reports. Nothing here decides anything: a replay may count
//! otherwise.

use std::time::{Duration, Instant};

use crate::domain::{RuleRef, Tenant};
use crate::evaluate::Outcome;

/// Of cheap calls one in so many is timed, and stands for all of them: reading the clock costs as much as some of them.
const TIMED_ONE_IN: u32 = 64;

/// A step that burnt so much fuel, tens of microseconds at least, is dear: the next one of that rule is timed.
const DEAR_FUEL: u64 = 250_000;

/// What was done for one rule version of one tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Evaluations.
    pub evaluations: u64,
    /// Firings.
    pub firings: u64,
    /// Firings that were not recorded, since their binding fired too often.
    pub suppressed: u64,
    /// Faults.
    pub faults: u64,
    /// Fuel; for a certified rule the most that it can have burnt.
    pub fuel: u64,
    /// Time, estimated from a sample.
    pub time: Duration,
    is_dear: bool,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, more: Self) {
        self.evaluations += more.evaluations;
        self.firings += more.firings;
        self.suppressed += more.suppressed;
        self.faults += more.faults;
        self.fuel += more.fuel;
        self.time += more.time;
        self.is_dear |= more.is_dear;
    }
}

/// The usage of a rule version by a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleUsage {
    /// The rule version.
    pub rule: RuleRef,
    /// The tenant.
    pub tenant: Tenant,
    /// What was done.
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
    /// Begins a step; None if it is not timed.
    #[inline]
    pub(crate) fn start(&mut self, usage: &Usage) -> Option<Started> {
        self.steps = self.steps.wrapping_add(1);
        if usage.is_dear {
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
        self.is_dear = fuel >= DEAR_FUEL;
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
