//! ABI v1: the bytes that cross the sandbox's border, and the only place where they are defined.
//!
//! The host and every rule agree on these layouts; `docs/abi.md` states them for authors who do not use Rust.
//! All numbers are little-endian. The host writes [`Tick`] and the params, the rule reads them, may rewrite its
//! state, and answers with a code and, where the code says so, a [`Verdict`].

/// The ABI version that this crate speaks: the manifest's `abi` member.
pub const VERSION: u32 = 1;

/// The custom section of a module that holds its manifest, UTF-8 JSON.
pub const MANIFEST_SECTION: &str = "tocsin.manifest";

/// The export that judges one binding: `(tick: i32, params: i32, state: i32, verdict: i32) -> i32`.
pub const EVALUATE_EXPORT: &str = "evaluate";

/// The export, if there is one, that makes a state out of an older version's:
/// `(from: i32, old_state: i32, params: i32, state: i32) -> i32`, where `from` is the older version's place in the
/// manifest's `migrates`. It answers [`MIGRATED`], or anything else to refuse.
pub const MIGRATE_EXPORT: &str = "migrate";

/// Answer of a migration: the state is made.
pub const MIGRATED: i32 = 0;

/// The export that names the module's one memory.
pub const MEMORY_EXPORT: &str = "memory";

/// Answer code: the condition does not hold.
pub const HOLD: i32 = 0;

/// Answer code: the condition holds. The evidence numbers of the verdict are read.
pub const FIRE: i32 = 1;

/// Added to [`HOLD`] or [`FIRE`]: the verdict's wake band is read as well.
pub const ASLEEP: i32 = 2;

/// The most evidence numbers that a verdict carries.
pub const MAX_EVIDENCE: usize = 4;

/// The largest params record, in bytes.
pub const MAX_PARAMS_BYTES: usize = 4 * 1024;

/// The largest state record, in bytes.
pub const MAX_STATE_BYTES: usize = 64 * 1024;

/// The most params that a rule may have.
pub const MAX_PARAMS: usize = 64;

/// The most older versions that a rule may migrate from.
pub const MAX_MIGRATES: usize = 64;

/// The longest name of a rule, a param or an evidence number, in bytes: names are in every firing and in every error.
pub const MAX_NAME_BYTES: usize = 64;

/// The longest version, in bytes: it is in every firing.
pub const MAX_VERSION_BYTES: usize = 64;

/// The longest description, of the rule or of a param, and the longest author, in bytes: some paragraphs.
pub const MAX_TEXT_BYTES: usize = 4096;

/// The longest title of a schema or a param, in bytes: a line.
pub const MAX_TITLE_BYTES: usize = 256;

/// The longest unit of a param, in bytes: a word.
pub const MAX_UNIT_BYTES: usize = 64;

/// The longest text that a param of a fixed list may be, in bytes: it is in every alert that chooses it.
pub const MAX_ENUM_VALUE_BYTES: usize = 128;

/// Params and state records start at multiples of this many bytes, and their sizes are multiples of it.
pub const RECORD_ALIGN: usize = 8;

/// One trade print, as a rule sees it: 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tick {
    /// Price of the trade: finite, never `-0.0`. Negative prices are real in some markets.
    pub price: f64,
    /// Traded volume: finite, at least 0. Zero is a price update without a trade.
    pub volume: f64,
    /// Event time, Unix milliseconds. It may repeat and may run backwards.
    pub time_ms: i64,
    /// Trade conditions: bit n is set where the feed named condition n (1 to 63), bit 0 for any other.
    pub conditions: u64,
}

/// What a rule writes beside its answer code: 56 bytes, all zero when `evaluate` is called.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Verdict {
    /// The numbers that justify a firing, in the order of the manifest's `evidence`. Read with [`FIRE`].
    pub evidence: [f64; MAX_EVIDENCE],
    /// Wake band, read with [`ASLEEP`]: the answer cannot change while the price is above this,
    pub wake_low: f64,
    /// and below this,
    pub wake_high: f64,
    /// and the event time, Unix milliseconds, is before this.
    pub wake_until_ms: i64,
}

/// Bytes of a [`Tick`].
pub const TICK_BYTES: usize = size_of::<Tick>();
/// Bytes of a [`Verdict`].
pub const VERDICT_BYTES: usize = size_of::<Verdict>();

// Authors in other languages write these numbers down; they must never move.
const _: () = assert!(TICK_BYTES == 32 && VERDICT_BYTES == 56);
