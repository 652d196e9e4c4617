//! Where the records of a group's slots lie in guest memory: in segments, each with params side by side and states side by
//! side.
//!
//! The first segment grows until it is full; then others of its size are added. So no record moves once its segment is full,
//! and what growing leaves behind is less than one segment.

use crate::instance::{Instance, MemoryError};
use crate::limits::MAX_BINDINGS_PER_CALL;
use crate::manifest::Manifest;

/// Slots of a new table, and of the smallest, where their records are small.
const MIN_CAPACITY: usize = 4;

/// The most that the records of a new table take, in bytes, where more than one slot is in it.
const MIN_TABLE_BYTES: usize = 1024;

/// The first segment shrinks when no more than this part of it is used: below half, so that one that stands at a bound does
/// not grow and shrink in turn.
const SHRINK_BELOW: usize = 4;

/// The most that one kind of record takes in a segment, in bytes, where more than one slot fits.
const MAX_SEGMENT_BYTES: usize = 64 * 1024;

/// The records of some slots.
pub(crate) struct Table {
    segments: Vec<Segment>,
    pub(crate) params_bytes: usize,
    pub(crate) state_bytes: usize,
    /// Slots of the smallest table: a power of two.
    smallest: usize,
    /// Slots of a full segment: a power of two.
    full: usize,
    /// Slots of the first segment, which may not be full.
    first: usize,
}

/// Where the records of neighbouring slots begin.
#[derive(Clone, Copy)]
struct Segment {
    params_at: usize,
    states_at: usize,
}

impl Table {
    /// A table without slots, for records as a manifest has them.
    pub(crate) fn new(manifest: &Manifest) -> Self {
        let (params_bytes, state_bytes) = (manifest.params.packed_bytes(), manifest.state_bytes);
        // The largest power of two of slots that fit.
        let slots = |bytes: usize, most: usize| {
            let fitting = bytes / params_bytes.max(state_bytes).max(1);
            1 << fitting.clamp(1, most).ilog2()
        };
        let full = slots(MAX_SEGMENT_BYTES, MAX_BINDINGS_PER_CALL as usize);
        let smallest = slots(MIN_TABLE_BYTES, MIN_CAPACITY);
        Self { segments: Vec::new(), params_bytes, state_bytes, smallest, full, first: 0 }
    }

    /// The address of a slot's params.
    pub(crate) fn params_at(&self, slot: usize) -> usize {
        self.segments[slot / self.full].params_at + slot % self.full * self.params_bytes
    }

    /// The address of a slot's state.
    pub(crate) fn state_at(&self, slot: usize) -> usize {
        self.segments[slot / self.full].states_at + slot % self.full * self.state_bytes
    }

    /// How many slots from this one on have their records side by side.
    pub(crate) fn side_by_side(&self, slot: usize) -> usize {
        self.full - slot % self.full
    }

    /// The params of a slot.
    pub(crate) fn params<'a>(&self, instance: &'a Instance, slot: usize) -> &'a [u8] {
        instance.bytes(self.params_at(slot), self.params_bytes)
    }

    /// The state of a slot.
    pub(crate) fn state<'a>(&self, instance: &'a Instance, slot: usize) -> &'a [u8] {
        instance.bytes(self.state_at(slot), self.state_bytes)
    }

    /// Writes the state of a slot.
    pub(crate) fn set_state(&self, instance: &mut Instance, slot: usize, state: &[u8]) {
        instance.bytes_mut(self.state_at(slot), self.state_bytes).copy_from_slice(state);
    }

    /// Writes the records of slot `used`, the first free one; the table grows where it is full. Without a state it is
    /// all zero.
    pub(crate) fn push(
        &mut self,
        instance: &mut Instance,
        used: usize,
        params: &[u8],
        state: Option<&[u8]>,
    ) -> Result<(), MemoryError> {
        if used == self.capacity() {
            self.grow(instance, used)?;
        }
        instance.bytes_mut(self.params_at(used), self.params_bytes).copy_from_slice(params);
        let place = instance.bytes_mut(self.state_at(used), self.state_bytes);
        match state {
            Some(state) => place.copy_from_slice(state),
            None => place.fill(0),
        }
        Ok(())
    }

    /// Frees a slot: the records of the last of `used` slots take its place. A table with much room gives some back.
    pub(crate) fn swap_remove(&mut self, instance: &mut Instance, used: usize, slot: usize) {
        let last = used - 1;
        if slot != last {
            instance.copy(self.params_at(last), self.params_at(slot), self.params_bytes);
            instance.copy(self.state_at(last), self.state_at(slot), self.state_bytes);
        }
        if self.segments.len() > 1 {
            // The last one goes when it is empty and the one before is no more than half full.
            if last + self.full / 2 <= (self.segments.len() - 1) * self.full {
                let segment = self.segments.pop().expect("there are several");
                self.release_segment(instance, segment, self.full);
            }
        } else if self.first > self.smallest && last <= self.first / SHRINK_BELOW {
            // Where there is no memory for a smaller segment, the large one serves as well.
            let _ = self.resize_first(instance, last, self.first / 2);
        }
    }

    /// Gives its memory back. The table has no slots then.
    pub(crate) fn release(&mut self, instance: &mut Instance) {
        for (at, segment) in std::mem::take(&mut self.segments).into_iter().enumerate() {
            self.release_segment(instance, segment, if at == 0 { self.first } else { self.full });
        }
        self.first = 0;
    }

    fn capacity(&self) -> usize {
        match self.segments.len() {
            0 => 0,
            1 => self.first,
            count => count * self.full,
        }
    }

    fn grow(&mut self, instance: &mut Instance, used: usize) -> Result<(), MemoryError> {
        if self.first < self.full {
            return self.resize_first(instance, used, (self.first * 2).clamp(self.smallest, self.full));
        }
        let segment = self.allocate_segment(instance, self.full)?;
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
