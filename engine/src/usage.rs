//! What evaluating costs, by rule version and tenant, for reports. No verdict depends on it: a replay may count otherwise.

use std::time::{Duration, Instant};

use crate::cost::MAX_NS_PER_FUEL;
use crate::domain::{RuleRef, Tenant};
use crate::evaluate::Outcome;

/// Cheap steps of a rule version of which one is timed, for all of them: reading the clock costs as much as some of them do.
const TIMED_ONE_IN: u32 = 64;

/// The fuel of a costly step, tens of microseconds at least. The next step of its rule is timed.
const COSTLY_FUEL: u64 = 250_000;

/// What a step may take beside what its fuel takes. A step that takes longer was interrupted by the machine, which says
/// nothing of the rule.
const MAX_HOST_TIME: Duration = Duration::from_micros(100);

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
    steps: u32,
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

/// A step that is timed.
pub(crate) struct Started {
    at: Instant,
    stands_for: u32,
}

impl Usage {
    /// Begins a step. Returns `None` if the step is not timed.
    #[inline]
    pub(crate) fn start(&mut self) -> Option<Started> {
        self.steps = self.steps.wrapping_add(1);
        if self.is_costly {
            return Some(Started { at: Instant::now(), stands_for: 1 });
        }
        self.steps.is_multiple_of(TIMED_ONE_IN).then(|| Started { at: Instant::now(), stands_for: TIMED_ONE_IN })
    }

    /// Counts a step.
    #[inline]
    pub(crate) fn count(&mut self, evaluations: u64, fuel: u64, started: Option<Started>) {
        self.evaluations += evaluations;
        self.fuel += fuel;
        self.is_costly = fuel >= COSTLY_FUEL;
        if let Some(Started { at, stands_for }) = started {
            let most = Duration::from_nanos(fuel.saturating_mul(MAX_NS_PER_FUEL)) + MAX_HOST_TIME;
            self.time += at.elapsed().min(most) * stands_for;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_the_machine_interrupted_counts_as_what_its_fuel_can_take() {
        let Some(at) = Instant::now().checked_sub(Duration::from_secs(5)) else { return };
        let mut usage = Usage::default();
        usage.count(1, 1_000, Some(Started { at, stands_for: TIMED_ONE_IN }));
        let most = (Duration::from_nanos(1_000 * MAX_NS_PER_FUEL) + MAX_HOST_TIME) * TIMED_ONE_IN;
        assert_eq!(usage.time, most);
        // Costly steps are bounded likewise.
        usage.count(1, 300_000, Some(Started { at, stands_for: 1 }));
        assert_eq!(usage.time, most + Duration::from_millis(3) + MAX_HOST_TIME);
        assert!(usage.start().is_some_and(|started| started.stands_for == 1));
    }

    #[test]
    fn cheap_steps_are_timed_by_rule_so_that_no_other_rule_takes_the_samples() {
        let mut usage = [Usage::default(), Usage::default()];
        let mut timed = [0, 0];
        for _ in 0..10 * TIMED_ONE_IN {
            for (usage, timed) in usage.iter_mut().zip(&mut timed) {
                *timed += u32::from(usage.start().is_some());
            }
        }
        assert_eq!(timed, [10, 10]);
    }
}
