//! The memory layout of an instance, and the exports of a re-encoded module.
//!
//! The guest's own pages come first, then one page, the *mailbox*, then the tables that the host allocates.
//!
//! | offset in the mailbox | bytes | content |
//! |---|---|---|
//! | 0 | [`TICK_BYTES`] | the tick |
//! | [`LIST_AT`] | [`MAX_LISTED`] entries of [`LIST_ENTRY_BYTES`] | the bindings that the list driver evaluates |
//! | [`ANSWERS_AT`] | [`MAX_ANSWERS`] of [`ANSWER_BYTES`] | the answers of the last call |
//!
//! The guest reads the tick and writes the verdict of one answer at a time. The rest is used by the host and the drivers.

use tocsin_rules_sdk::abi::{TICK_BYTES, VERDICT_BYTES};

/// The export of the driver: `(params: i32, state: i32, count: i32) -> i64`, with the result that [`Driven`] unpacks.
pub(crate) const DRIVER_EXPORT: &str = "drive";
/// The export of the list driver, of rules that sleep: `(list: i32, 0, count: i32) -> i64`, with the same result. The list
/// has an entry for each binding, with the addresses of its params and its state.
pub(crate) const LIST_DRIVER_EXPORT: &str = "drive_listed";
/// The export of the migration, if the rule has one: `(from, old_state, params, state) -> code`.
pub(crate) const MIGRATION_EXPORT: &str = "migrate_one";
/// The export of the meter, a mutable i64 global: the remaining fuel, negative after it ran out.
pub(crate) const FUEL_EXPORT: &str = "fuel";
/// The export of the memory.
pub(crate) const MEMORY_EXPORT: &str = "memory";
/// The value of the meter after a guard has prevented a store.
pub(crate) const STRAY_WRITE: i64 = i64::MIN;

/// The size of a page of memory, in bytes.
pub(crate) const PAGE_BYTES: usize = 65_536;
/// The size of an answer, in bytes: the slot (u32), the code (i32), the verdict.
pub(crate) const ANSWER_BYTES: usize = 64;
/// The size of a list entry, in bytes: two addresses (i32).
pub(crate) const LIST_ENTRY_BYTES: usize = 8;
/// The offset of the list in the mailbox.
pub(crate) const LIST_AT: usize = 64;
/// The most entries of a list.
pub(crate) const MAX_LISTED: usize = (ANSWERS_AT - LIST_AT) / LIST_ENTRY_BYTES;
/// The offset of the answers in the mailbox.
pub(crate) const ANSWERS_AT: usize = 4096;
/// The most answers of one call: as many as fit into the mailbox.
pub(crate) const MAX_ANSWERS: usize = (PAGE_BYTES - ANSWERS_AT) / ANSWER_BYTES;
/// The offset of the verdict in an answer.
pub(crate) const VERDICT_AT: usize = 8;

const _: () = assert!(VERDICT_AT + VERDICT_BYTES == ANSWER_BYTES && TICK_BYTES <= LIST_AT);

/// The result of a driver: the number of bindings that it evaluated and of answers that it wrote, 16 bits each from the
/// highest on, and the fuel that was burnt (0 without a meter).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Driven {
    pub(crate) bindings: u32,
    pub(crate) answers: u32,
    pub(crate) fuel: u32,
}

impl Driven {
    /// The positions of bindings and answers in the result, in bits from the lowest.
    pub(super) const BINDINGS_SHIFT: i64 = 48;
    pub(super) const ANSWERS_SHIFT: i64 = 32;

    /// Unpacks the result of a driver.
    pub(crate) fn unpack(packed: i64) -> Self {
        let field = |shift: i64| (packed as u64 >> shift) as u16;
        let (bindings, answers) = (field(Self::BINDINGS_SHIFT), field(Self::ANSWERS_SHIFT));
        Self { bindings: bindings.into(), answers: answers.into(), fuel: packed as u32 }
    }
}

/// Returns the address of the mailbox of a rule with `guest_pages` pages of its own.
pub(crate) fn mailbox_at(guest_pages: u64) -> usize {
    guest_pages as usize * PAGE_BYTES
}

/// Returns the export of a mutable global of the module.
pub(crate) fn global_export(index: u32) -> String {
    format!("global_{index}")
}
