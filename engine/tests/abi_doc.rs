//! Tests of `docs/abi.md`: its examples are rules that behave as described, and its numbers are those of the code.
#![allow(clippy::unwrap_used)] // the helpers belong to the tests

use std::path::Path;
use std::process::Command;

use tocsin_engine::domain::{
    AlertId, BindingId, Conditions, Lifecycle, MAX_TIME_MS, Position, Repeat, Symbol, Tenant, Tick,
};
use tocsin_engine::{Arming, Engine, Event, Shard, limits};
use tocsin_rules_sdk::abi;

const DOC: &str = include_str!("../../docs/abi.md");

/// Returns the first code block in the given language.
#[track_caller]
fn block(language: &str) -> &'static str {
    let (_, rest) = DOC.split_once(&format!("```{language}\n")).expect(language);
    rest.split_once("```").expect("the block ends").0
}

/// Checks that the example fires at the third tick of at least 10, and again at the sixth.
#[track_caller]
fn check_third_tick(module: &[u8]) {
    let rule = Engine::new().unwrap().load(module).unwrap();
    assert_eq!(rule.reference().name.as_str(), "third-tick");
    let mut shard = Shard::default();
    let symbol = Symbol::parse("X").unwrap();
    let armed = shard.arm(Arming {
        binding: BindingId(1),
        alert: AlertId(1),
        tenant: Tenant::standard(),
        symbol: symbol.clone(),
        rule: rule.clone(),
        params: rule.manifest().params.pack(&serde_json::json!({"price": 10})).unwrap().packed,
        lifecycle: Lifecycle { repeat: Repeat::Every },
        saved: None,
    });
    armed.unwrap();
    let mut events = Vec::new();
    for (offset, price) in [10.0, 9.0, 11.0, 12.0, 13.0, 1.0, 14.0, 15.0, 16.0].into_iter().enumerate() {
        let tick = Tick::new(symbol.clone(), price, 1.0, 1, Conditions::default()).unwrap();
        shard.evaluate(&tick, Position { partition: 0, offset: offset as u64 }, &mut events).unwrap();
    }
    let fired = events.iter().map(|event| match event {
        Event::Fired { firing, .. } => (firing.position.offset, firing.evidence.clone()),
        _ => panic!("{event:?}"),
    });
    assert_eq!(fired.collect::<Vec<_>>(), [(3, vec![("price".into(), 12.0)]), (7, vec![("price".into(), 15.0)])]);
}

#[test]
fn the_wat_example_is_a_rule() {
    check_third_tick(&wat::parse_str(block("wat")).unwrap());
}

#[test]
fn the_c_example_is_a_rule() {
    for tool in ["clang", "wasm-ld"] {
        let is_installed = Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
        assert!(
            is_installed,
            "no {tool}, which builds the C example: apt-get install clang lld (`cargo xtask test` does)"
        );
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("abi-doc-c");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("third-tick.json"), block("json")).unwrap();
    std::fs::write(folder.join("third-tick.c"), block("c")).unwrap();
    let command = block("sh").trim().split(' ').collect::<Vec<_>>();
    let status = Command::new(command[0]).args(&command[1..]).current_dir(&folder).status().unwrap();
    assert!(status.success());
    check_third_tick(&std::fs::read(folder.join("third-tick.wasm")).unwrap());
}

#[test]
fn the_quoted_limits_are_those_of_the_code() {
    let rows: [(&str, u64); 24] = [
        ("module", limits::MAX_MODULE_BYTES as u64),
        ("types", limits::MAX_TYPES as u64),
        ("parameters, and results, of a type", limits::MAX_TYPE_VALUES as u64),
        ("functions", limits::MAX_FUNCTIONS as u64),
        ("locals of a function, parameters included", limits::MAX_LOCALS.into()),
        ("body of a function", limits::MAX_BODY_BYTES as u64),
        ("code section", limits::MAX_CODE_BYTES as u64),
        ("nested blocks", limits::MAX_NESTING as u64),
        ("blocks, loops and ifs of a function", limits::MAX_BLOCKS as u64),
        ("targets of a `br_table`", limits::MAX_BR_TABLE_TARGETS as u64),
        ("globals", limits::MAX_GLOBALS as u64),
        ("exports", limits::MAX_EXPORTS as u64),
        ("data segments, and element segments", limits::MAX_SEGMENTS as u64),
        ("table elements", limits::MAX_TABLE_ELEMENTS),
        ("pages of memory asked for", limits::MAX_GUEST_PAGES),
        ("custom sections beside the manifest", limits::MAX_CUSTOM_BYTES as u64),
        ("stack of functions that call one another", limits::MAX_CHAIN_BYTES),
        ("bindings evaluated by one call of the host", limits::MAX_BINDINGS_PER_CALL.into()),
        ("name of a rule, a param or an evidence number", limits::MAX_NAME_BYTES as u64),
        ("version", limits::MAX_VERSION_BYTES as u64),
        ("author, description of the rule or of a param", limits::MAX_TEXT_BYTES as u64),
        ("title of the schema or of a param, `$schema`", limits::MAX_TITLE_BYTES as u64),
        ("`x-unit`", limits::MAX_UNIT_BYTES as u64),
        ("value of an `enum`, `default` that is a string", limits::MAX_ENUM_VALUE_BYTES as u64),
    ];
    for (of, most) in rows {
        let (row, row_in_bytes) = (format!("| {of} | {most} |"), format!("| {of} | {most} bytes |"));
        assert!(DOC.contains(&row) || DOC.contains(&row_in_bytes), "the doc lacks: {row}");
    }
    let table = DOC.split("## Limits").nth(1).unwrap().split("##").next().unwrap();
    assert_eq!(
        table.lines().filter(|line| line.starts_with("| ")).count(),
        rows.len() + 1,
        "a row that is not checked"
    );
}

