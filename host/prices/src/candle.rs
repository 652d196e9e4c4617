//! Candles: what was traded of a symbol in an interval, by event time.
//!
//! - A candle's start is its ticks' event time, rounded down to a multiple of the interval since 1970.
//! - Open is the price of the earliest tick, close that of the latest. Of ticks with equal times, the one that arrived
//!   first opens and the one that arrived last closes.
//! - A tick with volume 0 is a price update: it counts for open, high, low and close, and is no trade.
//! - VWAP is the sum of price times volume by the sum of volume; there is none where the volume is 0. Sums are made in the
//!   order of arrival, so that they come out the same however ticks were batched. They stop at the largest f64.
//! - A late tick goes into the candle of its time, for as long as that one would be among those that are kept.

use tocsin_engine::domain::Tick;

use super::Price;

/// How long the time of a candle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Interval {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// Five minutes.
    FiveMinutes,
    /// An hour.
    Hour,
}

/// Candles of a second that are kept of a symbol: an hour of a busy one. With the 7,056 others, at 80 bytes each
/// ([`super::encoding::CANDLE_BYTES`]), a symbol takes at most 0.9 MB, and some 2 MB in Redis with its indexes.
const KEPT_SECONDS: usize = 3_600;

/// Candles of a minute that are kept of a symbol: two days.
const KEPT_MINUTES: usize = 2_880;

/// Candles of five minutes that are kept of a symbol: a week.
const KEPT_FIVE_MINUTES: usize = 2_016;

/// Candles of an hour that are kept of a symbol: 90 days.
const KEPT_HOURS: usize = 2_160;

/// What was traded in an interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candle {
    /// Where the interval begins, Unix milliseconds.
    pub start_ms: i64,
    /// The first tick's price.
    pub open: Price,
    /// The last tick's price.
    pub close: Price,
    /// The highest price.
    pub high: f64,
    /// The lowest price.
    pub low: f64,
    /// Sum of the volumes.
    pub volume: f64,
    /// Sum of price times volume.
    pub turnover: f64,
    /// Ticks whose volume is not 0.
    pub trades: u64,
}

impl Interval {
    /// All of them, shortest first.
    pub const ALL: [Self; 4] = [Self::Second, Self::Minute, Self::FiveMinutes, Self::Hour];

    /// As clients write it: `1s`, `1m`, `5m` or `1h`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Second => "1s",
            Self::Minute => "1m",
            Self::FiveMinutes => "5m",
            Self::Hour => "1h",
        }
    }

    /// How long it is, milliseconds.
    pub fn length_ms(self) -> i64 {
        match self {
            Self::Second => 1_000,
            Self::Minute => 60_000,
            Self::FiveMinutes => 300_000,
            Self::Hour => 3_600_000,
        }
    }

    /// Candles that are kept of a symbol: the newest so many. The one that later ticks will still change is one of them.
    pub fn kept_candles(self) -> usize {
        match self {
            Self::Second => KEPT_SECONDS,
            Self::Minute => KEPT_MINUTES,
            Self::FiveMinutes => KEPT_FIVE_MINUTES,
            Self::Hour => KEPT_HOURS,
        }
    }

    /// The start of the candle that a time belongs to.
    pub fn start_of(self, time_ms: i64) -> i64 {
        time_ms - time_ms.rem_euclid(self.length_ms())
    }
}

impl Candle {
    /// The candle of an interval that holds one tick.
    pub(super) fn of(interval: Interval, tick: &Tick) -> Self {
        let first = Price { price: tick.price, time_ms: tick.time_ms };
        let mut candle = Self {
            start_ms: interval.start_of(tick.time_ms),
            open: first,
            close: first,
            high: tick.price,
            low: tick.price,
            volume: 0.0,
            turnover: 0.0,
            trades: 0,
        };
        candle.add(tick);
        candle
    }

