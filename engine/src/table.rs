//! The table of a group's records in guest memory. It has segments, each with params side by side and states side by side.
//!
//! The first segment grows until it has its full size; then others of that size are added. So records do not move once the
//! first segment is full, and the blocks that growing frees are smaller than one segment.

use crate::ids::Slot;
use crate::instance::{Instance, MemoryError};
use crate::limits::MAX_BINDINGS_PER_CALL;
use crate::manifest::Manifest;

/// The slots of a new table, and the least that a table shrinks to, if the records are small.
const MIN_CAPACITY: usize = 4;

/// The most bytes that one kind of record takes in a new table of more than one slot.
const MIN_TABLE_BYTES: usize = 1024;

/// The first segment shrinks to a half when no more than one part in so many is used. That is less than a half, so that a
/// table at the bound does not grow and shrink in turn.
const SHRINK_BELOW: usize = 4;

/// The most bytes that one kind of record takes in a segment of more than one slot.
const MAX_SEGMENT_BYTES: usize = 64 * 1024;

/// The addresses of the records of a group's slots.
pub(crate) struct Table {
    segments: Vec<Segment>,
    pub(crate) params_bytes: usize,
    pub(crate) state_bytes: usize,
    /// The slots of the smallest table, a power of two.
    smallest: usize,
    /// The slots of a segment of full size, as a power of two: a division for each record would cost as much as a call.
    full_bits: u32,
    /// The slots of the first segment, at most `full`.
    first: usize,
}

/// The addresses of the first records of neighbouring slots.
#[derive(Clone, Copy)]
struct Segment {
    params_at: usize,
    states_at: usize,
}

impl Table {
    /// Creates a table without slots, for records of the sizes in a manifest.
    pub(crate) fn new(manifest: &Manifest) -> Self {
        let (params_bytes, state_bytes) = (manifest.params.packed_bytes(), manifest.state_bytes);
        // The largest power of two of slots that fit into so many bytes.
        let slots = |bytes: usize, most: usize| {
            let fitting = bytes / params_bytes.max(state_bytes).max(1);
            1 << fitting.clamp(1, most).ilog2()
        };
        let full = slots(MAX_SEGMENT_BYTES, MAX_BINDINGS_PER_CALL as usize);
        let smallest = slots(MIN_TABLE_BYTES, MIN_CAPACITY);
        Self { segments: Vec::new(), params_bytes, state_bytes, smallest, full_bits: full.ilog2(), first: 0 }
    }

    /// Returns the address of a slot's params.
    pub(crate) fn params_at(&self, slot: Slot) -> usize {
        let slot = slot.index();
        self.segments[slot >> self.full_bits].params_at + (slot & (self.full() - 1)) * self.params_bytes
    }

    /// Returns the address of a slot's state.
    pub(crate) fn state_at(&self, slot: Slot) -> usize {
        let slot = slot.index();
        self.segments[slot >> self.full_bits].states_at + (slot & (self.full() - 1)) * self.state_bytes
    }

    /// Returns the number of slots, from this one on, whose records lie side by side.
    pub(crate) fn side_by_side(&self, slot: Slot) -> usize {
        self.full() - (slot.index() & (self.full() - 1))
    }

    /// Returns the slots of a segment of full size, a power of two.
    fn full(&self) -> usize {
        1 << self.full_bits
    }

    /// Returns the params of a slot.
    pub(crate) fn params<'a>(&self, instance: &'a Instance, slot: Slot) -> &'a [u8] {
        instance.bytes(self.params_at(slot), self.params_bytes)
    }

    /// Returns the state of a slot.
    pub(crate) fn state<'a>(&self, instance: &'a Instance, slot: Slot) -> &'a [u8] {
        instance.bytes(self.state_at(slot), self.state_bytes)
    }

    /// Writes the state of a slot.
    pub(crate) fn set_state(&self, instance: &mut Instance, slot: Slot, state: &[u8]) {
        instance.bytes_mut(self.state_at(slot), self.state_bytes).copy_from_slice(state);
    }

    /// Writes the records of `slot`, the first free one. A full table grows. Without a `state` the state is all zero.
    pub(crate) fn push(
        &mut self,
        instance: &mut Instance,
        slot: Slot,
        params: &[u8],
        state: Option<&[u8]>,
    ) -> Result<(), MemoryError> {
        if slot.index() == self.capacity() {
            self.grow(instance, slot.index())?;
        }
        instance.bytes_mut(self.params_at(slot), self.params_bytes).copy_from_slice(params);
        let record = instance.bytes_mut(self.state_at(slot), self.state_bytes);
        match state {
            Some(state) => record.copy_from_slice(state),
            None => record.fill(0),
        }
        Ok(())
    }

    /// Removes the records of a slot. Those of the `last` slot move into it. Frees memory if much of it is unused.
    pub(crate) fn swap_remove(&mut self, instance: &mut Instance, last: Slot, slot: Slot) {
        if slot != last {
            instance.copy(self.params_at(last), self.params_at(slot), self.params_bytes);
            instance.copy(self.state_at(last), self.state_at(slot), self.state_bytes);
        }
        let used = last.index();
        if self.segments.len() > 1 {
            // The last one is freed when it is empty and the one before it is at most half full.
            if used + self.full() / 2 <= (self.segments.len() - 1) * self.full() {
                let segment = self.segments.pop().expect("there are several");
                self.release_segment(instance, segment, self.full());
            }
        } else if self.first > self.smallest && used <= self.first / SHRINK_BELOW {
            // If there is no memory for a smaller segment, the larger one is kept.
            let _ = self.resize_first(instance, used, self.first / 2);
        }
    }

    /// Frees all memory. The table must have no slots in use.
    pub(crate) fn release(&mut self, instance: &mut Instance) {
        for (at, segment) in std::mem::take(&mut self.segments).into_iter().enumerate() {
            self.release_segment(instance, segment, if at == 0 { self.first } else { self.full() });
        }
        self.first = 0;
    }

    fn capacity(&self) -> usize {
        match self.segments.len() {
            0 => 0,
            1 => self.first,
            count => count * self.full(),
        }
    }

    fn grow(&mut self, instance: &mut Instance, used: usize) -> Result<(), MemoryError> {
        if self.first < self.full() {
            return self.resize_first(instance, used, (self.first * 2).clamp(self.smallest, self.full()));
        }
        let segment = self.allocate_segment(instance, self.full())?;
        self.segments.push(segment);
        Ok(())
    }

    fn resize_first(&mut self, instance: &mut Instance, used: usize, capacity: usize) -> Result<(), MemoryError> {
        let segment = self.allocate_segment(instance, capacity)?;
        if let Some(old) = self.segments.pop() {
            instance.copy(old.params_at, segment.params_at, used * self.params_bytes);
            instance.copy(old.states_at, segment.states_at, used * self.state_bytes);
            self.release_segment(instance, old, self.first);
        }
        self.segments.push(segment);
        self.first = capacity;
        Ok(())
    }

    fn allocate_segment(&self, instance: &mut Instance, slots: usize) -> Result<Segment, MemoryError> {
        let params_at = instance.allocate(slots * self.params_bytes)?;
        match instance.allocate(slots * self.state_bytes) {
            Ok(states_at) => Ok(Segment { params_at, states_at }),
            Err(error) => {
                instance.release(params_at, slots * self.params_bytes);
                Err(error)
            }
        }
    }

    fn release_segment(&self, instance: &mut Instance, segment: Segment, slots: usize) {
        instance.release(segment.params_at, slots * self.params_bytes);
        instance.release(segment.states_at, slots * self.state_bytes);
    }
}
