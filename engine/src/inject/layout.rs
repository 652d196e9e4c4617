//! Where everything is in the memory of an instance, and what a re-encoded module exports.
//!
//! The guest's own pages come first, then one page that is the *mailbox*, then the tables that the host allocates.
//!
//! | offset in the mailbox | bytes | what |
//! |---|---|---|
//! | 0 | [`TICK_BYTES`] | the tick |
//! | [`LIST_AT`] | [`MAX_LISTED`] entries of [`LIST_ENTRY_BYTES`] | which bindings the list driver evaluates |
//! | [`ANSWERS_AT`] | [`MAX_ANSWERS`] of [`ANSWER_BYTES`] | the answers of the last call |
//!
//! The guest reads the tick, and writes the verdict of one answer at a time; the rest is the host's and the driver's.

use tocsin_rules_sdk::abi::{TICK_BYTES, VERDICT_BYTES};

/// The export of the driver: `(params: i32, state: i32, count: i32) -> i64`, see [`Driven`].
pub(crate) const DRIVER_EXPORT: &str = "drive";
/// The export of the driver of rules that sleep: `(list: i32, 0, count: i32) -> i64` with the same result. The list has
/// an entry for each binding, the addresses of its params and of its state.
pub(crate) const LIST_DRIVER_EXPORT: &str = "drive_listed";
/// The export of the migration of rules that have one, as the rule's own: `(from, old_state, params, state) -> code`.
pub(crate) const MIGRATION_EXPORT: &str = "migrate_one";
/// The export of the meter, a mutable i64 global: fuel left, below 0 when it ran out.
pub(crate) const FUEL_EXPORT: &str = "fuel";
/// The export of the memory.
pub(crate) const MEMORY_EXPORT: &str = "memory";
/// The meter's value after a store that was kept from happening.
pub(crate) const STRAY_WRITE: i64 = i64::MIN;

/// Bytes in a page of memory.
pub(crate) const PAGE_BYTES: usize = 65_536;
/// Bytes of one answer: the slot (u32), the code (i32), the verdict.
pub(crate) const ANSWER_BYTES: usize = 64;
/// Bytes of a list entry: two addresses (i32).
pub(crate) const LIST_ENTRY_BYTES: usize = 8;
/// Where the list begins in the mailbox.
pub(crate) const LIST_AT: usize = 64;
/// The most entries of a list.
pub(crate) const MAX_LISTED: usize = (ANSWERS_AT - LIST_AT) / LIST_ENTRY_BYTES;
/// Where the answers begin in the mailbox.
pub(crate) const ANSWERS_AT: usize = 4096;
/// The most answers of one call: what fits into the mailbox.
pub(crate) const MAX_ANSWERS: usize = (PAGE_BYTES - ANSWERS_AT) / ANSWER_BYTES;
/// Where the verdict begins in an answer.
pub(crate) const VERDICT_AT: usize = 8;

const _: () = assert!(VERDICT_AT + VERDICT_BYTES == ANSWER_BYTES && TICK_BYTES <= LIST_AT);

/// What a driver returns: how many bindings it evaluated and how many answers it wrote, 16 bits each from the highest on,
/// and the fuel that was burnt (0 without a meter).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Driven {
    pub(crate) bindings: u32,
    pub(crate) answers: u32,
    pub(crate) fuel: u32,
}

impl Driven {
    /// The places of bindings and answers in the result, in bits from the lowest.
    pub(super) const BINDINGS_SHIFT: i64 = 48;
    pub(super) const ANSWERS_SHIFT: i64 = 32;

    /// Unpacks a driver's result.
    pub(crate) fn unpack(packed: i64) -> Self {
        let field = |shift: i64| (packed as u64 >> shift) as u16;
        let (bindings, answers) = (field(Self::BINDINGS_SHIFT), field(Self::ANSWERS_SHIFT));
        Self { bindings: bindings.into(), answers: answers.into(), fuel: packed as u32 }
    }
}

/// The address of the mailbox of a rule that asked for `guest_pages`.
pub(crate) fn mailbox_at(guest_pages: u64) -> usize {
    guest_pages as usize * PAGE_BYTES
}

/// The export of a mutable global of the module.
pub(crate) fn global_export(index: u32) -> String {
    format!("global_{index}")
}
