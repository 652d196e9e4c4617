//! `percent-move`: fires when the price moved by at least a percentage within a time window.
//!
//! # Definition
//! Time is the newest event time seen so far, so a late tick counts at that time and the window never goes back. Time
//! is cut into buckets of `ceil(window_ms / 32)` ms, counted from the Unix epoch; the **window** is the bucket of now
//! and the 31 before it, this tick included. With
//!
//! ```text
//! change(reference) = (price - reference) / reference * 100      for a reference above 0
//! ```
//!
//! the rule fires up when `change(lowest price of the window) >= percent`, and down when `change(highest) <= -percent`;
//! up is checked first. For a reference at or below 0, which some markets have, no percentage is defined: that direction
//! holds. The evidence is the change, with its sign, and the reference.
//!
//! # Why buckets
//! A window of single ticks needs unbounded memory, but a rule's state is bounded. With 32 buckets the window is at most 1/32
//! shorter than `window_ms`, and an alert takes half a kilobyte.
#![no_std]

use tocsin_rules_sdk::prelude::*;

/// Buckets of the window.
const BUCKETS: usize = 32;

/// The params of an alert.
#[derive(Params)]
#[repr(C)]
pub struct PercentMove {
    /// The least move that fires.
    #[param(min = 0.01, max = 1000, default = 5, unit = "%")]
    pub percent: f64,
    /// How far back the window reaches.
    #[param(min = 1000, max = 86400000, default = 300000, unit = "ms")]
    pub window_ms: u32,
    /// Which moves count.
    #[param(default = Direction::Either)]
    pub direction: Direction,
}

/// Which moves count.
#[derive(Choice, Clone, Copy, Debug, PartialEq)]
#[repr(u32)]
pub enum Direction {
    /// From the window's lowest price.
    Up,
    /// From the window's highest price.
    Down,
    /// Both.
    Either,
}

/// The extremes of the last buckets.
#[derive(State)]
#[repr(C)]
pub struct Window {
    /// Bucket n is at `n % BUCKETS`.
    buckets: [Extremes; BUCKETS],
    /// The number of the newest bucket. Numbers start at `BUCKETS`, so that in a state of zeroes, which are not prices, all
    /// buckets are outside of the window.
    newest: u64,
}

/// The lowest and the highest price of a bucket.
#[derive(State, Clone, Copy)]
#[repr(C)]
struct Extremes {
    low: f64,
    high: f64,
}

impl Extremes {
    /// No price: every price is below this low and above this high.
    const NONE: Self = Self { low: f64::INFINITY, high: f64::NEG_INFINITY };

    fn include(&mut self, other: Self) {
        if other.low < self.low {
            self.low = other.low;
        }
        if other.high > self.high {
            self.high = other.high;
        }
    }
}

impl Window {
    /// Advances to the bucket of `time_ms`, unless that is in the past, and adds the price to it.
    fn add(&mut self, price: f64, time_ms: i64, bucket_ms: u32) {
        // Event times are not negative.
        let bucket = time_ms as u64 / u64::from(bucket_ms) + BUCKETS as u64;
        // After a long silence each bucket is emptied once only.
        self.newest = self.newest.max(bucket - BUCKETS as u64);
        while self.newest < bucket {
            self.newest += 1;
            self.buckets[self.newest as usize % BUCKETS] = Extremes::NONE;
        }
        self.buckets[self.newest as usize % BUCKETS].include(Extremes { low: price, high: price });
    }

    fn extremes(&self) -> Extremes {
        let mut all = Extremes::NONE;
        for bucket in self.buckets {
            all.include(bucket);
        }
        all
    }
}

/// Returns the move from `reference` to `price` in percent, if it is defined.
fn change_percent(price: f64, reference: f64) -> Option<f64> {
    // Prices near the limits of f64 could give infinity, which is not valid evidence.
    (reference > 0.0).then(|| ((price - reference) / reference * 100.0).clamp(f64::MIN, f64::MAX))
}

/// Fires when the price is at least `percent` above the lowest or below the highest price of the last `window_ms`.
#[rule(evidence("change_percent", "reference_price"))]
pub fn percent_move(tick: &Tick, params: &PercentMove, window: &mut Window) -> Verdict {
    // `max`: the schema keeps the window above 0, but the compiler would add a panic for the division.
    let bucket_ms = params.window_ms.div_ceil(BUCKETS as u32).max(1);
    window.add(tick.price, tick.time_ms, bucket_ms);
    let Extremes { low, high } = window.extremes();
    if params.direction != Direction::Down
        && let Some(rise) = change_percent(tick.price, low)
        && rise >= params.percent
    {
        return Verdict::fire().evidence([rise, low]);
    }
    if params.direction != Direction::Up
        && let Some(fall) = change_percent(tick.price, high)
        && fall <= -params.percent
    {
        return Verdict::fire().evidence([fall, high]);
    }
    Verdict::hold()
}