#[test]
fn the_numbers_in_the_text_are_those_of_the_code() {
    let text = DOC.split_whitespace().collect::<Vec<_>>().join(" ");
    for sentence in [
        format!("# ABI v{}", abi::VERSION),
        format!("one custom section `{}`", abi::MANIFEST_SECTION),
        format!("exported as `{}`", abi::MEMORY_EXPORT),
        format!("one exported function, `{}`", abi::EVALUATE_EXPORT),
        format!("| `tick` | {} |", abi::TICK_BYTES),
        format!("| `verdict` | {} |", abi::VERDICT_BYTES),
        format!("Records start at multiples of {} bytes", abi::RECORD_ALIGN),
        format!("0 to {MAX_TIME_MS};"),
        format!("| {} | HOLD |", abi::HOLD),
        format!("| {} | FIRE |", abi::FIRE),
        format!("| {} | ASLEEP |", abi::ASLEEP),
        format!("and {} for the time", i64::MAX),
        format!("One call may burn {} fuel", limits::FUEL_PER_EVALUATION),
        format!(
            "After {} faults among its last {} evaluations",
            limits::QUARANTINE_AFTER_FAULTS,
            limits::FAULT_WINDOW_EVALUATIONS
        ),
        format!("After {} records of its symbol's partition", limits::PROBE_AFTER_RECORDS),
        format!("up to {} records", limits::PROBE_AFTER_RECORDS << limits::MAX_PROBE_DOUBLINGS),
        format!("at most {} different versions", limits::MAX_MIGRATES),
        format!("The stack is {} bytes", limits::WASM_STACK_BYTES),
        format!("At most {} bindings of a symbol are tried on one tick", limits::MAX_PROBES_PER_TICK),
        format!("has happened to {} bindings or more", limits::IMPURE_BINDINGS),
        format!("may fire {} times in a row", limits::FIRINGS_AT_ONCE),
        format!("once for each {} ms of event time", limits::FIRING_INTERVAL_MS),
        format!("an object, at most {} bytes", limits::MAX_MANIFEST_BYTES),
        format!("1 to {} lower-case letters, digits and single hyphens", limits::MAX_NAME_BYTES),
        format!("at most {} bytes; build metadata", limits::MAX_VERSION_BYTES),
        format!("| `author` | string | at most {} bytes |", limits::MAX_TEXT_BYTES),
        format!("a multiple of 8, at most {};", abi::MAX_STATE_BYTES),
        format!("a multiple of 8, at most {}.", abi::MAX_PARAMS_BYTES),
        format!("at most {} different names", abi::MAX_EVIDENCE),
        format!("`{{\"name\", \"type\", \"offset\"}}`, at most {}.", limits::MAX_PARAMS),
        format!("found wrong with it, at most {},", limits::MAX_VIOLATIONS),
    ] {
        assert!(text.contains(&sentence), "the doc does not say: {sentence}");
    }
    for (name, offset) in [("wake_low", 32), ("wake_high", 40), ("wake_until_ms", 48)] {
        assert!(
            text.contains(&format!("| {offset} | {} | `{name}` |", if name.ends_with("ms") { "i64" } else { "f64" }))
        );
    }
    assert_eq!(std::mem::offset_of!(abi::Verdict, wake_until_ms), 48);
    assert_eq!(std::mem::offset_of!(abi::Tick, conditions), 24);
}
