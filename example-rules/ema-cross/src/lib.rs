//! `ema-cross`: fires when a fast exponential moving average of the price crosses a slow one.
//!
//! # Definition
//! An average of period n starts at the first price, and each later price moves it by
//!
//! ```text
//! average = average + 2 / (n + 1) * (price - average)
//! ```
//!
//! (the usual smoothing: <https://en.wikipedia.org/wiki/Moving_average#Exponential_moving_average>). Periods are counted
//! in ticks, price updates without volume included. The **side** is up while fast is above slow and down while it is
//! below; where they are equal it stays what it was. The first `slow` ticks only warm up: from the next one on, the rule
//! fires whenever the side changes from up to down or from down to up. The evidence is both averages.
//!
//! Written this way, and not as a weighted sum, an average of equal prices is exactly that price, so that rounding
//! causes no crossings in a flat market.
#![no_std]

use tocsin_rules_sdk::prelude::*;

/// The params of an alert.
#[derive(Params)]
#[repr(C)]
pub struct EmaCross {
    /// Period of the fast average.
    #[param(min = 1, max = 10000, default = 12, unit = "trades")]
    pub fast: u32,
    /// Period of the slow average. It should be longer: with equal periods the averages never cross.
    #[param(min = 1, max = 10000, default = 26, unit = "trades")]
    pub slow: u32,
    /// Which crossings count.
    #[param(default = Direction::Either)]
    pub direction: Direction,
}

/// Which crossings count.
#[derive(Choice, Clone, Copy, Debug, PartialEq)]
#[repr(u32)]
pub enum Direction {
    /// Fast goes above slow.
    Up,
    /// Fast goes below slow.
    Down,
    /// Both.
    Either,
}

/// The state between ticks.
#[derive(State)]
#[repr(C)]
pub struct Averages {
    fast: f64,
    slow: f64,
    /// The weights of a new price. They depend on the params only, so they are computed at the first tick.
    fast_weight: f64,
    slow_weight: f64,
    /// The number of ticks so far, up to one more than the warm-up.
    seen: u32,
    /// The side: 1 if fast is above slow, -1 if it is below, 0 if they have never differed.
    side: i32,
}

fn weight(period: u32) -> f64 {
    2.0 / (f64::from(period) + 1.0)
}

/// Fires when the fast moving average of the price crosses the slow one.
#[rule(evidence("fast_ema", "slow_ema"))]
pub fn ema_cross(tick: &Tick, params: &EmaCross, averages: &mut Averages) -> Verdict {
    if averages.seen == 0 {
        (averages.fast, averages.slow) = (tick.price, tick.price);
        (averages.fast_weight, averages.slow_weight) = (weight(params.fast), weight(params.slow));
    }
    let fast = averages.fast + averages.fast_weight * (tick.price - averages.fast);
    let slow = averages.slow + averages.slow_weight * (tick.price - averages.slow);
    (averages.fast, averages.slow) = (fast, slow);
    if averages.seen <= params.slow {
        averages.seen += 1;
    }

    let before = averages.side;
    averages.side = if fast > slow {
        1
    } else if fast < slow {
        -1
    } else {
        before
    };
    let crossed = before != 0 && averages.side != before && averages.seen > params.slow;
    let direction = if averages.side == 1 { Direction::Up } else { Direction::Down };
    let wanted = params.direction == Direction::Either || params.direction == direction;
    Verdict::fire_if(crossed && wanted).evidence([fast, slow])
}
