//! Homes of symbols: the one partition whose ticks count.

use tocsin_engine::domain::{Position, Symbol};

/// The first tick that counts for a new binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// On a partition that is known to be the symbol's home.
    At(Position),
    /// On whichever partition the symbol turns out to have its home: where each ended, by partition.
    FirstSeen(Vec<u64>),
}

/// A symbol without a home, and from where on its first tick is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sought {
    /// The symbol.
    pub symbol: Symbol,
    /// Where each partition ended when the first of the bindings was created. One that was made since had no tick then.
    pub ends: Vec<u64>,
}

impl Sought {
    /// Ticks of a partition count from this offset on.
    pub fn end_of(&self, partition: u32) -> u64 {
        end_of(&self.ends, partition)
    }
}

/// Where a partition ended; one that was made since had no tick then.
pub(super) fn end_of(ends: &[u64], partition: u32) -> u64 {
    ends.get(partition as usize).copied().unwrap_or(0)
}
