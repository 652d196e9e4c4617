//! How long to wait before the next try: the policies of all that is retried, in one table.
//!
//! Waits double from the first one up to a cap. With full jitter (uniform from 0 to the step, see
//! <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>) the clients of a server that went down spread;
//! `backon`'s jitter only ever adds to the step, so [`Waits`] does it by hand. Who waits alone for a store of its own needs
//! none of that: [`RetryPolicy::builder`] is for them.

use std::time::Duration;

use backon::ExponentialBuilder;

/// How long to wait before each try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The first wait, or its upper bound.
    pub base: Duration,
    /// No wait is longer.
    pub cap: Duration,
}

/// The policies, by what waits. Those for [`Waits`] come first, those for [`RetryPolicy::builder`] last.
impl RetryPolicy {
    /// A connection that could not be accepted: one that was closed elsewhere makes room without a sign.
    pub const ACCEPT: Self = Self::millis(50, 1_000);
    /// A batch of ticks that the bus did not take.
    pub const PUBLISH: Self = Self::millis(100, 5_000);
    /// Prices that could not be written. Partitions that are called back must be given up in time.
    pub const PRICES: Self = Self::millis(100, 2_000);
    /// Firings that could not be read for streams.
    pub const STREAMS: Self = Self::millis(100, 2_000);
    /// Firings that could not be published on their topic.
    pub const DELIVERY: Self = Self::millis(200, 5_000);
    /// A lock of the store that another process holds, or that could not be asked for: what is released is taken over at once.
    pub const LOCK: Self = Self::millis(250, 2_000);
    /// The connection on which PostgreSQL notifies this process.
    pub const NOTIFICATIONS: Self = Self::millis(250, 5_000);
    /// A backend that is away when the process starts: one that is back is noticed soon.
    pub const START: Self = Self::millis(500, 10_000);
    /// The projector, after it ended.
    pub const PROJECTOR: Self = Self::millis(500, 10_000);
    /// A feed. Most disconnects are routine, and one that is back is seen within half a minute.
    pub const FEED: Self = Self::millis(500, 30_000);
    /// A server that a command watches.
    pub const WATCH: Self = Self::millis(500, 30_000);
    /// What an evaluator commits: what it keeps waiting is an alert.
    pub const COMMIT: Self = Self::millis(20, 5_000);
    /// The end of a promotion, which keeps its alerts waiting.
    pub const PROMOTION: Self = Self::millis(20, 5_000);
    /// What an evaluator reads of a partition or an alert.
    pub const PARTITION: Self = Self::millis(100, 5_000);

    const fn millis(base: u64, cap: u64) -> Self {
        Self { base: Duration::from_millis(base), cap: Duration::from_millis(cap) }
    }

    /// Returns the waits, with full jitter, for a loop of one's own.
    pub fn waits(self) -> Waits {
        Waits { policy: self, step: self.base }
    }

    /// Returns the waits without end for `backon`, each up to twice as long as its step.
    pub fn builder(self) -> ExponentialBuilder {
        let waits = ExponentialBuilder::new().with_min_delay(self.base).with_max_delay(self.cap).without_max_times();
        if is_simulated() { waits } else { waits.with_jitter() }
    }
}

/// The waits of one that tries again and again.
#[derive(Clone, Debug)]
pub struct Waits {
    policy: RetryPolicy,
    step: Duration,
}

impl Waits {
    /// Returns the next wait, for a random `share` from 0 to 1.
    pub fn next(&mut self, share: f64) -> Duration {
        let wait = self.step.mul_f64(share.clamp(0.0, 1.0));
        self.step = self.step.saturating_mul(2).min(self.policy.cap);
        wait
    }

    /// Begins again at the first wait.
    pub fn reset(&mut self) {
        self.step = self.policy.base;
    }
}

/// Whether this is a simulated run, which must come out the same again.
#[cfg(any(test, feature = "testing"))]
fn is_simulated() -> bool {
    crate::simulation::is_simulated()
}

#[cfg(not(any(test, feature = "testing")))]
fn is_simulated() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_begin_again() {
        let mut waits = RetryPolicy::millis(500, 3_000).waits();
        let five: Vec<_> = (0..5).map(|_| waits.next(1.0).as_millis()).collect();
        assert_eq!(five, [500, 1_000, 2_000, 3_000, 3_000]);
        waits.reset();
        assert_eq!(waits.next(1.0).as_millis(), 500);
    }

    #[test]
    fn the_jitter_is_full() {
        let mut waits = RetryPolicy::millis(1_000, 1_000).waits();
        assert_eq!(waits.next(0.0), Duration::ZERO);
        assert_eq!(waits.next(0.25), Duration::from_millis(250));
    }
}
