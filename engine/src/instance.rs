//! One running instance of a rule, and the access to its memory.
//!
//! After a trap, and before it is called again, an instance is reset: the rule's own pages get their first bytes and its
//! globals their first values. Nothing else of a rule can change, since modules that could change tables or segments are
//! refused. The host's tables lie behind the rule's pages and are not reset, so a fault does not cost the other bindings
//! their states.
//!
//! All access of the host to guest memory is in this file, through bounds-checked slices. What is read back is checked
//! before it is used.

use tocsin_rules_sdk::abi;
use wasmtime::{Global, Memory, Store, StoreLimits, StoreLimitsBuilder, Trap, TypedFunc, Val};

use crate::domain::{Tenant, Tick};
use crate::fault::Fault;
use crate::heap::Heap;
use crate::inject::{
    ANSWER_BYTES, ANSWERS_AT, DRIVER_EXPORT, Driven, FUEL_EXPORT, LIST_AT, LIST_DRIVER_EXPORT, LIST_ENTRY_BYTES,
    MAX_ANSWERS, MEMORY_EXPORT, MIGRATION_EXPORT, PAGE_BYTES, STRAY_WRITE, VERDICT_AT, global_export, mailbox_at,
};
use crate::isolation::IsolatedInstance;
use crate::limits::{EPOCH_DEADLINE_TICKS, MAX_INSTANCE_PAGES};
use crate::runtime::Rule;
use crate::usage::{RuleUsage, Usage};
use crate::wake::Band;

/// A running rule.
pub(crate) struct Instance {
    rule: Rule,
    store: Store<StoreLimits>,
    instance: wasmtime::Instance,
    memory: Memory,
    drive: Driver,
    /// Only of a rule whose manifest sets `sleeps`.
    drive_listed: Option<Driver>,
    fuel: Global,
    /// The rule's own mutable globals, with their first values.
    globals: Vec<(Global, Val)>,
    heap: Heap,
    /// Evaluates bindings in isolation. Created when it is needed, dropped when it is not.
    isolated: Option<Box<IsolatedInstance>>,
    /// What evaluating its bindings has cost so far.
    pub(crate) usage: Usage,
}

/// A driver that [`crate::inject`] has appended.
type Driver = TypedFunc<(i32, i32, i32), i64>;

/// How one call into the sandbox ended.
pub(crate) enum CallEnd {
    /// At least one binding was evaluated. Those that were are the first ones.
    Evaluated(Answered),
    /// The rule faulted. The instance must be reset.
    Fault(Fault),
    /// The host was too slow, which is not a fault of the rule. The instance must be reset.
    Deadline,
}

/// What a call returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    /// The number of bindings that were evaluated, at least one.
    pub(crate) bindings: u32,
    /// The number of answers in the mailbox.
    pub(crate) answers: u32,
    /// The fuel that was burnt; 0 for a certified rule, which has no meter.
    pub(crate) fuel: u32,
}

/// What a rule answered for one binding, other than hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Answer {
    /// The index of the binding in the call.
    pub(crate) index: u32,
    pub(crate) code: i32,
    pub(crate) evidence: [f64; abi::MAX_EVIDENCE],
    pub(crate) band: Band,
}

