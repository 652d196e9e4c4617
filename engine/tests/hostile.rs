//! The catalogue of bad modules: each is refused for its own reason, before anything is compiled, and nothing panics.
//!
//! Modules that WAT can say are written in it; bombs are those of [`tocsin_testdata`], and broken bytes are made by hand.
//! The file is long because it is a list.
#![allow(clippy::unwrap_used)] // the helpers belong to the tests

use std::sync::OnceLock;

use proptest::prelude::*;
use tocsin_engine::domain::{AlertId, BindingId, Conditions, Lifecycle, Position, Repeat, Symbol, Tenant, Tick};
use tocsin_engine::inspect::inspect;
use tocsin_engine::limits::{MAX_MODULE_BYTES, MAX_VIOLATIONS};
use tocsin_engine::violation::{Code, Violation};
use tocsin_engine::{Arming, Engine, Event, Fault, LoadError, Rule, Shard, builtin};
use tocsin_testdata::modules::{
    GOOD_EVALUATE, GOOD_MEMORY, MANIFEST, body, br_table, compile_bombs, from_bodies, loops, rule_and, with_manifest,
};

fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new().unwrap())
}

/// A good rule, but for what replaces its memory.
fn with_memory(fields: &str) -> Vec<u8> {
    with_manifest(MANIFEST, &format!("{fields} {GOOD_EVALUATE}"))
}

/// A good rule but for what replaces its `evaluate`.
fn with_evaluate(fields: &str) -> Vec<u8> {
    with_manifest(MANIFEST, &format!("{GOOD_MEMORY} {fields}"))
}

/// One section: an id and its bytes behind a length.
fn section(id: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![id];
    let mut length = body.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(body);
    out
}

fn raw(sections: &[Vec<u8>]) -> Vec<u8> {
    [b"\0asm\x01\0\0\0".to_vec(), sections.concat()].concat()
}

/// A custom section of so many bytes.
fn custom(name: &str, bytes: usize) -> Vec<u8> {
    section(0, &[&[name.len() as u8], name.as_bytes(), &vec![0; bytes]].concat())
}

/// Asserts that a module is refused by inspection and by the engine, that one violation has the expected code and
/// words, and that none has words that are not asked for.
#[track_caller]
fn check(name: &str, module: &[u8], code: Code, words: &str) {
    let violations = refused(name, module);
    let found = violations.iter().any(|violation| violation.code == code && violation.message.contains(words));
    assert!(found, "{name}: no [{}] with {words:?} among {violations:#?}", code.as_str());
}

/// The violations of a module that must be refused.
#[track_caller]
fn refused(name: &str, module: &[u8]) -> Vec<Violation> {
    let rejection = inspect(module).map(|_| ()).expect_err(name);
    match engine().load(module) {
        Err(LoadError::Rejected(same)) => assert_eq!(same, rejection, "{name}"),
        other => panic!("{name}: {other:?}"),
    }
    assert!(!rejection.violations.is_empty() && rejection.violations.len() <= MAX_VIOLATIONS, "{name}");
    rejection.violations
}

#[test]
fn the_rules_that_the_catalogue_spoils_are_good() {
    for good in [rule_and(""), from_bodies(&[body(1, &loops(3, true)), body(1, &br_table(9))])] {
        engine().load(&good).unwrap();
    }
}

