//! Where the records of a group's slots lie in guest memory: params side by side, states side by side.

use crate::instance::{Instance, MemoryError};
use crate::manifest::Manifest;

/// Slots of a new table, and of the smallest.
const MIN_CAPACITY: usize = 4;

/// A table shrinks when no more than this part of it is used: below half, so that one that stands at a bound does not
/// grow and shrink in turn.
const SHRINK_BELOW: usize = 4;

/// The records of some slots.
#[derive(Clone, Copy)]
pub(crate) struct Table {
    params_at: usize,
    states_at: usize,
    pub(crate) params_bytes: usize,
    pub(crate) state_bytes: usize,
    capacity: usize,
}

impl Table {
    /// A table without slots, for records as a manifest has them.
    pub(crate) fn new(manifest: &Manifest) -> Self {
        Self {
            params_at: 0,
            states_at: 0,
            params_bytes: manifest.params.packed_bytes(),
            state_bytes: manifest.state_bytes,
            capacity: 0,
        }
    }

    /// The address of a slot's params.
    pub(crate) fn params_at(&self, slot: usize) -> usize {
        self.params_at + slot * self.params_bytes
    }

    /// The address of a slot's state.
    pub(crate) fn state_at(&self, slot: usize) -> usize {
        self.states_at + slot * self.state_bytes
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
        if used == self.capacity {
            self.resize(instance, used, (self.capacity * 2).max(MIN_CAPACITY))?;
        }
        instance.bytes_mut(self.params_at(used), self.params_bytes).copy_from_slice(params);
        let place = instance.bytes_mut(self.state_at(used), self.state_bytes);
        match state {
            Some(state) => place.copy_from_slice(state),
            None => place.fill(0),
        }
        Ok(())
    }

    /// Frees a slot: the records of the last of `used` slots take its place. A table with much room shrinks.
    pub(crate) fn swap_remove(&mut self, instance: &mut Instance, used: usize, slot: usize) {
        let last = used - 1;
        if slot != last {
            instance.copy(self.params_at(last), self.params_at(slot), self.params_bytes);
            instance.copy(self.state_at(last), self.state_at(slot), self.state_bytes);
        }
        if self.capacity > MIN_CAPACITY && last <= self.capacity / SHRINK_BELOW {
            // Where there is no memory for a smaller table, the large one serves as well.
            let _ = self.resize(instance, last, self.capacity / 2);
        }
    }

    /// Gives its memory back. The table has no slots then.
    pub(crate) fn release(&mut self, instance: &mut Instance) {
        instance.release(self.params_at, self.capacity * self.params_bytes);
        instance.release(self.states_at, self.capacity * self.state_bytes);
        self.capacity = 0;
    }

    fn resize(&mut self, instance: &mut Instance, used: usize, capacity: usize) -> Result<(), MemoryError> {
        let params_at = instance.allocate(capacity * self.params_bytes)?;
        let states_at = match instance.allocate(capacity * self.state_bytes) {
            Ok(at) => at,
            Err(error) => {
                instance.release(params_at, capacity * self.params_bytes);
                return Err(error);
            }
        };
        instance.copy(self.params_at, params_at, used * self.params_bytes);
        instance.copy(self.states_at, states_at, used * self.state_bytes);
        self.release(instance);
        *self = Self { params_at, states_at, capacity, ..*self };
        Ok(())
    }
}
