//! Rules that mean harm: valid modules that loop, recurse, trap, lie, forget themselves or write where they may not. Each
//! kind in ever other shapes, as many as are asked for.

use crate::modules::with_manifest;

/// What a hostile rule does, and its module.
pub struct Hostile {
    /// What it does.
    pub kind: &'static str,
    /// The module: it has 16 bytes of state and one evidence number.
    pub module: Vec<u8>,
}

/// The kinds, each with what stands beside `evaluate` and with the body of it. `N` is a number of the shape.
const KINDS: [(&str, &str, &str); 22] = [
    ("loops for ever", "", "(loop $l (br $l)) (i32.const 0)"),
    (
        "loops for ever and writes",
        "",
        "(loop $l (i64.store (local.get 2) (i64.add (i64.load (local.get 2)) (i64.const N))) (br $l)) (i32.const 0)",
    ),
    (
        "multiplies denormals",
        "(global $x (mut f64) (f64.const 5e-324))",
        "(loop $l (global.set $x (f64.mul (global.get $x) (f64.const 0.999))) (br $l)) (i32.const N)",
    ),
    (
        "divides for ever",
        "",
        "(local $d i64) (loop $l (local.set $d (i64.div_s (i64.const -9223372036854775807) (i64.const N))) (br $l)) (i32.const 0)",
    ),
    (
        "recurses into itself",
        "",
        "(call $evaluate (i32.add (local.get 0) (i32.const N)) (local.get 1) (local.get 2) (local.get 3))",
    ),
    (
        "recurses in turns, with large frames",
        "(func $a (param i64 i64 i64 i64) (result i64) (local LOCALS)
           (i64.add (call $b (local.get 0) (local.get 1) (local.get 2) (i64.const N)) (local.get 0)))
         (func $b (param i64 i64 i64 i64) (result i64) (local LOCALS)
           (i64.mul (call $a (local.get 3) (local.get 2) (local.get 1) (local.get 0)) (local.get 5)))",
        "(i32.wrap_i64 (call $a (i64.const N) (i64.const 2) (i64.const 3) (i64.const 4)))",
    ),
    ("fills memory for ever", "", "(loop $l (memory.fill (i32.const 0) (i32.const N) (i32.const 65536)) (br $l)) (i32.const 0)"),
    ("copies memory for ever", "", "(loop $l (memory.copy (i32.const 1) (i32.const N) (i32.const 4096)) (br $l)) (i32.const 0)"),
    ("grows memory for ever", "", "(loop $l (drop (memory.grow (i32.const N))) (br $l)) (i32.const 0)"),
    ("traps after a write", "", "(i64.store (local.get 2) (i64.const N)) unreachable"),
    (
        "divides by zero after a write",
        "",
        "(i64.store (local.get 2) (i64.const N)) (i32.div_u (i32.const N) (i32.wrap_i64 (i64.load offset=8 (local.get 2))))",
    ),
    ("reads out of bounds", "", "(i64.store (local.get 2) (i64.const N)) (i32.load (i32.sub (i32.const -1) (i32.const N)))"),
    ("writes out of bounds", "", "(i32.store (i32.sub (i32.const -8) (i32.const N)) (i32.const N)) (i32.const 0)"),
    (
        "converts what does not fit",
        "",
        "(i64.store (local.get 2) (i64.const N)) (i32.trunc_f64_s (f64.mul (f64.load (local.get 0)) (f64.const 1e300)))",
    ),
    (
        "calls what is not there",
        "(type $t (func (param i32 i32 i32 i32) (result i32))) (table 8 funcref)",
        "(call_indirect (type $t) (local.get 0) (local.get 1) (local.get 2) (local.get 3) (i32.const N))",
    ),
    ("writes to its neighbours", "", "(i64.store (i32.add (local.get 2) (i32.shl (i32.const N) (i32.const 4))) (i64.const N)) (i32.const 0)"),
    ("writes to the tick", "", "(i64.store8 (i32.add (local.get 0) (i32.and (i32.const N) (i32.const 31))) (i64.const N)) (i32.const 1)"),
    ("forges answers", "", "(i64.store (i32.sub (local.get 3) (i32.mul (i32.const N) (i32.const 8))) (i64.const N)) (i32.const 1)"),
    ("answers nonsense", "", "(i32.or (i32.const N) (i32.const 0x7f000000))"),
    ("fires without a number", "", "(f64.store (local.get 3) (f64.div (f64.const 0) (f64.const 0))) (i32.const 1)"),
    ("fires always", "", "(f64.store (local.get 3) (f64.const N)) (i32.const 1)"),
    (
        "remembers in a global",
        "(global $n (mut i32) (i32.const 0))",
        "(global.set $n (i32.add (global.get $n) (i32.const 1)))
         (f64.store (local.get 3) (f64.convert_i32_s (global.get $n))) (i32.eqz (i32.rem_u (global.get $n) (i32.const 3)))",
    ),
];

