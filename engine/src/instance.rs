//! One running instance of a rule, and the tables in its memory.
//!
//! An instance is used until it traps, then never again: a fresh one takes over its tables. All access of the host to
//! guest memory is in this file, through bounds-checked slices.

use tocsin_rules_sdk::abi;
use wasmtime::{Global, Memory, Store, StoreLimits, StoreLimitsBuilder, Trap, TypedFunc, Val};

use crate::domain::Tick;
use crate::fault::Fault;
use crate::heap::Heap;
use crate::inject::{
    ANSWER_BYTES, ANSWERS_AT, DRIVER_EXPORT, FUEL_EXPORT, LIST_AT, LIST_DRIVER_EXPORT, LIST_ENTRY_BYTES, MAX_ANSWERS,
    MEMORY_EXPORT, MIGRATION_EXPORT, PAGE_BYTES, STRAY_WRITE, VERDICT_AT, mailbox_at,
};
use crate::limits::{EPOCH_DEADLINE_TICKS, MAX_INSTANCE_PAGES};
use crate::runtime::Rule;
use crate::wake::Band;

/// A running rule.
pub(crate) struct Instance {
    rule: Rule,
    store: Store<StoreLimits>,
    instance: wasmtime::Instance,
    memory: Memory,
    drive: Driver,
    /// Of rules that sleep.
    drive_listed: Option<Driver>,
    fuel: Global,
    heap: Heap,
    /// The tick to be judged, as the guest sees it: written before each call, since the guest can overwrite it.
    tick: [u8; abi::TICK_BYTES],
}

/// A driver that [`crate::inject`] has appended.
type Driver = TypedFunc<(i32, i32, i32), i64>;

/// How one call into the sandbox ended.
pub(crate) enum CallEnd {
    /// So many bindings were judged, with so many answers in the mailbox.
    Judged { bindings: u32, answers: u32 },
    /// The rule is at fault. The instance must be replaced.
    Fault(Fault),
    /// The host was too slow, and no verdict may be drawn from it. The instance must be replaced.
    Deadline,
}

/// What a rule answered, other than hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Answer {
    /// Which binding of the call, from 0.
    pub(crate) slot: u32,
    pub(crate) code: i32,
    pub(crate) evidence: [f64; abi::MAX_EVIDENCE],
    pub(crate) band: Band,
}

/// A rule could not be given the memory that its bindings need.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    #[error("the bindings of this rule fill its instance's memory of {MAX_INSTANCE_PAGES} pages of 64 KiB")]
    Full,
    #[error("the machine has no memory left for an instance of this rule: {0}")]
    Refused(String),
}

impl Instance {
    pub(crate) fn new(rule: &Rule) -> Result<Self, MemoryError> {
        let limits = StoreLimitsBuilder::new()
            .instances(1)
            .memories(1)
            .memory_size(MAX_INSTANCE_PAGES as usize * PAGE_BYTES)
            .build();
        let template = rule.template();
        let mut store = Store::new(template.module().engine(), limits);
        store.limiter(|limits| limits);
        // Instantiation runs no guest code: start functions are refused and segments are constant.
        store.set_epoch_deadline(EPOCH_DEADLINE_TICKS);
        let refused = |error: wasmtime::Error| MemoryError::Refused(error.to_string());
        let instance = template.instantiate(&mut store).map_err(refused)?;
        let memory = instance.get_memory(&mut store, MEMORY_EXPORT).expect("injected");
        let drive = instance.get_typed_func(&mut store, DRIVER_EXPORT).expect("injected");
        let drive_listed = instance.get_typed_func(&mut store, LIST_DRIVER_EXPORT).ok();
        let fuel = instance.get_global(&mut store, FUEL_EXPORT).expect("injected");
        let tables = mailbox_at(rule.guest_pages()) + PAGE_BYTES;
        let heap = Heap::new(tables, MAX_INSTANCE_PAGES as usize * PAGE_BYTES);
        Ok(Self {
            rule: rule.clone(),
            store,
            instance,
            memory,
            drive,
            drive_listed,
            fuel,
            heap,
            tick: [0; abi::TICK_BYTES],
        })
    }

    /// A fresh instance that takes over the tables of this one, which has trapped.
    pub(crate) fn replace(&mut self) -> Result<(), MemoryError> {
        let mut fresh = Self::new(&self.rule)?;
        std::mem::swap(&mut fresh.heap, &mut self.heap);
        fresh.tick = self.tick;
        fresh.reach(fresh.heap.top())?;
        let tables = mailbox_at(self.rule.guest_pages()) + PAGE_BYTES;
        let end = fresh.heap.top();
        fresh.memory.data_mut(&mut fresh.store)[tables..end]
            .copy_from_slice(&self.memory.data(&self.store)[tables..end]);
        *self = fresh;
        Ok(())
    }

    pub(crate) fn rule(&self) -> &Rule {
        &self.rule
    }

    /// A block for a table; nothing is needed for records of no bytes.
    pub(crate) fn allocate(&mut self, bytes: usize) -> Result<usize, MemoryError> {
        if bytes == 0 {
            return Ok(mailbox_at(self.rule.guest_pages()));
        }
        let at = self.heap.allocate(bytes).ok_or(MemoryError::Full)?;
        self.reach(self.heap.top())?;
        Ok(at)
    }

    pub(crate) fn release(&mut self, at: usize, bytes: usize) {
        if bytes > 0 {
            self.heap.release(at, bytes);
        }
    }

