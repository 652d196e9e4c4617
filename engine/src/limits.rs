//! Every bound of the engine, with its unit and its reason. `docs/abi.md` repeats those that an author meets. What the SDK
//! must know as well is defined in its [`abi`] module.

use tocsin_rules_sdk::abi;

/// The largest module, in bytes. A rule is a few hundred bytes to a few KiB; the SDK's largest example is below 8 KiB.
pub const MAX_MODULE_BYTES: usize = 1024 * 1024;

/// The largest manifest, in bytes.
pub const MAX_MANIFEST_BYTES: usize = 64 * 1024;

/// The most params that a rule may have.
pub const MAX_PARAMS: usize = abi::MAX_PARAMS;

/// The most older versions that a rule may migrate from.
pub const MAX_MIGRATES: usize = abi::MAX_MIGRATES;

/// The longest name of a rule, a param or an evidence number, in bytes: names are in every firing and in every error. It
/// also bounds each string of a manifest that has no bound of its own.
pub const MAX_NAME_BYTES: usize = abi::MAX_NAME_BYTES;

/// The longest version, in bytes: it is in every firing.
pub const MAX_VERSION_BYTES: usize = abi::MAX_VERSION_BYTES;

/// The longest description, of the rule or of a param, and the longest author, in bytes: some paragraphs.
pub const MAX_TEXT_BYTES: usize = abi::MAX_TEXT_BYTES;

/// The longest title of a schema or a param, in bytes: a line.
pub const MAX_TITLE_BYTES: usize = abi::MAX_TITLE_BYTES;

/// The longest unit of a param, in bytes: a word.
pub const MAX_UNIT_BYTES: usize = abi::MAX_UNIT_BYTES;

/// The longest text that a param of a fixed list may be, in bytes: it is in every alert that chooses it.
pub const MAX_ENUM_VALUE_BYTES: usize = abi::MAX_ENUM_VALUE_BYTES;

/// The most types, and the most parameters or results of one: compilers slow down with both.
pub const MAX_TYPES: usize = 256;
/// See [`MAX_TYPES`].
pub const MAX_TYPE_VALUES: usize = 32;

/// The most functions. Cranelift's work is per function; 20,000 of them are a compile bomb.
pub const MAX_FUNCTIONS: usize = 512;

/// The most locals of one function, its parameters included: register allocation is worse than linear in them.
pub const MAX_LOCALS: u32 = 512;

/// The largest function body, in bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// The largest code section, in bytes: all bodies together.
pub const MAX_CODE_BYTES: usize = 256 * 1024;

/// How deeply blocks may nest. 2,000 nested loops take Cranelift 30 s.
pub const MAX_NESTING: usize = 64;

/// The most blocks, loops and ifs of one function.
pub const MAX_BLOCKS: usize = 2048;

/// The most targets of one `br_table`.
pub const MAX_BR_TABLE_TARGETS: usize = 1024;

/// The most globals.
pub const MAX_GLOBALS: usize = 256;

/// The most exports, `evaluate` and `memory` included. Toolchains add a few globals.
pub const MAX_EXPORTS: usize = 16;

/// The most data segments, and the most element segments.
pub const MAX_SEGMENTS: usize = 256;

/// The largest table, in elements: indirect calls only.
pub const MAX_TABLE_ELEMENTS: u64 = 1024;

/// The memory that a module may ask for, in pages of 64 KiB: 1.25 MiB. Compilers ask for 1 to 17 unless an
/// option says otherwise. The first touch of so much memory takes a machine up to half a millisecond.
pub const MAX_GUEST_PAGES: u64 = 20;

/// The memory of one instance, in pages of 64 KiB, the host's tables included: 2 GiB.
pub const MAX_INSTANCE_PAGES: u64 = 32 * 1024;

/// The most custom-section bytes beside the manifest: names and producers of an unstripped module.
pub const MAX_CUSTOM_BYTES: usize = 256 * 1024;

