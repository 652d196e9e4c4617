//! How long to wait before the next try: exponential, with full jitter.
//!
//! Full jitter (uniform from 0 to the step, see
//! <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>) spreads the clients of a server that went
//! down; `backon`'s jitter only ever adds to the step, so this is done by hand. Who waits alone for a store of its own needs
//! none of that: [`patient`] is for them.

use std::time::Duration;

use backon::ExponentialBuilder;

/// The longest wait of who is patient.
const PATIENT_CAP: Duration = Duration::from_secs(5);

/// Waits from `first` on, twice as long each time, for as long as it takes.
pub fn patient(first: Duration) -> ExponentialBuilder {
    let waits = ExponentialBuilder::new().with_min_delay(first).with_max_delay(PATIENT_CAP).without_max_times();
    // A simulated run must come out the same again.
    if cfg!(any(test, feature = "testing")) { waits } else { waits.with_jitter() }
}

/// The steps of the waiting: `base`, twice that, and so on up to `cap`.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    step: Duration,
}

impl Backoff {
    /// Waits from `base` on, up to `cap`.
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, step: base }
    }

    /// The next wait, for a random `share` from 0 to 1.
    pub fn next(&mut self, share: f64) -> Duration {
        let wait = self.step.mul_f64(share.clamp(0.0, 1.0));
        self.step = self.step.saturating_mul(2).min(self.cap);
        wait
    }

    /// Begins again at `base`.
    pub fn reset(&mut self) {
        self.step = self.base;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_begin_again() {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(3));
        let waits: Vec<_> = (0..5).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 3_000, 3_000]);
        backoff.reset();
        assert_eq!(backoff.next(1.0).as_millis(), 500);
    }

    #[test]
    fn the_jitter_is_full() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(1));
        assert_eq!(backoff.next(0.0), Duration::ZERO);
        assert_eq!(backoff.next(0.25), Duration::from_millis(250));
    }
}
