//! `volume-spike`: fires when a trade is unusually large for its symbol.
//!
//! # Definition
//! Over the volumes of the `trades` trades before this one, oldest first,
//!
//! ```text
//! mean      = sum(volume) / trades
//! deviation = sqrt(sum((volume - mean)^2) / trades)
//! z_score   = (volume of this trade - mean) / deviation
//! ```
//!
//! and the rule fires when this trade's `z_score` is at least the alert's. It holds until it has seen `trades` trades,
//! and where the deviation is below 1e-9 of the mean: there the volumes differ by rounding only, and a z-score is
//! meaningless. Price updates (volume 0) are not trades and are ignored. The evidence is the z-score and the mean.
//!
//! # Why two passes
//! Sums of squares that are updated trade by trade drift, and cancel where the deviation is small against the mean
//! (<https://en.wikipedia.org/wiki/Algorithms_for_calculating_variance>). Two passes over at most 256 numbers do not.
#![no_std]

use tocsin_rules_sdk::prelude::*;

/// The longest window, in trades.
const MAX_TRADES: usize = 256;

/// A deviation below this share of the mean is due to rounding.
const MIN_RELATIVE_DEVIATION: f64 = 1e-9;

/// The params of an alert.
#[derive(Params)]
#[repr(C)]
pub struct VolumeSpike {
    /// How many standard deviations above the mean.
    #[param(min = 0.1, default = 4)]
    pub z_score: f64,
    /// How many trades before this one make the mean.
    #[param(min = 8, max = 256, default = 100, unit = "trades")]
    pub trades: u32,
}

/// A ring buffer of the volumes of the last trades.
#[derive(State)]
#[repr(C)]
pub struct Volumes {
    ring: [f64; MAX_TRADES],
    /// The index of the next volume: in a full ring, that of the oldest one.
    next: u32,
    /// The number of volumes in the ring.
    count: u32,
}

impl Volumes {
    /// Returns mean and population standard deviation of the last `trades` volumes, or `None` if there are fewer.
    fn mean_and_deviation(&self, trades: u32) -> Option<(f64, f64)> {
        if self.count < trades {
            return None;
        }
        // Not `ring[..]`: these are always in range, and a panic that cannot happen would make the module larger.
        let (newer, older) = self.ring.get(..trades as usize)?.split_at_checked(self.next as usize)?;
        let volumes = || older.iter().chain(newer);
        let mean = volumes().sum::<f64>() / f64::from(trades);
        let squares: f64 = volumes().map(|volume| (volume - mean) * (volume - mean)).sum();
        Some((mean, math::sqrt(squares / f64::from(trades))))
    }

    /// Replaces the oldest of `trades` volumes.
    fn push(&mut self, volume: f64, trades: u32) {
        if let Some(oldest) = self.ring.get_mut(self.next as usize) {
            *oldest = volume;
        }
        self.next = if self.next + 1 < trades { self.next + 1 } else { 0 };
        self.count = trades.min(self.count + 1);
    }
}

/// Fires when a trade's volume is at least `z_score` standard deviations above the mean of the trades before it.
#[rule(evidence("z_score", "mean_volume"))]
pub fn volume_spike(tick: &Tick, params: &VolumeSpike, volumes: &mut Volumes) -> Verdict {
    if tick.volume == 0.0 {
        return Verdict::hold();
    }
    let before = volumes.mean_and_deviation(params.trades);
    volumes.push(tick.volume, params.trades);
    let Some((mean, deviation)) = before else { return Verdict::hold() };

    let z_score = (tick.volume - mean) / deviation;
    let meaningful = deviation >= MIN_RELATIVE_DEVIATION * mean;
    // A volume near the limit of f64 could give infinity, which is not valid evidence.
    Verdict::fire_if(meaningful && z_score >= params.z_score).evidence([z_score.min(f64::MAX), mean])
}
