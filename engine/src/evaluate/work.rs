//! A group's work on one tick, and the batches that it is done in.

use super::{Outcome, Scratch};
use crate::ids::Slot;

/// A group's work on one tick: the bindings to be evaluated, how many of them are done, and what came of these.
pub(crate) struct Work {
    pub(crate) outcomes: Vec<(Slot, Outcome)>,
    /// The slots to be evaluated; `None` for all of the table.
    pub(super) listed: Option<Vec<Slot>>,
    pub(super) count: usize,
    /// The index of the next binding, up to `count`.
    pub(super) next: usize,
    /// The bindings before this index are evaluated in isolation: their call faulted.
    pub(super) isolated_until: usize,
}

impl Work {
    pub(super) fn new(outcomes: Vec<(Slot, Outcome)>, listed: Option<Vec<Slot>>, count: usize) -> Self {
        Self { outcomes, listed, count, next: 0, isolated_until: 0 }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.next == self.count
    }

    /// Returns the number of bindings that are evaluated so far.
    pub(crate) fn evaluated(&self) -> u64 {
        self.next as u64
    }

    /// Returns its memory to the scratch memory.
    pub(crate) fn end(self, scratch: &mut Scratch) {
        scratch.outcomes = self.outcomes;
        scratch.slots = self.listed.unwrap_or(std::mem::take(&mut scratch.slots));
    }

    /// Returns the slot of the binding at an index.
    pub(super) fn slot(&self, index: usize) -> Slot {
        self.listed.as_ref().map_or(Slot::new(index), |slots| slots[index])
    }
}

/// Bindings that are next to each other in a group's work, evaluated by one call.
#[derive(Clone, Copy)]
pub(super) enum Batch<'a> {
    Range { first: Slot, count: usize },
    Listed(&'a [Slot]),
}

impl Batch<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Range { count, .. } => *count,
            Self::Listed(slots) => slots.len(),
        }
    }

    /// Returns the slot of the binding at an index of the batch.
    pub(super) fn slot(&self, index: usize) -> Slot {
        match self {
            Self::Range { first, .. } => first.plus(index),
            Self::Listed(slots) => slots[index],
        }
    }

    /// Returns its first bindings, at most `count`.
    pub(super) fn up_to(&self, count: usize) -> Self {
        match *self {
            Self::Range { first, count: all } => Self::Range { first, count: count.min(all) },
            Self::Listed(slots) => Self::Listed(&slots[..count.min(slots.len())]),
        }
    }
}
