//! Rules without faults that spend their fuel on what takes a machine the longest: cache misses, first touches of pages,
//! mispredictions, denormals. Each runs a loop as often as its param says.

use crate::modules::with_manifest;

/// A costly rule.
pub struct CostlyRule {
    /// What makes it costly.
    pub kind: &'static str,
    /// The module. Its params record is `turns` and `mask`, both u32: the iterations of its loop, and the bits that a
    /// generated address may have. The tick's volume is the first address. On a tick without volume it writes to each of its
    /// own pages once instead.
    pub module: Vec<u8>,
    /// Whether it reads the records of its bindings, not its own pages.
    pub reads_tables: bool,
    /// Whether it is costly on a fresh instance only.
    pub is_fresh: bool,
}

/// The memory that these rules ask for, in pages of 64 KiB: as many as allowed.
pub const PAGES: u32 = 20;

/// The bits that an address in own pages may have: 16 pages, since that is a power of two.
pub const OWN_MASK: u32 = (16 << 16) - 4;

/// A step of a linear congruential generator (Numerical Recipes, 3rd edition, section 7.1) on `$a`, which depends on what
/// was read last.
const NEXT: &str = "(local.set $a (i32.and (local.get $mask)
    (i32.add (i32.add (i32.mul (local.get $a) (i32.const 1664525)) (i32.const 1013904223)) (local.get $x))))";

/// Returns the kinds: what is costly, the code beside `evaluate`, and the body of the loop.
fn kinds() -> Vec<(&'static str, String, String)> {
    let next = |then: &str| format!("{NEXT} {then}");
    let many = |count: usize, what: &str| what.repeat(count);
    let functions: String = (0..400)
        .map(|at| format!("(func $f{at} (type $t) (i32.xor (local.get 0) (i32.const {})))", at * 7 + 1))
        .collect();
    let names: String = (0..400).map(|at| format!("$f{at} ")).collect();
    let table = format!(
        "(type $t (func (param i32) (result i32))) (table 400 funcref) (elem (i32.const 0) {names}) {functions}"
    );
    let targets = many(255, "0 1 2 3 ");
    vec![
        ("loads along a chain, own pages", String::new(), next("(local.set $x (i32.load (local.get $a)))")),
        ("loads along a chain, all tables", String::new(), next("(local.set $x (i32.load (local.get $a)))")),
        ("bytes along a chain, all tables", String::new(), next("(local.set $x (i32.load8_u (local.get $a)))")),
        (
            "stores across two pages",
            String::new(),
            next("(i64.store (i32.or (i32.and (local.get $a) (i32.const 0xef000)) (i32.const 4092)) (i64.const 1))"),
        ),
        ("stores anywhere in own pages", String::new(), next("(i32.store (local.get $a) (local.get $a))")),
        (
            "first touch of own pages, by stores",
            String::new(),
            "(i32.store (local.get $a) (i32.const 1))
             (local.set $a (i32.rem_u (i32.add (local.get $a) (i32.const 4096)) (i32.const 1310720)))"
                .to_owned(),
        ),
        (
            "first touch of own pages, by loads",
            String::new(),
            "(local.set $x (i32.load (local.get $a)))
             (local.set $a (i32.rem_u (i32.add (local.get $a) (i32.const 4096)) (i32.const 1310720)))"
                .to_owned(),
        ),
        (
            "copies of a few bytes",
            String::new(),
            next("(memory.copy (i32.and (local.get $a) (i32.const 0xffff8)) (local.get $a) (i32.const 7))"),
        ),
        (
            "copies of a few bytes, from all tables",
            String::new(),
            next("(memory.copy (i32.and (local.get $a) (i32.const 0xffff8)) (local.get $a) (i32.const 7))"),
        ),
        ("copies of 64 KiB", String::new(), "(memory.copy (i32.const 0) (i32.const 1000000) (i32.const 65536))".to_owned()),
        ("fills of 64 KiB", String::new(), "(memory.fill (i32.const 1) (i32.const 7) (i32.const 65536))".to_owned()),
        ("products of denormals", String::new(), many(100, "(local.set $f (f64.mul (local.get $f) (f64.const 0.9999999)))")),
        ("sums of denormals", String::new(), many(100, "(local.set $f (f64.add (local.get $f) (f64.const 5e-324)))")),
        ("quotients of denormals", String::new(), many(100, "(local.set $f (f64.div (local.get $f) (f64.const 1.0000001)))")),
        ("roots of denormals", String::new(), many(100, "(local.set $f (f64.mul (f64.sqrt (local.get $f)) (f64.const 1e-155)))")),
        (
            "denormals, narrowed and widened",
            String::new(),
            many(100, "(local.set $f (f64.promote_f32 (f32.demote_f64 (f64.const 1e-40))))"),
        ),
        ("denormals, compared and rounded", String::new(), many(100, "(local.set $x (i32.add (f64.lt (f64.nearest (local.get $f)) (local.get $f)) (local.get $x)))")),
        ("denormals, to integers and back", String::new(), many(100, "(local.set $f (f64.reinterpret_i64 (i64.trunc_sat_f64_s (local.get $f))))")),
        ("divisions of integers", String::new(), many(100, "(local.set $i (i64.div_s (i64.const -9223372036854775807) (i64.add (local.get $i) (i64.const 3))))")),
        (
            "branches that cannot be predicted",
            String::new(),
            many(20, &next("(if (i32.and (local.get $a) (i32.const 0x8000)) (then (local.set $i (i64.add (local.get $i) (i64.const 1)))))")),
        ),
        (
            "jumps that cannot be predicted",
            String::new(),
            next(&format!(
                "(block (block (block (block (br_table {targets} 0 (i32.and (i32.shr_u (local.get $a) (i32.const 9)) (i32.const 1023))))
                   (local.set $i (i64.add (local.get $i) (i64.const 1)))) (local.set $i (i64.xor (local.get $i) (i64.const 2))))
                   (local.set $i (i64.mul (local.get $i) (i64.const 3))))"
            )),
        ),
        (
            "calls that cannot be predicted",
            table,
            next("(local.set $x (call_indirect (type $t) (local.get $a) (i32.rem_u (i32.shr_u (local.get $a) (i32.const 5)) (i32.const 400))))"),
        ),
        (
            "calls with many results",
            format!("(func $many (param i64) (result {}) {})", many(32, "i64 "), many(32, "(local.get 0)")),
            format!("(call $many (local.get $i)) {}", many(32, "(drop)")),
        ),
        (
            "recursion with many values",
            format!(
                "(func $deep (param $left i32) (param i64) (result i64)
                   (if (i32.eqz (local.get $left)) (then (return (local.get 1))))
                   {} (call $deep (i32.sub (local.get $left) (i32.const 1)) (local.get 1)) {})",
                (0..60).map(|at| format!("(i64.mul (local.get 1) (i64.const {}))", at * 2 + 3)).collect::<String>(),
                many(60, "(i64.add)")
            ),
            "(local.set $i (call $deep (i32.const 40) (local.get $i)))".to_owned(),
        ),
        ("asks for memory", String::new(), many(50, "(drop (memory.grow (i32.const 1)))")),
    ]
}

