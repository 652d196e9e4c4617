//! The fault history of a binding: when it is quarantined, and when it is tried again. A circuit breaker that counts ticks
//! of its symbol in place of time, so that a replay decides alike.

use crate::limits::{FAULT_WINDOW_EVALUATIONS, MAX_PROBE_DOUBLINGS, PROBE_AFTER_TICKS, QUARANTINE_AFTER_FAULTS};

/// The fault history of a binding. All zero if it has never faulted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The last evaluations, the newest in the lowest bit; a 1 is a fault.
    pub(crate) history: u32,
    /// The number of quarantines since its last successful probe.
    pub(crate) trips: u16,
    /// Whether it is on probe: one fault quarantines it again, one good evaluation clears its history.
    pub(crate) on_probe: bool,
    /// The number of ticks of its symbol until it is put on probe; 0 if it is not quarantined.
    pub(crate) wait_ticks: u64,
}

/// The wait of a binding that stays quarantined until an operator unquarantines it.
const NEVER: u64 = u64::MAX;

const _: () = assert!(FAULT_WINDOW_EVALUATIONS == u32::BITS && QUARANTINE_AFTER_FAULTS <= FAULT_WINDOW_EVALUATIONS);

impl Health {
    /// Returns whether there is no fault to remember.
    pub(crate) fn is_clean(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether it is quarantined, and so not evaluated.
    pub fn is_quarantined(&self) -> bool {
        self.wait_ticks > 0
    }

    /// Returns the health of a binding that moves to another version of its rule. If it was quarantined for impurity, which
    /// was the older version's, it is put on probe.
    pub fn for_another_version(mut self) -> Self {
        if self.wait_ticks == NEVER {
            self.begin_probe();
        }
        self
    }

    /// Records an evaluation without a fault. Returns true if it ends a probe.
    pub(crate) fn succeeded(&mut self) -> bool {
        if self.on_probe {
            *self = Self::default();
            return true;
        }
        self.history <<= 1;
        false
    }

    /// Records a fault. Returns true if it leads to quarantine.
    pub(crate) fn faulted(&mut self) -> bool {
        self.history = self.history << 1 | 1;
        if !self.on_probe && self.history.count_ones() < QUARANTINE_AFTER_FAULTS {
            return false;
        }
        let doublings = u32::from(self.trips).min(MAX_PROBE_DOUBLINGS);
        let trips = self.trips.saturating_add(1);
        *self = Self { history: 0, trips, on_probe: false, wait_ticks: PROBE_AFTER_TICKS << doublings };
        true
    }

    /// Quarantines it until an operator unquarantines it: a good evaluation would prove nothing.
    pub(crate) fn condemn(&mut self) {
        *self = Self { history: 0, trips: self.trips, on_probe: false, wait_ticks: NEVER };
    }

    /// Returns whether it stays quarantined until an operator unquarantines it.
    pub(crate) fn is_condemned(&self) -> bool {
        self.wait_ticks == NEVER
    }

    /// Counts a tick of its symbol during quarantine. Returns true if it is due to be put on probe.
    pub(crate) fn wait(&mut self) -> bool {
        if self.wait_ticks > 1 && self.wait_ticks != NEVER {
            self.wait_ticks -= 1;
            return false;
        }
        self.wait_ticks == 1
    }

    /// Puts it on probe.
    pub(crate) fn begin_probe(&mut self) {
        self.wait_ticks = 0;
        self.on_probe = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns which of the evaluations leads to quarantine: `x` is a fault, `.` is none.
    fn quarantined_at(evaluations: &str) -> Option<usize> {
        let mut health = Health::default();
        evaluations.chars().position(|what| match what {
            'x' => health.faulted(),
            _ => health.succeeded(),
        })
    }

    #[test]
    fn five_faults_among_thirty_two_evaluations_quarantine() {
        assert_eq!(quarantined_at("xxxxx"), Some(4));
        assert_eq!(quarantined_at("xxxx"), None);
        assert_eq!(quarantined_at("x.x.x..x.....x"), Some(13));
        let sparse = |gap: usize| format!("x{}", ".".repeat(gap)).repeat(20);
        assert_eq!(quarantined_at(&sparse(6)), Some(28), "faults at 0, 7, 14, 21 and 28");
        assert_eq!(quarantined_at(&sparse(7)), None, "at most four of 32");
    }

    #[test]
    fn a_probe_decides_at_once_and_each_failed_one_doubles_the_wait() {
        let mut health = Health::default();
        (0..QUARANTINE_AFTER_FAULTS).for_each(|_| _ = health.faulted());
        for doublings in [0, 1, 2] {
            assert_eq!(health.wait_ticks, PROBE_AFTER_TICKS << doublings);
            health.begin_probe();
            assert!(health.faulted());
        }
        health.trips = u16::MAX;
        health.begin_probe();
        assert!(health.faulted());
        assert_eq!(health.wait_ticks, PROBE_AFTER_TICKS << MAX_PROBE_DOUBLINGS);
        health.begin_probe();
        assert!(health.succeeded());
        assert!(health.is_clean());
    }
}