/// The most violations listed for one module: a hostile one could have a million.
pub const MAX_VIOLATIONS: usize = 64;

/// Fuel that one evaluation may burn, in the units of [`crate::cost`]: at most 1 ms at the dearest operations.
pub const FUEL_PER_EVALUATION: u64 = 100_000;

/// Wasm stack of one call, in bytes: more than [`FUEL_PER_EVALUATION`] lets a recursion use, and [`MAX_CHAIN_BYTES`]
/// beside it, so that fuel decides and not the size of Cranelift's frames. Threads must have more: see
/// [`THREAD_STACK_BYTES`].
pub const WASM_STACK_BYTES: usize = 2 * 1024 * 1024;

/// The most stack that functions of a module may take that are on it once each, in bytes: a chain of calls without
/// recursion. What a frame takes is an upper bound, see [`crate::inspect`].
pub const MAX_CHAIN_BYTES: u64 = 1000 * 1024;

/// The stack that a thread needs which runs rules, in bytes: the wasm stack plus ample room for the host's frames.
/// A thread with less would abort the process where a rule recurses.
pub const THREAD_STACK_BYTES: usize = 4 * 1024 * 1024;

/// Wall time between two ticks of the epoch, in milliseconds.
pub const EPOCH_TICK_MS: u64 = 10;

/// Epoch ticks that one call of a metered rule may take. The deadline is for a host in trouble, not a verdict: fuel
/// decides long before it.
pub const EPOCH_DEADLINE_TICKS: u64 = 200;

/// Bindings evaluated by one call into the sandbox at most: it bounds how long a call can take.
pub const MAX_BINDINGS_PER_CALL: u32 = 1024;

/// Fuel after which one call ends early, and another one goes on: at most 20 ms at the dearest operations, the last
/// evaluation included. A certified rule is called with no more bindings than can burn so much.
pub const FUEL_PER_CALL: u64 = 1_500_000;

/// Own pages of rules that the firings of one call may make the host reset, in pages of 64 KiB: some ten milliseconds.
pub const RESET_PAGES_PER_CALL: u64 = 1024;

/// The most state, in bytes, that is copied aside for one call, to be put back after a fault: it should fit the
/// processor's first cache. Large states are evaluated in smaller batches.
pub const MAX_CALL_STATE_BYTES: usize = 16 * 1024;

/// Evaluations of a binding that are looked back at for faults.
pub const FAULT_WINDOW_EVALUATIONS: u32 = 32;

/// Faults among [`FAULT_WINDOW_EVALUATIONS`] that quarantine a binding.
pub const QUARANTINE_AFTER_FAULTS: u32 = 5;

/// Records of its partition after which a quarantined binding is tried again, on the next tick of its symbol: seconds in a busy
/// market.
pub const PROBE_AFTER_RECORDS: u64 = 1_000;

/// How often that wait doubles, once for each probe that failed: at last it is a million records.
pub const MAX_PROBE_DOUBLINGS: u32 = 10;

/// Firings of one binding that may follow each other at once, unless it is set otherwise. See [`FIRING_INTERVAL_MS`].
pub const FIRINGS_AT_ONCE: u32 = 1_000;

/// Event time that earns a binding one more firing, in milliseconds: 10 a second are more than anyone reads, and a hundred
/// alerts that fire on every tick cost the store less than a tenth of what it can write.
pub const FIRING_INTERVAL_MS: i64 = 100;

/// Quarantined bindings of one group that are probed on one tick: the others wait for the next ones.
pub const MAX_PROBES_PER_TICK: usize = 16;

/// Bindings of a version that must be found impure before the version itself is taken out of service; and they must be at
/// least one of [`IMPURE_SHARE`] that are armed, so that a few alerts with odd params do not end a rule for everyone.
pub const IMPURE_BINDINGS: usize = 3;
/// See [`IMPURE_BINDINGS`].
pub const IMPURE_SHARE: usize = 4;
