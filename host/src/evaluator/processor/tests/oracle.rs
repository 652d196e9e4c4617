//! What a binding must do, computed from the log alone: its evaluations in order, one at a time.

use std::collections::BTreeMap;

use tocsin_engine::domain::Digest;
use tocsin_engine::limits::{FAULT_WINDOW_EVALUATIONS, QUARANTINE_AFTER_FAULTS};

use crate::evaluator::tests::BAD;

/// What one evaluation of a binding has led to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Happened {
    Recovered,
    /// With how many evaluations without a fault there were, this one included.
    Fired {
        count: f64,
        rule: Digest,
        last: bool,
    },
    /// With how many evaluations without a fault there were before.
    Faulted {
        count: f64,
        rule: Digest,
        quarantined: bool,
    },
}

impl Happened {
    /// A number for each kind: one evaluation has at most one of each.
    pub(super) fn kind(&self) -> u8 {
        match self {
            Self::Recovered => 0,
            Self::Fired { .. } => 1,
            Self::Faulted { .. } => 2,
        }
    }
}

/// By offset and kind.
pub(super) type Course = BTreeMap<(u64, u8), Happened>;

/// What was done to a binding, and at which offsets.
#[derive(Debug, Default)]
pub(super) struct Past {
    pub(super) fires_once: bool,
    /// Which rule version evaluates it from an offset on; None while a promotion holds it. Later entries win.
    pub(super) rules: Vec<(u64, Option<Digest>)>,
    /// Where it was taken out of quarantine.
    pub(super) unquarantined: Vec<u64>,
}

/// Returns what the ticks of a binding's symbol must lead to: offsets and prices, from where the binding begins to count.
pub(super) fn expected(past: &Past, ticks: impl Iterator<Item = (u64, f64)>) -> Course {
    let mut course = Course::new();
    let mut unquarantined = past.unquarantined.iter().peekable();
    let mut count = 0.0;
    // Whether each of the last evaluations was a fault.
    let mut faults: Vec<bool> = Vec::new();
    let (mut quarantined, mut on_probe) = (false, false);
    for (offset, price) in ticks {
        while unquarantined.next_if(|at| **at <= offset).is_some() {
            on_probe |= std::mem::take(&mut quarantined);
        }
        let rule = past.rules.iter().rfind(|(from, _)| *from <= offset).and_then(|(_, rule)| *rule);
        let Some(rule) = rule.filter(|_| !quarantined) else { continue };
        let mut happened = Vec::new();
        faults.push(price == BAD);
        if price == BAD {
            let recent = faults.iter().rev().take(FAULT_WINDOW_EVALUATIONS as usize);
            let many = recent.filter(|fault| **fault).count() >= QUARANTINE_AFTER_FAULTS as usize;
            quarantined = on_probe || many;
            happened.push(Happened::Faulted { count, rule, quarantined });
        } else {
            count += 1.0;
            if on_probe {
                happened.push(Happened::Recovered);
            }
            happened.push(Happened::Fired { count, rule, last: past.fires_once });
        }
        if on_probe || quarantined {
            on_probe = false;
            faults.clear();
        }
        course.extend(happened.into_iter().map(|happened| ((offset, happened.kind()), happened)));
        if past.fires_once && price != BAD {
            break;
        }
    }
    course
}
