//! Symbol assignments: the one partition on which a symbol's ticks count.

use tocsin_engine::domain::{Position, Symbol};

/// Where the ticks of a symbol count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SymbolAssignment {
    /// A symbol that was watched at some time.
    pub symbol: Symbol,
    /// None until the symbol's first tick arrives.
    pub partition: Option<u32>,
}

/// The first tick that counts for a new binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// On the partition that the symbol is known to be assigned to.
    At(Position),
    /// On whichever partition the symbol will be assigned to: where each partition ended, by partition.
    FirstSeen(Vec<u64>),
}

/// A symbol that is not assigned yet, and the offsets from which its first tick is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnassignedSymbol {
    /// A symbol that live bindings wait for.
    pub symbol: Symbol,
    /// Where each partition ended when the first of the symbol's bindings was created.
    pub ends: Vec<u64>,
}

impl UnassignedSymbol {
    /// Returns the offset from which ticks of a partition count.
    pub fn end_of(&self, partition: u32) -> u64 {
        end_of(&self.ends, partition)
    }
}

/// Returns where a partition ended; 0 for a partition that was added later, since it had no tick then.
pub(super) fn end_of(ends: &[u64], partition: u32) -> u64 {
    ends.get(partition as usize).copied().unwrap_or(0)
}
