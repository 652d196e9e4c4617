//! A group's work on one tick, and the batches that it is done in.

use super::Outcome;
use crate::ids::Slot;

/// A group's work on one tick: the bindings to be evaluated, how many of them are done, and what came of these. It is used
/// again for the next group, in its place: moving it costs as much as a cheap call.
#[derive(Default)]
pub(crate) struct Work {
    pub(crate) outcomes: Vec<(Slot, Outcome)>,
    /// Whether only the slots in `slots` are evaluated, and not all of the table.
    pub(super) is_listed: bool,
    pub(super) slots: Vec<Slot>,
    pub(super) count: usize,
    /// The index of the next binding, up to `count`.
    pub(super) next: usize,
    /// The bindings before this index are evaluated in isolation: their call faulted.
    pub(super) isolated_until: usize,
}

impl Work {
    /// Begins the work on all of a table.
    pub(super) fn restart(&mut self, count: usize) {
        self.outcomes.clear();
        self.is_listed = false;
        self.count = count;
        self.next = 0;
        self.isolated_until = 0;
    }

    /// Restricts the work to some slots, in their order: the records of neighbours share cache lines.
    pub(super) fn list(&mut self, slots: &[Slot]) {
        self.is_listed = true;
        self.slots.clear();
        self.slots.extend_from_slice(slots);
        self.slots.sort_unstable();
        self.count = slots.len();
    }

    pub(crate) fn is_done(&self) -> bool {
        self.next == self.count
    }

    /// Returns the number of bindings that are evaluated so far.
    pub(crate) fn evaluated(&self) -> u64 {
        self.next as u64
    }

    /// Returns the slot of the binding at an index.
    pub(super) fn slot(&self, index: usize) -> Slot {
        if self.is_listed { self.slots[index] } else { Slot::new(index) }
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
