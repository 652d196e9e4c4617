//! ABI v1: the interface between host and rule. This is its only definition.
//!
//! `docs/abi.md` describes it for authors who do not use Rust. All numbers are little-endian. The host writes [`Tick`] and the
//! params; the rule reads them, may change its state, and returns a code and, depending on the code, a [`Verdict`].

/// The version of the ABI: the manifest's `abi` member.
pub const VERSION: u32 = 1;

/// The custom section with a module's manifest, UTF-8 JSON.
pub const MANIFEST_SECTION: &str = "tocsin.manifest";

/// The export that evaluates one binding: `(tick: i32, params: i32, state: i32, verdict: i32) -> i32`.
pub const EVALUATE_EXPORT: &str = "evaluate";

/// The optional export that migrates a state of an older version:
/// `(from: i32, old_state: i32, params: i32, state: i32) -> i32`, where `from` is the index of the older version in the
/// manifest's `migrates`. It returns [`MIGRATED`], or any other number to refuse.
pub const MIGRATE_EXPORT: &str = "migrate";

/// Result of a migration that filled the new state.
pub const MIGRATED: i32 = 0;

/// The export of the module's memory.
pub const MEMORY_EXPORT: &str = "memory";

/// Result code: the condition does not hold.
pub const HOLD: i32 = 0;

/// Result code: the condition holds. The host reads the evidence numbers of the verdict.
pub const FIRE: i32 = 1;

/// Added to [`HOLD`] or [`FIRE`]: the host reads the wake band of the verdict as well.
pub const ASLEEP: i32 = 2;

/// The most evidence numbers of a verdict.
pub const MAX_EVIDENCE: usize = 4;

/// The largest params record, in bytes.
pub const MAX_PARAMS_BYTES: usize = 4 * 1024;

/// The largest state record, in bytes.
pub const MAX_STATE_BYTES: usize = 64 * 1024;

/// The most params that a rule may have.
pub const MAX_PARAMS: usize = 64;

/// The most older versions that a rule may migrate from.
pub const MAX_MIGRATES: usize = 64;

/// The longest name of a rule, a param or an evidence number, in bytes: names are in every firing and in many errors.
pub const MAX_NAME_BYTES: usize = 64;

/// The longest version, in bytes: it is in every firing.
pub const MAX_VERSION_BYTES: usize = 64;

/// The longest description, of the rule or of a param, and the longest author, in bytes: some paragraphs.
pub const MAX_TEXT_BYTES: usize = 4096;

/// The longest title of a schema or a param, in bytes: a line.
pub const MAX_TITLE_BYTES: usize = 256;

/// The longest unit of a param, in bytes: a word.
pub const MAX_UNIT_BYTES: usize = 64;

/// The longest value of a param with a list of choices, in bytes: it is in every alert with that choice.
pub const MAX_ENUM_VALUE_BYTES: usize = 128;

/// Params and state records start at multiples of this many bytes, and their sizes are multiples of it.
pub const RECORD_ALIGN: usize = 8;

/// A trade print, as rules read it: 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tick {
    /// Price of the trade: finite, never `-0.0`. Negative prices are real in some markets.
    pub price: f64,
    /// Traded volume: finite, at least 0. Zero is a price update without a trade.
    pub volume: f64,
    /// Event time, Unix milliseconds. It may repeat and may run backwards.
    pub time_ms: i64,
    /// Trade conditions: bit n is set if the source named condition n (1 to 63), bit 0 for any other.
    pub conditions: u64,
}

/// What a rule writes in addition to its result code: 56 bytes, all zero when `evaluate` is called.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Verdict {
    /// The numbers that justify a firing, in the order of the manifest's `evidence`. Read with [`FIRE`].
    pub evidence: [f64; MAX_EVIDENCE],
    /// Low end of the wake band, a price. The band is read with [`ASLEEP`]: the answer cannot change while the price is
    /// between both ends and the event time before the last one. All ends are exclusive.
    pub wake_low: f64,
    /// High end of the wake band, a price.
    pub wake_high: f64,
    /// End of the wake band in event time, Unix milliseconds.
    pub wake_until_ms: i64,
}

/// The size of a [`Tick`], in bytes.
pub const TICK_BYTES: usize = size_of::<Tick>();
/// The size of a [`Verdict`], in bytes.
pub const VERDICT_BYTES: usize = size_of::<Verdict>();

// Rules in other languages have these numbers written out, so they must never change.
const _: () = assert!(TICK_BYTES == 32 && VERDICT_BYTES == 56);