/// Returns all costly rules.
pub fn rules() -> Vec<CostlyRule> {
    let rule = |(kind, beside, turn): (&'static str, String, String)| {
        let manifest = r#"{"abi":1,"name":"costly","version":"1.0.0","state":{"size":65536},"params":{"size":8,
            "schema":{"type":"object","properties":{"turns":{"type":"integer"},"mask":{"type":"integer"}},
            "required":["turns","mask"]},"layout":[{"name":"turns","type":"u32","offset":0},
            {"name":"mask","type":"u32","offset":4}]}}"#;
        let fields = format!(
            r#"(memory (export "memory") {PAGES}) {beside}
            (func (export "evaluate") (param $t i32) (param $p i32) (param $s i32) (param $v i32) (result i32)
              (local $left i32) (local $mask i32) (local $a i32) (local $x i32) (local $i i64) (local $f f64)
              (if (f64.eq (f64.load offset=8 (local.get $t)) (f64.const 0)) (then
                (loop $touch
                  (i32.store (local.get $a) (i32.const 0))
                  (br_if $touch (i32.lt_u (local.tee $a (i32.add (local.get $a) (i32.const 4096)))
                                          (i32.const {}))))
                (return (i32.const 0))))
              (local.set $f (f64.const 1e-310))
              (local.set $mask (i32.load offset=4 (local.get $p)))
              (local.set $a (i32.and (local.get $mask) (i32.trunc_sat_f64_u (f64.load offset=8 (local.get $t)))))
              (if (i32.eqz (local.tee $left (i32.load (local.get $p)))) (then (return (i32.const 0))))
              (loop $l
                {turn}
                (br_if $l (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
              ;; What was computed is used, or it would not be.
              (i32.and (i32.eq (i32.add (local.get $x) (i32.wrap_i64 (local.get $i))) (i32.const 123456789))
                       (f64.eq (local.get $f) (f64.const 1))))"#,
            PAGES << 16
        );
        CostlyRule {
            kind,
            module: with_manifest(manifest, &fields),
            reads_tables: kind.ends_with("all tables"),
            is_fresh: kind.starts_with("first touch"),
        }
    };
    kinds().into_iter().map(rule).collect()
}