    /// Grows the memory up to an address.
    fn reach(&mut self, end: usize) -> Result<(), MemoryError> {
        let missing = end.saturating_sub(self.memory.data_size(&self.store));
        if missing > 0 {
            let pages = missing.div_ceil(PAGE_BYTES) as u64;
            self.memory.grow(&mut self.store, pages).map_err(|error| MemoryError::Refused(error.to_string()))?;
        }
        Ok(())
    }

    /// Bytes of the memory.
    pub(crate) fn bytes(&self, at: usize, len: usize) -> &[u8] {
        &self.memory.data(&self.store)[at..at + len]
    }

    /// Bytes of the memory, to be written.
    pub(crate) fn bytes_mut(&mut self, at: usize, len: usize) -> &mut [u8] {
        &mut self.memory.data_mut(&mut self.store)[at..at + len]
    }

    /// Copies bytes within the memory.
    pub(crate) fn copy(&mut self, from: usize, to: usize, len: usize) {
        self.memory.data_mut(&mut self.store).copy_within(from..from + len, to);
    }

    /// Takes the tick that the next calls judge.
    pub(crate) fn set_tick(&mut self, tick: &Tick) {
        let words = [tick.price.to_bits(), tick.volume.to_bits(), tick.time_ms as u64, tick.conditions.0];
        for (place, word) in self.tick.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// Judges `count` bindings whose params and states begin at the given addresses.
    pub(crate) fn call(&mut self, params_at: usize, states_at: usize, count: u32) -> CallEnd {
        let drive = self.drive.clone();
        self.drive(&drive, (params_at as i32, states_at as i32, count as i32))
    }

    /// Judges the bindings whose params and states are at the given addresses, at most
    /// [`MAX_LISTED`](crate::inject::MAX_LISTED). Only for a rule that sleeps.
    pub(crate) fn call_listed(&mut self, addresses: &[(u32, u32)]) -> CallEnd {
        let drive = self.drive_listed.clone().expect("a rule that sleeps has this driver");
        let list = mailbox_at(self.rule.guest_pages()) + LIST_AT;
        let entries = self.bytes_mut(list, addresses.len() * LIST_ENTRY_BYTES).chunks_exact_mut(LIST_ENTRY_BYTES);
        for (entry, (params_at, state_at)) in entries.zip(addresses) {
            entry[..4].copy_from_slice(&params_at.to_le_bytes());
            entry[4..].copy_from_slice(&state_at.to_le_bytes());
        }
        self.drive(&drive, (list as i32, 0, addresses.len() as i32))
    }

    /// Makes a state out of an older version's, the `from`th of those that the rule migrates: all zero at first, at the
    /// given address. The inner result is the rule's answer.
    pub(crate) fn migrate(
        &mut self,
        from: usize,
        old_state_at: usize,
        params_at: usize,
        state_at: usize,
    ) -> Result<i32, CallEnd> {
        type Migrate = TypedFunc<(i32, i32, i32, i32), i32>;
        let migrate: Migrate =
            self.instance.get_typed_func(&mut self.store, MIGRATION_EXPORT).expect("only for a rule that migrates");
        self.store.set_epoch_deadline(EPOCH_DEADLINE_TICKS);
        let arguments = (from as i32, old_state_at as i32, params_at as i32, state_at as i32);
        migrate.call(&mut self.store, arguments).map_err(|error| self.failed(&error))
    }

    fn drive(&mut self, driver: &Driver, arguments: (i32, i32, i32)) -> CallEnd {
        let (mailbox, tick) = (mailbox_at(self.rule.guest_pages()), self.tick);
        self.bytes_mut(mailbox, tick.len()).copy_from_slice(&tick);
        self.store.set_epoch_deadline(EPOCH_DEADLINE_TICKS);
        match driver.call(&mut self.store, arguments) {
            Ok(packed) => CallEnd::Judged { bindings: (packed >> 32) as u32, answers: packed as u32 },
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &wasmtime::Error) -> CallEnd {
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => CallEnd::Deadline,
            Some(trap) => CallEnd::Fault(self.name_fault(*trap)),
            None => CallEnd::Fault(Fault::Trap(error.to_string())),
        }
    }

    /// The meter and the guard trap with `unreachable`; the meter's value tells them from the author's own.
    fn name_fault(&mut self, trap: Trap) -> Fault {
        match self.fuel.get(&mut self.store) {
            Val::I64(STRAY_WRITE) => Fault::StrayWrite,
            Val::I64(left) if left < 0 => Fault::OutOfFuel,
            _ => Fault::Trap(trap.to_string()),
        }
    }

    /// The answers of the last call.
    pub(crate) fn answers(&self, count: u32) -> impl Iterator<Item = Answer> + '_ {
        let at = mailbox_at(self.rule.guest_pages()) + ANSWERS_AT;
        let count = (count as usize).min(MAX_ANSWERS);
        self.bytes(at, count * ANSWER_BYTES).chunks_exact(ANSWER_BYTES).map(|record| {
            let word = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().expect("8 bytes"));
            let float = |at: usize| f64::from_bits(word(VERDICT_AT + at * 8));
            let band = Band { low: float(4), high: float(5), until_ms: word(VERDICT_AT + 48) as i64 };
            Answer { slot: word(0) as u32, code: (word(0) >> 32) as i32, evidence: std::array::from_fn(float), band }
        })
    }
}
