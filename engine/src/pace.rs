//! The firing rate of a binding: a burst, of [`FIRINGS_AT_ONCE`](crate::limits::FIRINGS_AT_ONCE) unless a shard is
//! configured otherwise, and one more firing for each [`FIRING_INTERVAL_MS`] of event time. Firings beyond that are counted
//! and not recorded; the state is kept as if they had been.
//!
//! Time is the event time of the ticks, so that a replay decides alike. The algorithm is the generic cell rate algorithm as a
//! leaky bucket (ITU-T I.371, 2004, annex A).

use crate::limits::FIRING_INTERVAL_MS;

/// How much of its firing rate a binding has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The used part of the burst at `last_ms`, as the event time that earns it back, in milliseconds.
    pub(crate) used_ms: i64,
    /// The event time of the last firing, Unix milliseconds.
    pub(crate) last_ms: i64,
}

impl Pace {
    /// Returns the pace of a binding that has not fired lately.
    pub(crate) fn rested(time_ms: i64) -> Self {
        Self { used_ms: 0, last_ms: time_ms }
    }

    /// Returns whether a firing at an event time is within the rate, and if so counts it.
    pub(crate) fn fire(&mut self, time_ms: i64, at_once: u32) -> bool {
        // Event time may run back any distance: then nothing is earned, and nothing is lost.
        let earned_ms = time_ms.saturating_sub(self.last_ms).max(0);
        self.used_ms = (self.used_ms - earned_ms).max(0);
        self.last_ms = time_ms;
        let is_recorded = self.used_ms + FIRING_INTERVAL_MS <= FIRING_INTERVAL_MS * i64::from(at_once);
        if is_recorded {
            self.used_ms += FIRING_INTERVAL_MS;
        }
        is_recorded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::FIRINGS_AT_ONCE;

    /// Returns how many of the firings at these times are within the rate.
    fn recorded(times: impl IntoIterator<Item = i64>) -> i64 {
        let mut pace = None;
        let fired = times
            .into_iter()
            .filter(|time_ms| pace.get_or_insert(Pace::rested(*time_ms)).fire(*time_ms, FIRINGS_AT_ONCE));
        fired.count() as i64
    }

    #[test]
    fn a_burst_is_recorded_and_then_one_for_each_interval() {
        let at_once = i64::from(FIRINGS_AT_ONCE);
        assert_eq!(recorded(std::iter::repeat_n(7, 5_000)), at_once);
        let seconds = 60;
        assert_eq!(recorded(0..seconds * 1_000), at_once + (seconds * 1_000 - 1) / FIRING_INTERVAL_MS);
        // No faster than the interval: all of them.
        assert_eq!(recorded((0..10_000).map(|at| at * FIRING_INTERVAL_MS)), 10_000);
    }

    #[test]
    fn event_time_that_runs_back_costs_no_firing() {
        let back = std::iter::once(1_000_000_000).chain((1..=50).map(|at| at * FIRING_INTERVAL_MS));
        assert_eq!(recorded(back), 51);
        // However far event time jumps, and at both ends of its range.
        let times = [0, i64::from(u32::MAX) * 1_000, 0, crate::domain::MAX_TIME_MS, 0, -5];
        assert_eq!(recorded(times), 6);
        assert_eq!(recorded((0..5_000).rev()), i64::from(FIRINGS_AT_ONCE), "time that only runs back earns nothing");
    }
}