/// Why there is no memory for a binding of a rule.
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
        let globals = rule.mutable_globals().iter().map(|index| {
            let global = instance.get_global(&mut store, &global_export(*index)).expect("injected");
            let first = global.get(&mut store);
            (global, first)
        });
        let globals = globals.collect();
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
            globals,
            heap,
            isolated: None,
            usage: Usage::default(),
        })
    }

    /// Restores the first bytes of the rule's own pages, and the first values of its globals.
    pub(crate) fn reset(&mut self) {
        let own = &mut self.memory.data_mut(&mut self.store)[..mailbox_at(self.rule.guest_pages())];
        own.fill(0);
        for (offset, bytes) in self.rule.data() {
            own[*offset..offset + bytes.len()].copy_from_slice(bytes);
        }
        for (global, first) in &self.globals {
            global.set(&mut self.store, *first).expect("a global takes a value that it had");
        }
        // A certified rule's driver does not set the meter, which says how the last call ended.
        self.fuel.set(&mut self.store, Val::I64(0)).expect("it is an i64");
    }

    /// Clears the first answer of the last call, with what the rule wrote there beside its verdict.
    pub(crate) fn clear_answer(&mut self) {
        let at = mailbox_at(self.rule.guest_pages()) + ANSWERS_AT;
        self.bytes_mut(at, ANSWER_BYTES).fill(0);
    }

    pub(crate) fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Returns what evaluating its bindings, a tenant's, has cost so far.
    pub(crate) fn rule_usage(&self, tenant: &Tenant) -> RuleUsage {
        RuleUsage { rule: self.rule.reference().clone(), tenant: tenant.clone(), usage: self.usage }
    }

    /// Returns the instance that evaluates bindings in isolation. Creates it if there is none.
    pub(crate) fn isolated(&mut self) -> Result<&mut IsolatedInstance, MemoryError> {
        if self.isolated.is_none() {
            self.isolated = Some(Box::new(IsolatedInstance::new(&self.rule)?));
        }
        Ok(self.isolated.as_mut().expect("it was just created"))
    }

    /// Drops the instance for isolation if it was not used since the last call.
    pub(crate) fn free_unused(&mut self) {
        self.isolated.take_if(|isolated| !isolated.take_used());
    }

    /// Allocates a block of zeros for records and returns its address. For no bytes, the address is that of no block.
    pub(crate) fn allocate(&mut self, bytes: usize) -> Result<usize, MemoryError> {
        if bytes == 0 {
            return Ok(mailbox_at(self.rule.guest_pages()));
        }
        let at = self.heap.allocate(bytes).ok_or(MemoryError::Full)?;
        if let Err(error) = self.reach(self.heap.top()) {
            self.heap.release(at, bytes);
            return Err(error);
        }
        // Touches the pages now, so that a rule does not wait for the machine's memory later.
        let len = Heap::block_bytes(bytes);
        self.bytes_mut(at, len).fill(0);
        Ok(at)
    }

    /// Frees a block that was allocated for `bytes` bytes.
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

    /// Returns the whole memory.
    pub(crate) fn memory(&self) -> &[u8] {
        self.memory.data(&self.store)
    }

    /// Returns the `len` bytes of the memory at `at`.
    #[inline]
    pub(crate) fn bytes(&self, at: usize, len: usize) -> &[u8] {
        &self.memory.data(&self.store)[at..at + len]
    }

    /// Returns the `len` bytes of the memory at `at`, to be written.
    #[inline]
    pub(crate) fn bytes_mut(&mut self, at: usize, len: usize) -> &mut [u8] {
        &mut self.memory.data_mut(&mut self.store)[at..at + len]
    }

    /// Copies `len` bytes within the memory.
    pub(crate) fn copy(&mut self, from: usize, to: usize, len: usize) {
        self.memory.data_mut(&mut self.store).copy_within(from..from + len, to);
    }

    /// Writes the tick that the next calls evaluate.
    pub(crate) fn set_tick(&mut self, tick: &Tick) {
        let mailbox = mailbox_at(self.rule.guest_pages());
        let words = [tick.price.to_bits(), tick.volume.to_bits(), tick.time_ms as u64, tick.conditions.0];
        for (field, word) in self.bytes_mut(mailbox, abi::TICK_BYTES).chunks_exact_mut(8).zip(words) {
            field.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// Evaluates `count` bindings whose params and states begin at the given addresses.
    pub(crate) fn call(&mut self, params_at: usize, states_at: usize, count: u32) -> CallEnd {
        self.store.set_epoch_deadline(EPOCH_DEADLINE_TICKS);
        let returned = self.drive.call(&mut self.store, (params_at as i32, states_at as i32, count as i32));
        self.call_end(returned, count)
    }

    /// Evaluates the bindings whose params and states are at the given addresses, at most
    /// [`MAX_LISTED`](crate::inject::MAX_LISTED). Only for a rule whose manifest sets `sleeps`.
    pub(crate) fn call_listed(&mut self, addresses: &[(u32, u32)]) -> CallEnd {
        let list = mailbox_at(self.rule.guest_pages()) + LIST_AT;
        let entries = self.bytes_mut(list, addresses.len() * LIST_ENTRY_BYTES).chunks_exact_mut(LIST_ENTRY_BYTES);
        for (entry, (params_at, state_at)) in entries.zip(addresses) {
            entry[..4].copy_from_slice(&params_at.to_le_bytes());
            entry[4..].copy_from_slice(&state_at.to_le_bytes());
        }
        self.store.set_epoch_deadline(EPOCH_DEADLINE_TICKS);
        let drive = self.drive_listed.as_ref().expect("a rule that sleeps has this driver");
        let returned = drive.call(&mut self.store, (list as i32, 0, addresses.len() as i32));
        self.call_end(returned, addresses.len() as u32)
    }

    /// Migrates the state of an older version, number `from` of those that the rule migrates from, into the zeros at
    /// `state_at`. Returns the code that the rule returned.
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

    /// Returns how a call of `count` bindings ended, by what the driver returned.
    fn call_end(&mut self, returned: wasmtime::Result<i64>, count: u32) -> CallEnd {
        match returned {
            Ok(packed) => {
                let Driven { bindings, answers, fuel } = Driven::unpack(packed);
                let is_plausible = (1..=count).contains(&bindings) && answers <= bindings;
                let answered = Answered { bindings, answers, fuel };
                if is_plausible && self.answers_are_in_order(answered) {
                    CallEnd::Evaluated(answered)
                } else {
                    CallEnd::Fault(Fault::Forged)
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Returns whether each answer is of another binding of the call, in their order, as the driver writes them. The guards
    /// keep a rule from writing there, but the host does not rely on them here.
    fn answers_are_in_order(&self, Answered { bindings, answers, .. }: Answered) -> bool {
        let mut next = 0;
        answers as usize <= MAX_ANSWERS
            && self.answers(answers).all(|answer| {
                let is_next = (next..bindings).contains(&answer.index);
                next = answer.index.saturating_add(1);
                is_next
            })
    }

    fn failed(&mut self, error: &wasmtime::Error) -> CallEnd {
        match error.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => CallEnd::Deadline,
            Some(trap) => CallEnd::Fault(self.name_fault(*trap)),
            None => CallEnd::Fault(Fault::Trap(error.to_string())),
        }
    }

    /// Returns the fault of a trap. The meter and the guard trap with `unreachable`, as the rule itself may; the meter's
    /// value shows which of the three it was.
    fn name_fault(&mut self, trap: Trap) -> Fault {
        match self.fuel.get(&mut self.store) {
            Val::I64(STRAY_WRITE) => Fault::StrayWrite,
            Val::I64(left) if left < 0 => Fault::OutOfFuel,
            _ => Fault::Trap(trap.to_string()),
        }
    }

    /// Returns the answers of the last call. Their indexes are in order, and below the number of its bindings.
    pub(crate) fn answers(&self, count: u32) -> impl Iterator<Item = Answer> + '_ {
        let at = mailbox_at(self.rule.guest_pages()) + ANSWERS_AT;
        let count = (count as usize).min(MAX_ANSWERS);
        // Most calls have none, and finding the memory is not free.
        let records = if count == 0 { &[] } else { self.bytes(at, count * ANSWER_BYTES) };
        records.chunks_exact(ANSWER_BYTES).map(|record| {
            let word = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().expect("8 bytes"));
            let float = |at: usize| f64::from_bits(word(VERDICT_AT + at * 8));
            let band = Band { low: float(4), high: float(5), until_ms: word(VERDICT_AT + 48) as i64 };
            Answer { index: word(0) as u32, code: (word(0) >> 32) as i32, evidence: std::array::from_fn(float), band }
        })
    }
}
