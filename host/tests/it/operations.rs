//! `docs/operations.md` has the limits of the code, and none is missing.

use std::collections::BTreeSet;

use tocsin::connections::{DEFAULT_MAX_CONNECTIONS, DEFAULT_MAX_STREAMS, STATUS_CONNECTIONS};
use tocsin::control::BUSY_RETRY_AFTER_S;
use tocsin::rules::artifacts::MAX_CACHE_BYTES;
use tocsin::rules::compiler::{
    DEFAULT_CPU_S, DEFAULT_DEADLINE_MS, DEFAULT_MEMORY_MIB, MAX_ARTIFACT_BYTES, MAX_QUEUED_UPLOADS,
};
use tocsin_engine::limits;

const DOC: &str = include_str!("../../../docs/operations.md");
const LIMITS: &str = include_str!("../../../engine/src/limits.rs");

/// Names of limits and their values.
macro_rules! rows {
    ($($module:ident::$name:ident),* $(,)? ; $($own:ident),* $(,)?) => {
        [$((stringify!($name), $module::$name as u64)),*, $((stringify!($own), $own as u64)),*]
    };
}

#[test]
fn the_limits_are_those_of_the_code() {
    let rows = rows![
        limits::MAX_MODULE_BYTES, limits::MAX_MANIFEST_BYTES, limits::MAX_PARAMS, limits::MAX_MIGRATES,
        limits::MAX_NAME_BYTES, limits::MAX_VERSION_BYTES, limits::MAX_TEXT_BYTES, limits::MAX_TITLE_BYTES,
        limits::MAX_UNIT_BYTES, limits::MAX_ENUM_VALUE_BYTES, limits::MAX_TYPES,
        limits::MAX_TYPE_VALUES, limits::MAX_FUNCTIONS, limits::MAX_LOCALS, limits::MAX_BODY_BYTES,
        limits::MAX_CODE_BYTES, limits::MAX_NESTING, limits::MAX_BLOCKS, limits::MAX_BR_TABLE_TARGETS,
        limits::MAX_GLOBALS, limits::MAX_EXPORTS, limits::MAX_SEGMENTS, limits::MAX_TABLE_ELEMENTS,
        limits::MAX_GUEST_PAGES, limits::MAX_INSTANCE_PAGES, limits::MAX_CUSTOM_BYTES, limits::MAX_VIOLATIONS,
        limits::FUEL_PER_EVALUATION, limits::WASM_STACK_BYTES, limits::THREAD_STACK_BYTES, limits::EPOCH_TICK_MS,
        limits::EPOCH_DEADLINE_TICKS, limits::MAX_BINDINGS_PER_CALL, limits::FUEL_PER_CALL, limits::MAX_CALL_STATE_BYTES,
        limits::FAULT_WINDOW_EVALUATIONS, limits::QUARANTINE_AFTER_FAULTS, limits::PROBE_AFTER_RECORDS,
        limits::MAX_PROBE_DOUBLINGS, limits::MAX_PROBES_PER_TICK, limits::IMPURE_BINDINGS, limits::IMPURE_SHARE,
        limits::FIRINGS_AT_ONCE, limits::FIRING_INTERVAL_MS, limits::RESET_PAGES_PER_CALL, limits::MAX_CHAIN_BYTES;
        DEFAULT_MEMORY_MIB, DEFAULT_CPU_S, DEFAULT_DEADLINE_MS, MAX_ARTIFACT_BYTES, MAX_QUEUED_UPLOADS,
        BUSY_RETRY_AFTER_S, MAX_CACHE_BYTES, DEFAULT_MAX_CONNECTIONS, STATUS_CONNECTIONS, DEFAULT_MAX_STREAMS,
    ];
    for (name, value) in rows {
        assert!(DOC.contains(&format!("| `{name}` | {value} |")), "the doc lacks: | `{name}` | {value} |");
    }
    let known: BTreeSet<&str> = rows.map(|(name, _)| name).into();
    let (_, section) = DOC.split_once("\n## Limits\n").expect("the doc has the limits");
    let section = section.split("\n## ").next().expect("the section");
    let listed: BTreeSet<&str> =
        section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(listed, known, "a row that this test does not check");
    let defined = LIMITS.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next());
    for name in defined {
        assert!(listed.contains(name), "the doc lacks {name} of engine/src/limits.rs");
    }
}
