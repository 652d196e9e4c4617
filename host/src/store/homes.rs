//! Homes of symbols: the one partition whose ticks count.

use tocsin_engine::domain::Position;

/// The first tick that counts for a new binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// On a partition that is known to be the symbol's home.
    At(Position),
    /// On whichever partition the symbol turns out to have its home: where each ended, by partition.
    FirstSeen(Vec<u64>),
}