#[test]
fn files_that_are_no_modules_are_told_what_they_are() {
    let precompiled = wasmtime_elf();
    let huge = [builtin::ABOVE, &custom("pad", MAX_MODULE_BYTES)].concat();
    let one_over = &huge[..MAX_MODULE_BYTES + 1];
    let cases: [(&str, &[u8], Code, &str); 11] = [
        ("empty", b"", Code::Format, "the module is empty"),
        ("a cut header", b"\0asm\x01", Code::Format, "cut off"),
        ("another version", b"\0asm\x02\0\0\0", Code::Format, "not a version 1 module"),
        ("ELF", b"\x7fELF\x02\x01\x01", Code::Format, "native ELF"),
        ("precompiled", &precompiled, Code::Format, "precompiled"),
        ("WAT", b"(module (memory 1))", Code::Format, "WebAssembly text"),
        ("WAT behind a comment", b"\n;; a rule\n(module)", Code::Format, "WebAssembly text"),
        ("component", b"\0asm\x0d\0\x01\0", Code::Format, "component"),
        ("gzip bomb", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xed\xc1", Code::Format, "gzip"),
        ("HTML", b"<!doctype html>", Code::Format, "does not begin with \\0asm"),
        ("one byte over the cap", one_over, Code::Limit, "1048577 bytes, more than the 1048576 allowed"),
    ];
    for (name, module, code, words) in cases {
        check(name, module, code, words);
    }
}

/// The head of what `wasmtime compile` writes.
fn wasmtime_elf() -> Vec<u8> {
    [b"\x7fELF\x02\x01\x01\xc8".as_slice(), &[0; 56]].concat()
}

#[test]
fn broken_bytes_are_refused_as_a_malformed_module() {
    let types = section(1, b"\x01\x60\x00\x00");
    let cases = [
        ("an overlong length", raw(&[vec![1, 0x80, 0x80, 0x80, 0x80, 0x80, 0]]), Code::Format, "invalid var_u32"),
        ("an overlong count", raw(&[section(1, &[0xff, 0xff, 0xff, 0xff, 0x7f])]), Code::Format, "invalid var_u32"),
        ("2^32-1 types", raw(&[section(1, &[0xff, 0xff, 0xff, 0xff, 0x0f])]), Code::Limit, "4294967295 types"),
        ("2^32-1 functions", raw(&[section(3, &[0xff, 0xff, 0xff, 0xff, 0x0f])]), Code::Limit, "4294967295 functions"),
        ("2^32-1 imports", raw(&[section(2, &[0xff, 0xff, 0xff, 0xff, 0x0f])]), Code::Format, "unexpected end"),
        ("2^32-1 memories", raw(&[section(5, &[0xff, 0xff, 0xff, 0xff, 0x0f])]), Code::Format, "unexpected end"),
        ("2^32-1 globals", raw(&[section(6, &[0xff, 0xff, 0xff, 0xff, 0x0f])]), Code::Limit, "4294967295 globals"),
        ("2^32-1 exports", raw(&[section(7, &[0xff, 0xff, 0xff, 0xff, 0x0f])]), Code::Limit, "4294967295 exports"),
        ("2^32-1 segments", raw(&[section(11, &[0xff, 0xff, 0xff, 0xff, 0x0f])]), Code::Limit, "4294967295 data"),
        (
            "2^32-1 bodies",
            raw(&[section(10, &[0xff, 0xff, 0xff, 0xff, 0x0f])]),
            Code::Format,
            "function section is absent",
        ),
        ("two type sections", raw(&[types.clone(), types.clone()]), Code::Format, "section out of order"),
        ("sections out of order", raw(&[section(3, &[0]), types]), Code::Format, "section out of order"),
        ("a section id that is none", raw(&[section(99, b"")]), Code::Format, "malformed section id"),
        ("a section that ends behind the module", raw(&[vec![1, 0x7f]]), Code::Format, "at byte"),
        (
            "a custom section of 1 MB",
            [rule_and(""), custom("pad", 1_000_000)].concat(),
            Code::Limit,
            "strip the module",
        ),
        ("a manifest of 1 MB", raw(&[custom("tocsin.manifest", 1_000_000)]), Code::Manifest, "1000000 bytes"),
        ("two manifests", [rule_and(""), custom("tocsin.manifest", 1)].concat(), Code::Manifest, "two custom sections"),
        ("no manifest", wat::parse_str("(module)").unwrap(), Code::Manifest, "no custom section `tocsin.manifest`"),
    ];
    for (name, module, code, words) in cases {
        check(name, &module, code, words);
    }
}

#[test]
fn a_good_module_that_is_cut_anywhere_is_refused() {
    // The manifest is the last section, so that no cut leaves a whole rule.
    for module in [rule_and(""), rule_and("(table 4 funcref) (elem (i32.const 1) 0) (global i32 (i32.const 1))")] {
        for length in 0..module.len() {
            let violations = refused(&format!("cut to {length} bytes"), &module[..length]);
            let known = |v: &Violation| matches!(v.code, Code::Format | Code::Export | Code::Manifest);
            assert!(violations.iter().all(known), "cut to {length} bytes: {violations:?}");
        }
    }
}

#[test]
fn what_is_over_a_limit_hides_nothing_else() {
    let violations = refused("a bare module with a 1 MB section", &raw(&[custom("other", 1_000_000)]));
    for code in [Code::Limit, Code::Export, Code::Manifest] {
        assert!(violations.iter().any(|violation| violation.code == code), "{code:?}: {violations:#?}");
    }
}

#[test]
fn a_foreign_interface_is_refused() {
    let many: String = (0..50_000).map(|i| format!("(export \"e{i}\" (func 0))")).collect();
    let body = "(param i32 i32 i32 i32) (result i32) (i32.const 0)";
    let cases = [
        ("WASI", rule_and(r#"(import "wasi_snapshot_preview1" "fd_write" (func))"#), Code::Import, "without WASI"),
        ("env", rule_and(r#"(import "env" "now" (func (result i64)))"#), Code::Import, "\"env\".\"now\" is imported"),
        (
            "an imported memory",
            with_memory(r#"(import "env" "memory" (memory 1))"#),
            Code::Import,
            "\"env\".\"memory\"",
        ),
        ("a name with NUL", rule_and(r#"(import "a\00b" "\e2\80\ae" (func))"#), Code::Import, r#""a\0b"."\u{202e}""#),
        ("a looping start", rule_and("(func $s (loop $l (br $l))) (start $s)"), Code::Export, "start function"),
        ("no evaluate", with_evaluate(""), Code::Export, "`evaluate` is not exported"),
        (
            "evaluate under another name",
            with_evaluate(&format!("(func (export \"run\") {body})")),
            Code::Export,
            "\"run\"",
        ),
        (
            "evaluate is a global",
            with_evaluate(r#"(global (export "evaluate") i32 (i32.const 0))"#),
            Code::Export,
            "not exported",
        ),
        (
            "three parameters",
            with_evaluate(r#"(func (export "evaluate") (param i32 i32 i32) (result i32) (i32.const 0))"#),
            Code::Export,
            "wrong type",
        ),
        (
            "no result",
            with_evaluate(r#"(func (export "evaluate") (param i32 i32 i32 i32))"#),
            Code::Export,
            "wrong type",
        ),
        (
            "64-bit pointers",
            with_evaluate(r#"(func (export "evaluate") (param i64 i64 i64 i64) (result i32) (i32.const 0))"#),
            Code::Export,
            "wrong type",
        ),
        ("no memory", with_memory(""), Code::Export, "the memory is not exported"),
        ("a private memory", with_memory("(memory 1)"), Code::Export, "the memory is not exported"),
        (
            "a second function",
            rule_and(&format!("(func (export \"alloc\") {body})")),
            Code::Export,
            "the function \"alloc\"",
        ),
        ("a table", rule_and(r#"(table (export "t") 1 funcref)"#), Code::Export, "the table \"t\""),
        ("50k exports", rule_and(&many), Code::Limit, "50002 exports, more than the 16"),
        ("an export with NUL", rule_and(r#"(global (export "a\00b") i32 (i32.const 0))"#), Code::Export, r#""a\0b""#),
        (
            "an export from right to left",
            rule_and(r#"(global (export "\e2\80\aeb") i32 (i32.const 0))"#),
            Code::Export,
            r#""\u{202e}b""#,
        ),
        (
            "an export without name",
            rule_and(r#"(global (export "") i32 (i32.const 0))"#),
            Code::Export,
            "the global \"\"",
        ),
        ("65 pages", with_memory(r#"(memory (export "memory") 65)"#), Code::Limit, "65 pages"),
        ("the largest memory", with_memory(r#"(memory (export "memory") 65536)"#), Code::Limit, "65536 pages"),
        ("memory64", with_memory(r#"(memory (export "memory") i64 1)"#), Code::Feature, "64-bit"),
        ("a shared memory", with_memory(r#"(memory (export "memory") 1 1 shared)"#), Code::Feature, "shared"),
        ("small pages", with_memory(r#"(memory (export "memory") 1 (pagesize 1))"#), Code::Feature, "custom page size"),
        ("two memories", rule_and("(memory 1)"), Code::Feature, "2 memories"),
        ("a table of 10M elements", rule_and("(table 10000000 funcref)"), Code::Limit, "10000000 table elements"),
        ("a table that may grow so", rule_and("(table 1 10000000 funcref)"), Code::Limit, "10000000 table elements"),
        ("two tables", rule_and("(table 1 funcref) (table 1 funcref)"), Code::Limit, "2 tables"),
        ("data behind the memory", rule_and("(data (i32.const 65535) \"ab\")"), Code::Format, "ends at byte 65537"),
        (
            "data at the end of the address space",
            rule_and("(data (i32.const -1) \"ab\")"),
            Code::Format,
            "ends at byte 4294967297",
        ),
        ("passive data", rule_and("(data \"ab\")"), Code::Feature, "passive data segment"),
        (
            "elements behind the table",
            rule_and("(table 2 funcref) (elem (i32.const 2) 0)"),
            Code::Format,
            "ends at element 3",
        ),
        ("passive elements", rule_and("(table 2 funcref) (elem func 0)"), Code::Feature, "passive element segment"),
    ];
    for (name, module, code, words) in cases {
        check(name, &module, code, words);
    }
}

#[test]
fn features_that_are_off_are_named() {
    let cases = [
        ("SIMD", "(func (drop (v128.const i64x2 0 0)))", "SIMD"),
        ("references", "(func (drop (ref.null func)))", "reference types"),
        ("externref", "(func (param externref))", "reference types"),
        ("tail calls", "(func $f (return_call $f))", "tail calls"),
        ("exceptions", "(tag)", "exceptions"),
        ("atomics", "(func (drop (i32.atomic.load (i32.const 0))))", "threads"),
        ("growing tables", "(table 1 funcref) (func (drop (table.size 0)))", "reference types"),
        ("structs", "(type (struct (field i32)))", "gc"),
        (
            "128-bit arithmetic",
            "(func (i64.add128 (i64.const 0) (i64.const 0) (i64.const 0) (i64.const 0)) drop drop)",
            "wide arithmetic",
        ),
    ];
    for (name, fields, words) in cases {
        check(name, &rule_and(fields), Code::Feature, words);
    }
    let computed = rule_and("(global i32 (i32.add (i32.const 1) (i32.const 2)))");
    check("computed constants", &computed, Code::Format, "constant expression required");
    check("a type error", &rule_and("(func (result i32) (i64.const 0))"), Code::Format, "type mismatch");
}

#[test]
fn compile_bombs_never_reach_the_compiler() {
    let cases = compile_bombs();
    for (name, module, words) in cases {
        check(name, &module, Code::Limit, words);
    }
}

/// A limit is the last value that passes, not the first that does not.
#[test]
fn what_is_just_within_the_limits_is_taken() {
    let globals = "(global i32 (i32.const 0))".repeat(256);
    let modules = [
        from_bodies(&[body(0, &loops(64, true))]),
        from_bodies(&[body(0, &loops(2048, false))]),
        from_bodies(&vec![body(0, &[]); 512]),
        from_bodies(&[body(508, &[])]),
        from_bodies(&[body(0, &br_table(1024))]),
        rule_and(&globals),
        rule_and("(table 1024 funcref) (elem (i32.const 1023) 0)"),
        rule_and("(data (i32.const 65535) \"a\")"),
        with_memory(r#"(memory (export "memory") 20)"#),
        raw(&[rule_and("")[8..].to_vec(), custom("name", 200_000)]),
    ];
    for (i, module) in modules.iter().enumerate() {
        engine().load(module).unwrap_or_else(|error| panic!("module {i}: {error}"));
    }
}

/// An empty global section is valid, and the meter's global must not come in a second one.
#[test]
fn an_empty_global_section_is_no_obstacle() {
    let good = rule_and("");
    let at = good.windows(2).position(|pair| pair == [7, 21]).unwrap();
    let module = [&good[..at], &section(6, &[0]), &good[at..]].concat();
    engine().load(&module).unwrap();
}

#[test]
fn all_violations_are_reported_together() {
    let manifest = r#"{"abi":2,"name":"Bad Name","version":"1"}"#;
    let many = format!(
        "{}(import \"env\" \"f\" (func)) (import \"env\" \"memory\" (memory 1)) (table 5000 funcref) (func $s) (start $s) (func (export \"x\"))",
        "(type (func (param i64)))".repeat(300)
    );
    let violations = refused("many faults", &with_manifest(manifest, &many));
    for words in [
        "types, more than",
        "\"env\".\"f\" is imported",
        "\"env\".\"memory\" is imported",
        "5000 table elements",
        "start function",
        "the function \"x\" is exported",
        "`evaluate` is not exported",
        "the memory is not exported",
        "manifest.abi: 2",
        "manifest.name: \"Bad Name\"",
        "manifest.version: \"1\"",
    ] {
        assert!(violations.iter().any(|v| v.message.contains(words)), "{words:?} is not among {violations:#?}");
    }
    assert_eq!(violations.len(), 11, "{violations:#?}");
}

#[test]
fn one_function_and_one_manifest_hide_nothing() {
    let manifest = r#"{"abi":2,"name":"B A D","version":7,"foo":1,"state":{"size":7},"sleeps":"yes"}"#;
    let deep = format!("{}{}", "(block ".repeat(70), ")".repeat(70));
    let text = format!(
        r#"(module (memory (export "memory") 1)
            (func (export "evaluate") (param i32 i32 i32 i32) (result i32) {} {deep} (i32.const 0))
            (@custom "tocsin.manifest" "{}"))"#,
        "(local i64)".repeat(600),
        manifest.replace('"', "\\\"")
    );
    let violations: Vec<String> =
        refused("all", &wat::parse_str(text).unwrap()).iter().map(ToString::to_string).collect();
    for expect in [
        "604 locals",
        "nested blocks",
        "manifest.abi: 2",
        "manifest.name:",
        "manifest.version: invalid type",
        "`foo`",
        "manifest.state.size: 7",
        "manifest.sleeps: invalid type",
    ] {
        assert_eq!(
            violations.iter().filter(|violation| violation.contains(expect)).count(),
            1,
            "{expect}: {violations:#?}"
        );
    }
}

#[test]
fn a_list_of_violations_has_an_end() {
    let imports: String = (0..1000).map(|i| format!("(import \"env\" \"f{i}\" (func))")).collect();
    assert_eq!(refused("1,000 imports", &rule_and(&imports)).len(), MAX_VIOLATIONS);
}

#[test]
fn a_message_cannot_steer_a_terminal() {
    let long = "x".repeat(60_000);
    for member in ["\\u001b[2Jboo\\nboo", "\\u202eoob", &long] {
        let manifest = format!(r#"{{"abi":1,"name":"test","version":"1.0.0","{member}":1}}"#);
        for violation in refused(member, &with_manifest(&manifest, &format!("{GOOD_MEMORY} {GOOD_EVALUATE}"))) {
            assert!(violation.message.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{violation}");
            assert!(violation.message.len() < 2000);
        }
    }
}

/// Manifests that are wrong in one member each, and what is said of them. A case gives members, which replace the good
/// ones of the same name.
#[test]
fn a_bad_manifest_is_refused_by_member() {
    let long = format!(r#"{{"description":"{}"}}"#, "x".repeat(4097));
    let cases = [
        (r#"{"abi":0}"#, "manifest.abi: 0 is not supported"),
        (r#"{"abi":2}"#, "manifest.abi: 2 is not supported"),
        (r#"{"abi":-1}"#, "manifest.abi: invalid value"),
        (r#"{"abi":1.5}"#, "manifest.abi: invalid type"),
        (r#"{"abi":"1"}"#, "manifest.abi: invalid type"),
        (r#"{"abi":null}"#, "manifest.abi: invalid type"),
        (r#"{"name":""}"#, "manifest.name: \"\" is not a rule name"),
        (r#"{"name":"Über"}"#, "manifest.name:"),
        (r#"{"name":"a\u0000b"}"#, "manifest.name: \"a\\0b\""),
        (r#"{"name":"\u202eevoba"}"#, "manifest.name: \"\\u{202e}evoba\""),
        (r#"{"name":7}"#, "manifest.name: invalid type"),
        (r#"{"version":"1.0"}"#, "manifest.version: \"1.0\" is not a semantic version"),
        (r#"{"version":"v1.0.0"}"#, "manifest.version:"),
        (r#"{"version":1}"#, "manifest.version: invalid type"),
        (&long, "manifest.description: 4097 bytes"),
        (r#"{"description":[]}"#, "manifest.description: invalid type"),
        (r#"{"author":false}"#, "manifest.author: invalid type"),
        (r#"{"state":{"size":7}}"#, "manifest.state.size: 7 is not a multiple of 8"),
        (r#"{"state":{"size":65544}}"#, "manifest.state.size: 65544 bytes, more than the 65536"),
        (r#"{"state":{"size":-8}}"#, "manifest.state.size: invalid value"),
        (r#"{"state":{}}"#, "manifest.state: missing field `size`"),
        (r#"{"state":{"size":8,"align":8}}"#, "unknown field `align`"),
        (r#"{"state":8}"#, "manifest.state: invalid type"),
        (r#"{"evidence":["a","b","c","d","e"]}"#, "manifest.evidence: 5 names, more than the 4"),
        (r#"{"evidence":["a","a"]}"#, "manifest.evidence[1]: \"a\" is named twice"),
        (r#"{"evidence":["two words"]}"#, "manifest.evidence[0]: \"two words\""),
        (r#"{"evidence":[""]}"#, "manifest.evidence[0]: \"\""),
        (r#"{"evidence":[1]}"#, "manifest.evidence[0]: invalid type"),
        (r#"{"evidence":"a"}"#, "manifest.evidence: invalid type"),
        (r#"{"sleeps":"yes"}"#, "manifest.sleeps: invalid type"),
        (r#"{"sleeps":null}"#, "manifest.sleeps: invalid type"),
        (r#"{"colour":"red"}"#, "unknown field `colour`"),
        (r#"{"params":[]}"#, "manifest.params: an array, where an object belongs"),
        (r#"{"params":7}"#, "manifest.params: invalid type"),
        (r#"{"params":{"layout":[["p","f64",0]]}}"#, "manifest.params.layout[0]: an array"),
        (r#"{"state":[8]}"#, "manifest.state: an array"),
        (r#"{"params":{"shape":{}}}"#, "unknown field `shape`"),
        (r#"{"params":{"size":12}}"#, "manifest.params.size: 12 is not a multiple of 8"),
        (r#"{"params":{"size":4104}}"#, "manifest.params.size: 4104 bytes, more than the 4096"),
        (r#"{"params":{"schema":7}}"#, "manifest.params.schema: invalid type"),
    ];
    for (members, words) in cases {
        check_manifest(members, words);
    }
    for missing in ["abi", "name", "version"] {
        let mut manifest: serde_json::Value = serde_json::from_str(MANIFEST).unwrap();
        manifest.as_object_mut().unwrap().remove(missing);
        let module = with_manifest(&manifest.to_string(), &format!("{GOOD_MEMORY} {GOOD_EVALUATE}"));
        check(missing, &module, Code::Manifest, &format!("missing field `{missing}`"));
    }
    for (text, words) in [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("7", "invalid type"),
        ("null", "invalid type"),
        (r#"[1,"test","1.0.0"]"#, "manifest: an array"),
    ] {
        let module = with_manifest(text, &format!("{GOOD_MEMORY} {GOOD_EVALUATE}"));
        check(text, &module, Code::Manifest, words);
    }
    let deep = "[".repeat(10_000) + &"]".repeat(10_000);
    let module = with_manifest(&deep, &format!("{GOOD_MEMORY} {GOOD_EVALUATE}"));
    check("deep JSON", &module, Code::Manifest, "recursion limit");
}

#[track_caller]
fn check_manifest(members: &str, words: &str) {
    let mut manifest: serde_json::Map<_, _> = serde_json::from_str(MANIFEST).unwrap();
    manifest.extend(serde_json::from_str::<serde_json::Map<_, _>>(members).unwrap());
    let manifest = serde_json::Value::Object(manifest).to_string();
    check(members, &with_manifest(&manifest, &format!("{GOOD_MEMORY} {GOOD_EVALUATE}")), Code::Manifest, words);
}

/// A params member of one property `p` (its schema) laid out as `field`, in 16 bytes.
#[test]
fn a_bad_params_schema_or_layout_is_refused_by_path() {
    let good = r#"{"type":"number"}"#;
    let fallback = r#"{"type":"number","default":1}"#;
    let at = r#"{"name":"p","type":"f64","offset":0}"#;
    let cases = [
        (r#"{"type":"number","pattern":"a"}"#, at, "properties.p.pattern: not among the keywords"),
        (r##"{"type":"number","$ref":"#"}"##, at, "properties.p.$ref: not among the keywords"),
        (r#"{"type":"number","minimum":"a"}"#, at, "manifest.params.schema"),
        (r#"{"type":"number","multipleOf":0}"#, at, "manifest.params.schema"),
        (r#"{"type":"string"}"#, at, "layout[0].type: a param packed as f64 has the schema type \"number\""),
        (r#"{"type":["number","null"]}"#, at, "layout[0].type: a param packed as f64"),
        ("{}", at, "layout[0].type: a param packed as f64"),
        ("7", at, "properties.p: not an object"),
        (r#"{"type":"number","minimum":1,"default":0}"#, at, "properties.p.default: 0 is less than the minimum of 1"),
        (r#"{"type":"number","default":"x"}"#, at, "properties.p.default"),
        (
            r#"{"type":"integer","default":4294967296}"#,
            r#"{"name":"p","type":"u32","offset":0}"#,
            "default: 4294967296 does not fit",
        ),
        (good, r#"{"name":"q","type":"f64","offset":0}"#, "layout[0].name: \"q\" is not a property"),
        (good, r#"{"name":"p","type":"f16","offset":0}"#, "layout[0].type: \"f16\" is not one of"),
        (good, r#"{"name":"p","type":"f64","offset":4}"#, "layout[0].offset: 4 does not place 8 aligned bytes"),
        (good, r#"{"name":"p","type":"f64","offset":16}"#, "layout[0].offset: 16 does not place"),
        (good, r#"{"name":"p","type":"f64","offset":18446744073709551608}"#, "layout[0].offset: 18446744073709551608"),
        // A default is packed on trial, though there is no place for it.
        (fallback, r#"{"name":"p","type":"f64","offset":8000}"#, "layout[0].offset: 8000"),
        (
            fallback,
            r#"{"name":"p","type":"f64","offset":18446744073709551608}"#,
            "layout[0].offset: 18446744073709551608",
        ),
        (
            good,
            r#"{"name":"p","type":"f64","offset":0},{"name":"p","type":"f64","offset":8}"#,
            "layout[1].name: \"p\" is laid out twice",
        ),
        (
            good,
            r#"{"name":"p","type":"f64","offset":0},{"name":"p","type":"f32","offset":4}"#,
            "layout[1].offset: 4 overlaps \"p\"",
        ),
        (good, "", "the property \"p\" is not laid out"),
        (r#"{"type":"string"}"#, r#"{"name":"p","type":"enum","offset":0}"#, "an enum needs a list of strings"),
        (
            r#"{"type":"string","enum":["a",1]}"#,
            r#"{"name":"p","type":"enum","offset":0}"#,
            "an enum needs a list of strings",
        ),
        (good, r#"{"name":"p","type":"f64"}"#, "missing field `offset`"),
        // A wrong type hides no wrong place.
        (r#"{"type":"string"}"#, r#"{"name":"p","type":"f64","offset":4}"#, "layout[0].offset: 4 does not place"),
        (r#"{"type":"string","default":"x"}"#, at, "properties.p.default: \"x\" is not a finite number"),
        (r#"{"type":"number","minimum":9,"maximum":1}"#, at, "properties.p: no value is within its bounds"),
        (r#"{"type":"number","minimum":9,"exclusiveMaximum":9}"#, at, "properties.p: no value is within its bounds"),
        (good, r#"{"name":"p","type":"f64","offset":-1}"#, "manifest.params.layout[0].offset: invalid value"),
    ];
    for (property, field, words) in cases {
        check_params(&format!(r#"{{"properties":{{"p":{property}}},"required":["p"]}}"#), field, words);
    }
    let outer = [
        (r#"{"properties":{"p":{"type":"number"}}}"#, "properties.p: neither required nor with a default"),
        (r#"{"properties":{"p":{"type":"number"}},"required":["p","q"]}"#, "required: \"q\" is not a property"),
        (r#"{"properties":{"p":{"type":"number"}},"required":["p",7]}"#, "required: 7 is not a property"),
        (
            r#"{"properties":{"p":{"type":"number"}},"required":["p"],"additionalProperties":true}"#,
            "additionalProperties",
        ),
        (r#"{"properties":{"p":{"type":"number"}},"required":["p"],"type":"array"}"#, "schema.type: use only"),
        (r#"{"properties":{"p":{"type":"number"}},"required":["p"],"allOf":[]}"#, "schema.allOf: use only"),
        (r#"{"properties":{"a b":{"type":"number"}},"required":["a b"]}"#, "\"a b\" is not a name"),
        (r#"{"properties":[]}"#, "schema.properties: use only"),
    ];
    for (schema, words) in outer {
        check_params(schema, at, words);
    }
    // More than any machine has, if a record of that size were made to try the default in.
    let schema = format!(r#"{{"properties":{{"p":{fallback}}}}}"#);
    let members = format!(r#"{{"params":{{"schema":{schema},"layout":[{at}],"size":1152921504606846976}}}}"#);
    check_manifest(&members, "manifest.params.size: 1152921504606846976 bytes, more than the 4096");
}

#[track_caller]
fn check_params(schema: &str, field: &str, words: &str) {
    check_manifest(&format!(r#"{{"params":{{"schema":{schema},"layout":[{field}],"size":16}}}}"#), words);
}

#[test]
fn several_errors_of_a_manifest_are_told_together() {
    let manifest = r#"{"abi":3,"name":"X","version":"?","state":{"size":3},"evidence":["a","a"],
        "params":{"schema":{"properties":{"p":{"type":"number"}}},"layout":[],"size":4}}"#;
    let violations = refused("manifest", &with_manifest(manifest, &format!("{GOOD_MEMORY} {GOOD_EVALUATE}")));
    for path in ["abi", "name", "version", "state.size", "evidence[1]", "params.size", "params.schema", "params.layout"]
    {
        let start = format!("manifest.{path}");
        assert!(violations.iter().any(|v| v.message.starts_with(&start)), "{path} is not among {violations:#?}");
    }
}

/// Rules to mutate: a metered one with all kinds of sections, and the built-in ones.
fn seeds() -> Vec<Vec<u8>> {
    let busy = r#"
        (memory (export "memory") 1)
        (table 4 funcref) (elem (i32.const 0) $step $step)
        (global $count (mut i32) (i32.const 0)) (global (export "__heap_base") i32 (i32.const 1024))
        (data (i32.const 16) "constants")
        (type $step (func (param f64) (result f64)))
        (func $step (type $step) (f64.mul (local.get 0) (f64.const 0.5)))
        (func (export "evaluate") (param $tick i32) (param $params i32) (param $state i32) (param $verdict i32)
          (result i32) (local $i i32) (local $x f32)
          (local.set $i (i32.const 8))
          (loop $again
            (f64.store (local.get $state) (call_indirect (type $step) (f64.load (local.get $tick)) (i32.const 1)))
            (memory.copy (i32.const 32) (i32.const 16) (local.get $i))
            (f32.store offset=8 (local.get $state) (f32.div (local.get $x) (f32.const 0)))
            (local.set $i (i32.sub (local.get $i) (i32.const 1)))
            (br_if $again (local.get $i)))
          (f64.store offset=32 (local.get $verdict) (f64.load (local.get $params)))
          (f64.store (local.get $verdict) (f64.load (local.get $state)))
          (i32.const 3))"#;
    let manifest = r#"{"abi":1,"name":"busy","version":"1.0.0","sleeps":true,"state":{"size":16},"evidence":["a"],
        "params":{"schema":{"properties":{"p":{"type":"number","default":1}}},"layout":[{"name":"p","type":"f64","offset":0}],"size":8}}"#;
    vec![with_manifest(manifest, busy), builtin::ABOVE.to_vec(), builtin::BELOW.to_vec()]
}

fn arming(id: i64, rule: &Rule, params: Vec<u8>) -> Arming {
    Arming {
        binding: BindingId(id),
        alert: AlertId(id),
        tenant: Tenant::standard(),
        symbol: Symbol::parse("X").unwrap(),
        rule: rule.clone(),
        params,
        lifecycle: Lifecycle { repeat: Repeat::Every },
        saved: None,
    }
}

/// What a mutation left acceptable is run: whatever it does, the shard survives it.
fn evaluate(module: &[u8]) {
    let Ok(rule) = engine().load(module) else { return };
    let mut shard = Shard::default();
    for id in 1..=3 {
        shard.arm(arming(id, &rule, vec![1; rule.manifest().params.packed_bytes()])).unwrap();
    }
    for offset in 0..7 {
        let tick = Tick::new(Symbol::parse("X").unwrap(), 1.5, 1.0, 7, Conditions::default()).unwrap();
        shard.evaluate(&tick, Position { partition: 0, offset }, &mut Vec::new()).unwrap();
    }
}

#[test]
fn the_seeds_of_the_mutations_are_good() {
    for seed in seeds() {
        engine().load(&seed).unwrap();
        evaluate(&seed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_modules_do_no_harm(
        seed in 0..3_usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..4),
    ) {
        let mut module = seeds().swap_remove(seed);
        for (at, byte, edit) in edits {
            let at = at.index(module.len());
            match edit {
                0 => module[at] = byte,
                1 => module[at] ^= 1 << (byte % 8),
                2 => module.insert(at, byte),
                _ => { module.remove(at); }
            }
        }
        evaluate(&module);
    }

    #[test]
    fn noise_behind_a_header_does_no_harm(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(inspect(&[b"\0asm\x01\0\0\0".as_slice(), &noise].concat()).is_err());
    }
}

/// Behind a rule's own pages lie the tick, the answers and the records of all bindings: none of them can be reached.
#[test]
fn a_write_outside_of_its_own_records_faults_and_changes_nothing() {
    let writes = [
        // The answer before its own: as if slot 1,000,000 had answered.
        "(i32.store (i32.sub (local.get 3) (i32.const 72)) (i32.const 1000000))",
        "(f64.store (local.get 0) (f64.const 7))",
        "(f64.store (local.get 1) (f64.const 7))",
        "(i64.store8 offset=8 (local.get 2) (i64.const 7))",
        "(i64.store8 (i32.sub (local.get 2) (i32.const 1)) (i64.const 7))",
        "(i64.store offset=52 (local.get 3) (i64.const 7))",
        "(i64.store offset=0xffffffff (local.get 2) (i64.const 7))",
        "(memory.fill (local.get 1) (i32.const 7) (i32.const 8))",
        "(memory.copy (i32.const 65535) (i32.const 0) (i32.const 2))",
        "(call $write (local.get 2) (i32.const 8))",
    ];
    let manifest = r#"{"abi":1,"name":"test","version":"1.0.0","state":{"size":8},"params":{"size":8,
        "schema":{"type":"object","properties":{"p":{"type":"integer","default":0}}},
        "layout":[{"name":"p","type":"i64","offset":0}]}}"#;
    for write in writes {
        let body = format!(
            r#"(func $write (param i32 i32)
                 (i32.store16 (i32.add (local.get 0) (local.get 1)) (i32.const 7)))
               (func (export "evaluate") (param i32 i32 i32 i32) (result i32)
                 ;; Its own records and pages it may write to, wherever the address comes from.
                 (call $write (local.get 2) (i32.const 6))
                 (call $write (i32.const 65534) (i32.const 0))
                 (memory.fill (local.get 3) (i32.const 0) (i32.const 56))
                 (memory.copy (local.get 1) (local.get 0) (i32.const 0))
                 (if (i32.wrap_i64 (i64.load (local.get 1))) (then {write}))
                 (i32.const 1))"#
        );
        let rule = engine()
            .load(&with_manifest(manifest, &format!("{GOOD_MEMORY} {body}")))
            .unwrap_or_else(|error| panic!("{write}: {error}"));
        let mut shard = Shard::default();
        for id in 1..=3 {
            shard.arm(arming(id, &rule, i64::from(id == 2).to_le_bytes().to_vec())).unwrap();
        }
        let mut events = Vec::new();
        let tick = Tick::new(Symbol::parse("X").unwrap(), 1.0, 1.0, 1, Conditions::default()).unwrap();
        shard.evaluate(&tick, Position { partition: 0, offset: 0 }, &mut events).unwrap();
        let fired = events.iter().filter(|event| matches!(event, Event::Fired { .. })).count();
        let fault = events.iter().find_map(|event| match event {
            Event::Faulted { binding, fault, .. } => Some((*binding, fault.clone())),
            _ => None,
        });
        assert_eq!((fired, fault), (2, Some((BindingId(2), Fault::StrayWrite))), "{write}");
        let written = [0, 0, 0, 0, 0, 0, 7, 0];
        let states = [1, 2, 3].map(|id| shard.saved(BindingId(id)).unwrap().state);
        assert_eq!(states, [written.to_vec(), vec![0; 8], written.to_vec()], "{write}");
    }
}
