//! How often a binding may fire: a burst, of [`FIRINGS_AT_ONCE`](crate::limits::FIRINGS_AT_ONCE) unless a shard has another
//! one, and one more for each [`FIRING_INTERVAL_MS`] of event time.
//! What it fires beyond that is counted and not recorded; its state goes on as if it had fired.
//!
//! The clock is the event time of its ticks, so that a replay decides alike. This is the generic cell rate algorithm, in its
//! form of virtual scheduling (ITU-T I.371, 2004, annex A).

use crate::limits::FIRING_INTERVAL_MS;

/// The pace of a binding that fired of late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The event time at which the burst is whole again, Unix milliseconds.
    pub(crate) next_ms: i64,
}

impl Pace {
    /// The pace of a binding that did not fire of late.
    pub(crate) fn rested(time_ms: i64) -> Self {
        Self { next_ms: time_ms }
    }

    /// Whether a firing at an event time is recorded; if it is, it is counted.
    pub(crate) fn fire(&mut self, time_ms: i64, at_once: u32) -> bool {
        let burst_ms = FIRING_INTERVAL_MS * i64::from(at_once);
        // Event time may run back: then a jump ahead has cost no more than the burst.
        self.next_ms = self.next_ms.clamp(time_ms, time_ms + burst_ms);
        let is_recorded = self.next_ms + FIRING_INTERVAL_MS <= time_ms + burst_ms;
        if is_recorded {
            self.next_ms += FIRING_INTERVAL_MS;
        }
        is_recorded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::FIRINGS_AT_ONCE;

    /// How many of the firings at these times are recorded.
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
    fn a_tick_from_the_future_costs_no_more_than_the_burst() {
        let back = std::iter::once(1_000_000_000).chain((1..=50).map(|at| at * FIRING_INTERVAL_MS));
        assert_eq!(recorded(back), 50, "the first one after the jump is not recorded");
        // However far event time jumps to and fro, and at both ends of it.
        let times = [0, i64::from(u32::MAX) * 1_000, 0, crate::domain::MAX_TIME_MS, 0];
        assert_eq!(recorded(times), 3);
    }
}
