//! Verdicts: hold or fire, the evidence, and the wake band.

use crate::abi;

/// The answer of a rule to a tick, built in one line: `Verdict::fire().evidence([change, reference])`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    fires: bool,
    evidence: [f64; abi::MAX_EVIDENCE],
    evidence_count: usize,
    band: Option<Band>,
}

/// The prices and times in which the answer cannot change.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Band {
    low: f64,
    high: f64,
    until_ms: i64,
}

impl Band {
    /// Every price, without an end.
    const ENDLESS: Self = Self { low: f64::NEG_INFINITY, high: f64::INFINITY, until_ms: i64::MAX };
}

impl Verdict {
    /// Returns a verdict that the condition does not hold.
    #[inline]
    pub const fn hold() -> Self {
        Self { fires: false, evidence: [0.0; abi::MAX_EVIDENCE], evidence_count: 0, band: None }
    }

    /// Returns a verdict that the condition holds.
    #[inline]
    pub const fn fire() -> Self {
        Self { fires: true, ..Self::hold() }
    }

    /// Returns [`fire`](Self::fire) if `condition` is true, else [`hold`](Self::hold).
    #[inline]
    pub const fn fire_if(condition: bool) -> Self {
        Self { fires: condition, ..Self::hold() }
    }

    /// Sets the numbers that justify a firing, in the order of the rule's `evidence(…)` names. They are ignored unless it
    /// fires.
    #[inline]
    pub const fn evidence<const N: usize>(mut self, numbers: [f64; N]) -> Self {
        const { assert!(N <= abi::MAX_EVIDENCE, "a verdict carries at most 4 evidence numbers") };
        let mut i = 0;
        while i < N {
            self.evidence[i] = numbers[i];
            i += 1;
        }
        self.evidence_count = N;
        self
    }

    /// Lets the host skip ticks while the price is above `low` and below `high`, since the answer would be the same.
    ///
    /// The rule is not called for those ticks, so it cannot sleep if its state depends on every tick. Requires
    /// `#[rule(sleeps)]`.
    #[inline]
    pub const fn asleep_between(mut self, low: f64, high: f64) -> Self {
        let until_ms = match self.band {
            Some(band) => band.until_ms,
            None => i64::MAX,
        };
        self.band = Some(Band { low, high, until_ms });
        self
    }

    /// Lets the host skip ticks before this event time, Unix milliseconds. Without
    /// [`asleep_between`](Self::asleep_between), at any price.
    #[inline]
    pub const fn until(mut self, time_ms: i64) -> Self {
        let band = match self.band {
            Some(band) => band,
            None => Band::ENDLESS,
        };
        self.band = Some(Band { until_ms: time_ms, ..band });
        self
    }

    /// Returns whether the condition holds.
    pub const fn fires(&self) -> bool {
        self.fires
    }

    /// Returns the evidence numbers.
    pub fn evidence_numbers(&self) -> &[f64] {
        &self.evidence[..self.evidence_count]
    }

    /// Returns whether there is a wake band.
    pub const fn is_asleep(&self) -> bool {
        self.band.is_some()
    }

    /// Writes what the host reads by the result code, and returns the code.
    #[inline(always)]
    pub(crate) fn write(self, sleeps: bool, out: &mut abi::Verdict) -> i32 {
        let mut code = abi::HOLD;
        if self.fires {
            out.evidence = self.evidence;
            code = abi::FIRE;
        }
        // Without `sleeps` in the manifest a wake band is a fault, so it is left out: the rule is called for every tick.
        if let (true, Some(band)) = (sleeps, self.band) {
            (out.wake_low, out.wake_high, out.wake_until_ms) = (band.low, band.high, band.until_ms);
            code |= abi::ASLEEP;
        }
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(verdict: Verdict, sleeps: bool, code: i32, expect: abi::Verdict) {
        let mut out = abi::Verdict::default();
        assert_eq!((verdict.write(sleeps, &mut out), out), (code, expect), "{verdict:?}");
    }

    #[test]
    fn the_record_has_what_the_code_announces() {
        let none = abi::Verdict::default();
        check(Verdict::hold(), true, abi::HOLD, none);
        check(Verdict::hold().evidence([1.0]), true, abi::HOLD, none);
        check(Verdict::fire_if(false), true, abi::HOLD, none);

        let evidence = abi::Verdict { evidence: [1.0, 2.0, 0.0, 0.0], ..none };
        check(Verdict::fire().evidence([1.0, 2.0]), true, abi::FIRE, evidence);
        check(Verdict::fire_if(true).evidence([1.0, 2.0]), false, abi::FIRE, evidence);
    }

    #[test]
    fn a_wake_band_has_prices_and_a_time() {
        let band = |wake_low, wake_high, wake_until_ms| abi::Verdict {
            wake_low,
            wake_high,
            wake_until_ms,
            ..Default::default()
        };
        check(Verdict::hold().asleep_between(1.0, 2.0), true, abi::ASLEEP, band(1.0, 2.0, i64::MAX));
        check(Verdict::hold().asleep_between(1.0, 2.0).until(7), true, abi::ASLEEP, band(1.0, 2.0, 7));
        check(Verdict::hold().until(7).asleep_between(1.0, 2.0), true, abi::ASLEEP, band(1.0, 2.0, 7));
        check(Verdict::fire().until(7), true, abi::FIRE | abi::ASLEEP, band(f64::NEG_INFINITY, f64::INFINITY, 7));
        check(Verdict::hold().until(7), false, abi::HOLD, abi::Verdict::default());
    }
}
