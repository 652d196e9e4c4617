//! How fast a recording is played, and when a trade is due.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tokio::time::Instant;

/// The longest single wait; the rest is waited for in further ones. It keeps absurd gaps within what a clock can add.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);

/// The speed of a playback.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// A multiple of the recording's own speed: finite and above 0.
    Times(f64),
    /// As fast as the clients read.
    Max,
}

/// Why a text is not a speed, with the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a speed: give `max`, or a number above 0 followed by x, such as 1x or 100x")]
pub struct SpeedError(String);

impl Speed {
    /// The recording's own speed.
    pub const REAL_TIME: Self = Self::Times(1.0);
}

impl FromStr for Speed {
    type Err = SpeedError;

    fn from_str(text: &str) -> Result<Self, SpeedError> {
        if text == "max" {
            return Ok(Self::Max);
        }
        let times = text.strip_suffix('x').and_then(|number| number.parse::<f64>().ok());
        times.filter(|n| n.is_finite() && *n > 0.0).map(Self::Times).ok_or_else(|| SpeedError(text.to_owned()))
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Times(times) => write!(f, "{times}x"),
            Self::Max => f.write_str("max"),
        }
    }
}

/// Ties event times to the clock from a moment on.
#[derive(Debug)]
pub(super) struct Pace {
    speed: Speed,
    /// A moment, and the event time that belonged to it.
    anchor: Option<(Instant, i64)>,
}

impl Pace {
    pub(super) fn new(speed: Speed) -> Self {
        Self { speed, anchor: None }
    }

    /// Playback stood still: the next trade is due at once, and the others in their distance to it.
    pub(super) fn restart(&mut self) {
        self.anchor = None;
    }

    /// How long it is until a trade of this event time is due; none if it is due now.
    pub(super) fn wait(&mut self, time_ms: i64, now: Instant) -> Option<Duration> {
        let Speed::Times(times) = self.speed else {
            return None;
        };
        let (moment, anchor_ms) = *self.anchor.get_or_insert((now, time_ms));
        let since_anchor_s = (time_ms.saturating_sub(anchor_ms)).max(0) as f64 / 1_000.0 / times;
        let since_anchor = Duration::try_from_secs_f64(since_anchor_s).unwrap_or(Duration::MAX);
        let wait = since_anchor.saturating_sub(now.duration_since(moment));
        Some(wait.min(LONGEST_WAIT)).filter(|wait| !wait.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_multiples_or_max() {
        for (text, speed) in
            [("1x", Speed::REAL_TIME), ("100x", Speed::Times(100.0)), ("0.5x", Speed::Times(0.5)), ("max", Speed::Max)]
        {
            assert_eq!(text.parse(), Ok(speed));
            assert_eq!(speed.to_string(), text);
        }
        for bad in ["", "x", "1", "0x", "-1x", "NaNx", "infx", "1 x", "MAX"] {
            assert_eq!(bad.parse::<Speed>(), Err(SpeedError(bad.into())));
        }
    }

    #[test]
    fn a_trade_is_due_in_its_distance_to_the_first() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut pace = Pace::new(Speed::Times(10.0));
        assert_eq!(pace.wait(1_000, start), None);
        assert_eq!(pace.wait(2_000, start), Some(ms(100)));
        assert_eq!(pace.wait(2_000, start + ms(40)), Some(ms(60)));
        assert_eq!(pace.wait(2_000, start + ms(100)), None);
        assert_eq!(pace.wait(500, start), None, "time that runs backwards is not waited for");
        pace.restart();
        assert_eq!(pace.wait(9_000, start + ms(500)), None);
        assert_eq!(pace.wait(9_010, start + ms(500)), Some(ms(1)));
        assert_eq!(Pace::new(Speed::Max).wait(i64::MAX, start), None);
    }
}
