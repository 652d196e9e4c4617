//! The fault history of a binding: when it is quarantined, and when it is tried again. A circuit breaker that measures its
//! waits in offsets of the partition in place of time, so that a replay decides alike, and that a wait need not be counted
//! down: a quarantined binding has nothing new to remember until its probe.

use crate::limits::{FAULT_WINDOW_EVALUATIONS, MAX_PROBE_DOUBLINGS, PROBE_AFTER_RECORDS, QUARANTINE_AFTER_FAULTS};

/// The fault history of a binding. All zero if it has never faulted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The last evaluations, the newest in the lowest bit; a 1 is a fault.
    pub(crate) history: u32,
    /// The number of quarantines since its last successful probe.
    pub(crate) trips: u16,
    /// Whether it is on probe: one fault quarantines it again, one good evaluation clears its history.
    pub(crate) on_probe: bool,
    /// The offset from which on it is put on probe by a tick of its symbol; 0 if it is not quarantined.
    pub(crate) probe_at: u64,
}

/// The probe of a binding that stays quarantined until an operator unquarantines it.
const NEVER: u64 = u64::MAX;

const _: () = assert!(FAULT_WINDOW_EVALUATIONS == u32::BITS && QUARANTINE_AFTER_FAULTS <= FAULT_WINDOW_EVALUATIONS);

impl Health {
    /// Returns whether there is no fault to remember.
    pub(crate) fn is_clean(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether it is quarantined, and so not evaluated.
    pub fn is_quarantined(&self) -> bool {
        self.probe_at > 0
    }

    /// Returns the health of a binding that moves to another version of its rule. If it was quarantined for impurity, which
    /// was the older version's, it is put on probe.
    pub fn for_another_version(mut self) -> Self {
        if self.is_condemned() {
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

    /// Records a fault at an offset. Returns true if it leads to quarantine.
    pub(crate) fn faulted(&mut self, offset: u64) -> bool {
        self.history = self.history << 1 | 1;
        if !self.on_probe && self.history.count_ones() < QUARANTINE_AFTER_FAULTS {
            return false;
        }
        let trips = self.trips.saturating_add(1);
        *self = Self { history: 0, trips, on_probe: false, probe_at: offset + wait_after(trips) };
        true
    }

    /// Quarantines it until an operator unquarantines it: a good evaluation would prove nothing.
    pub(crate) fn condemn(&mut self) {
        *self = Self { history: 0, trips: self.trips, on_probe: false, probe_at: NEVER };
    }

    /// Returns whether it stays quarantined until an operator unquarantines it.
    pub(crate) fn is_condemned(&self) -> bool {
        self.probe_at == NEVER
    }

    /// Returns the offset from which on a quarantined binding is put on probe, as seen from an offset of its partition. It
    /// is never further ahead than the whole wait, so that another log, whose offsets begin anew, does not delay it.
    pub(crate) fn probe_seen_from(&self, offset: u64) -> u64 {
        if self.is_condemned() { NEVER } else { self.probe_at.min(offset + wait_after(self.trips)) }
    }

    /// Lets it wait for an offset that [`Self::probe_seen_from`] has returned. Returns whether that is another one.
    pub(crate) fn wait_until(&mut self, probe_at: u64) -> bool {
        std::mem::replace(&mut self.probe_at, probe_at) != probe_at
    }

    /// Puts it on probe.
    pub(crate) fn begin_probe(&mut self) {
        self.probe_at = 0;
        self.on_probe = true;
    }
}

/// Returns the records of the partition between a quarantine and its probe, for the quarantine of a number.
fn wait_after(trips: u16) -> u64 {
    PROBE_AFTER_RECORDS << u32::from(trips).saturating_sub(1).min(MAX_PROBE_DOUBLINGS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns which of the evaluations leads to quarantine: `x` is a fault, `.` is none.
    fn quarantined_at(evaluations: &str) -> Option<usize> {
        let mut health = Health::default();
        evaluations.chars().position(|what| match what {
            'x' => health.faulted(7),
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
        (0..QUARANTINE_AFTER_FAULTS).for_each(|_| _ = health.faulted(9));
        for doublings in [0, 1, 2] {
            assert_eq!(health.probe_at, 9 + (PROBE_AFTER_RECORDS << doublings));
            health.begin_probe();
            assert!(health.faulted(9));
        }
        health.trips = u16::MAX;
        health.begin_probe();
        assert!(health.faulted(9));
        assert_eq!(health.probe_at, 9 + (PROBE_AFTER_RECORDS << MAX_PROBE_DOUBLINGS));
        health.begin_probe();
        assert!(health.succeeded());
        assert!(health.is_clean());
    }

    #[test]
    fn a_wait_is_not_prolonged_by_a_log_whose_offsets_begin_anew() {
        let mut health = Health::default();
        (0..QUARANTINE_AFTER_FAULTS).for_each(|_| _ = health.faulted(1 << 40));
        let probe_at = (1 << 40) + PROBE_AFTER_RECORDS;
        assert_eq!(health.probe_seen_from(1 << 40), probe_at);
        assert_eq!(health.probe_seen_from(probe_at), probe_at);
        assert_eq!(health.probe_seen_from(3), 3 + PROBE_AFTER_RECORDS);
        health.condemn();
        assert_eq!(health.probe_seen_from(3), NEVER);
    }
}