/// Times of ticks, Unix milliseconds, at which disguised rules do harm: the trial run has none there.
const HARM_FROM_MS: i64 = 1_702_592_000_000;
const HARM_FOR_MS: i64 = 2_000_000_000_000;

/// So many hostile rules, all kinds in turn, no two alike.
pub fn rules(count: usize) -> impl Iterator<Item = Hostile> {
    hostile_rules(count, "")
}

/// As many, which hold on the ticks of the trial run: a server accepts them, and they do harm on ticks of today.
pub fn disguised(count: usize) -> impl Iterator<Item = Hostile> {
    hostile_rules(
        count,
        "(if (i64.gt_u (i64.sub (i64.load offset=16 (local.get 0)) (i64.const FROM)) (i64.const FOR))
           (then (return (i32.const 0))))",
    )
}

/// Rules that do `first` before they do harm.
fn hostile_rules(count: usize, first: &str) -> impl Iterator<Item = Hostile> {
    let first = first.replace("FROM", &HARM_FROM_MS.to_string()).replace("FOR", &HARM_FOR_MS.to_string());
    (0..count).map(move |number| {
        let (kind, beside, body) = KINDS[number % KINDS.len()];
        let shape = number / KINDS.len() + 1;
        let fill =
            |text: &str| text.replace("LOCALS", &"i64 ".repeat(shape % 200 + 2)).replace('N', &shape.to_string());
        let manifest = format!(
            r#"{{"abi":1,"name":"hostile-{number}","version":"1.0.0","state":{{"size":16}},"evidence":["n"]}}"#
        );
        // Locals are declared before anything is done.
        let (locals, body) =
            body.split_at(if body.starts_with("(local ") { body.find(')').map_or(0, |at| at + 1) } else { 0 });
        let fields = format!(
            r#"(memory (export "memory") 1) {}
               (func $evaluate (export "evaluate") (param i32 i32 i32 i32) (result i32) {locals} {first} {})"#,
            fill(beside),
            fill(body)
        );
        Hostile { kind, module: with_manifest(&manifest, &fields) }
    })
}

/// A rule that does no wrong and burns nearly all the fuel that it has, on the costliest operations: those on denormals.
pub fn just_within_budget() -> Vec<u8> {
    let manifest = r#"{"abi":1,"name":"costly","version":"1.0.0"}"#;
    let costly = "(local.set $x (f64.mul (local.get $x) (f64.const 0.9999999)))".repeat(100);
    let fields = format!(
        r#"(memory (export "memory") 1)
        (func (export "evaluate") (param i32 i32 i32 i32) (result i32) (local $left i32) (local $x f64)
          (local.set $left (i32.const 65))
          (local.set $x (f64.const 1e-310))
          (loop $l
            {costly}
            (br_if $l (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
          (f64.eq (local.get $x) (f64.const 1)))"#
    );
    with_manifest(manifest, &fields)
}