    /// Adds a tick of its interval.
    pub(super) fn add(&mut self, tick: &Tick) {
        let price = Price { price: tick.price, time_ms: tick.time_ms };
        if price.time_ms < self.open.time_ms {
            self.open = price;
        }
        if price.replaces(&self.close) {
            self.close = price;
        }
        self.high = self.high.max(tick.price);
        self.low = self.low.min(tick.price);
        self.volume = finite(self.volume + tick.volume);
        self.turnover = finite(self.turnover + finite(tick.price * tick.volume));
        self.trades += u64::from(tick.volume > 0.0);
    }

    /// The average price, weighted by volume.
    pub fn vwap(&self) -> Option<f64> {
        // Rounding must not put it outside of what was paid.
        (self.volume > 0.0).then(|| (self.turnover / self.volume).clamp(self.low, self.high))
    }
}

/// Of numbers that are too large the largest.
fn finite(number: f64) -> f64 {
    number.clamp(f64::MIN, f64::MAX)
}

#[cfg(test)]
mod tests {
    use tocsin_engine::domain::{Conditions, Symbol};

    use super::*;

    fn candle(ticks: &[(f64, f64, i64)]) -> Candle {
        let mut ticks = ticks.iter().map(|&(price, volume, time_ms)| {
            Tick::new(Symbol::parse("X").unwrap(), price, volume, time_ms, Conditions::default()).unwrap()
        });
        let mut candle = Candle::of(Interval::Minute, &ticks.next().unwrap());
        ticks.for_each(|tick| candle.add(&tick));
        candle
    }

    #[track_caller]
    fn check(ticks: &[(f64, f64, i64)], prices: [f64; 4], volume: f64, vwap: Option<f64>, trades: u64) {
        let candle = candle(ticks);
        assert_eq!([candle.open.price, candle.high, candle.low, candle.close.price], prices, "{ticks:?}");
        assert_eq!((candle.volume, candle.vwap(), candle.trades), (volume, vwap, trades), "{ticks:?}");
    }

    #[test]
    fn a_candle_is_made_by_event_time_and_of_equal_times_by_arrival() {
        check(&[(2.0, 1.0, 5)], [2.0; 4], 1.0, Some(2.0), 1);
        check(&[(2.0, 1.0, 5), (3.0, 3.0, 6)], [2.0, 3.0, 2.0, 3.0], 4.0, Some(2.75), 2);
        check(&[(3.0, 3.0, 6), (2.0, 1.0, 5)], [2.0, 3.0, 2.0, 3.0], 4.0, Some(2.75), 2);
        check(&[(1.0, 1.0, 5), (9.0, 1.0, 5), (4.0, 2.0, 5)], [1.0, 9.0, 1.0, 4.0], 4.0, Some(4.5), 3);
        check(&[(-1.0, 1.0, 5), (-3.0, 1.0, 9)], [-1.0, -1.0, -3.0, -3.0], 2.0, Some(-2.0), 2);
    }

    #[test]
    fn a_price_update_is_no_trade() {
        check(&[(2.0, 0.0, 5)], [2.0; 4], 0.0, None, 0);
        check(&[(2.0, 1.0, 5), (9.0, 0.0, 6), (1.0, 0.0, 4)], [1.0, 9.0, 1.0, 9.0], 1.0, Some(2.0), 1);
    }

    #[test]
    fn numbers_stay_finite_and_the_average_among_the_prices() {
        check(&[(61_800.3, 0.006, 5)], [61_800.3; 4], 0.006, Some(61_800.3), 1);
        let (huge, low) = (f64::MAX, f64::MIN);
        check(&[(huge, huge, 5), (low, huge, 6), (1.0, 1.0, 7)], [huge, huge, low, 1.0], huge, Some(1.0 / huge), 3);
        check(&[(huge, 5e-324, 5)], [huge; 4], 5e-324, Some(huge), 1);
    }

    #[test]
    fn starts_are_multiples_of_the_interval() {
        let starts = |time_ms| Interval::ALL.map(|interval| interval.start_of(time_ms));
        assert_eq!(starts(0), [0; 4]);
        assert_eq!(starts(3_599_999), [3_599_000, 3_540_000, 3_300_000, 0]);
        assert_eq!(starts(3_600_000), [3_600_000; 4]);
    }
}
