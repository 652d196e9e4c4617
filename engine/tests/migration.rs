//! States come over from one version of a rule to another: made by the new version's `migrate`, or not at all.
#![allow(clippy::unwrap_used)] // the helpers belong to the tests

use tocsin_engine::trial::trial_migration;
use tocsin_engine::{Engine, Fault, Migration, MigrationError, Rule};

/// A version of a rule that keeps `state_bytes`; `members` and `fields` are of its manifest and its module.
fn version(version: &str, state_bytes: usize, members: &str, fields: &str) -> Result<Rule, tocsin_engine::LoadError> {
    let manifest = format!(
        r#"{{"abi":1,"name":"counter","version":"{version}","state":{{"size":{state_bytes}}},"params":{{"size":8,
            "schema":{{"type":"object","properties":{{"factor":{{"type":"integer","default":3}}}}}},
            "layout":[{{"name":"factor","type":"i64","offset":0}}]}}{members}}}"#
    );
    let manifest: String = manifest.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    let text = format!(
        r#"(module (memory (export "memory") 1)
            (func (export "evaluate") (param i32 i32 i32 i32) (result i32) (i32.const 0))
            {fields} (@custom "tocsin.manifest" "{manifest}"))"#
    );
    Engine::new().unwrap().load(&wat::parse_str(text).unwrap())
}

fn migrate(body: &str) -> String {
    format!(
        r#"(func (export "migrate") (param $from i32) (param $old i32) (param $params i32) (param $state i32)
             (result i32) {body})"#
    )
}

/// Takes the state 5 of version 1.0.0 or 1.1.0 over with factor 7.
fn take_over(old: &Rule, body: &str) -> Result<Vec<u8>, MigrationError> {
    let new = version("2.0.0", 16, r#","migrates":["1.0.0","1.1.0"]"#, &migrate(body)).unwrap();
    Migration::new(&new, old.manifest())?.state(&7_i64.to_le_bytes(), &5_i64.to_le_bytes())
}

fn words(one: i64, other: i64) -> Vec<u8> {
    [one.to_le_bytes(), other.to_le_bytes()].concat()
}

#[test]
fn a_state_is_made_of_the_older_one_and_the_params() {
    let body = "(i64.store (local.get $state) (i64.mul (i64.load (local.get $old)) (i64.load (local.get $params))))
                (i64.store offset=8 (local.get $state) (i64.extend_i32_u (local.get $from)))
                (i32.const 0)";
    assert_eq!(take_over(&version("1.0.0", 8, "", "").unwrap(), body).unwrap(), words(35, 0));
    assert_eq!(take_over(&version("1.1.0", 8, "", "").unwrap(), body).unwrap(), words(35, 1));
}

#[test]
fn what_a_migration_does_not_do_is_told() {
    let old = version("1.0.0", 8, "", "").unwrap();
    let fault = |body: &str| match take_over(&old, body) {
        Err(MigrationError::Faulted(fault)) => fault,
        other => panic!("{body}: {other:?}"),
    };
    assert!(matches!(take_over(&old, "(i32.const 4)"), Err(MigrationError::Refused(4))));
    assert!(matches!(fault("unreachable"), Fault::Trap(_)));
    assert_eq!(fault("(loop $l (br $l)) (i32.const 0)"), Fault::OutOfFuel);
    for elsewhere in ["$old", "$params"] {
        let body = format!("(i64.store (local.get {elsewhere}) (i64.const 1)) (i32.const 0)");
        assert_eq!(fault(&body), Fault::StrayWrite, "{elsewhere}");
    }
    let stranger = version("1.0.5", 8, "", "").unwrap();
    let refused = take_over(&stranger, "(i32.const 0)").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "version 2.0.0 keeps a state and does not migrate from 1.0.5: its manifest's `migrates` names 1.0.0, 1.1.0"
    );
}

#[test]
fn a_migration_goes_on_after_a_state_that_it_refused() {
    let body = "(if (i64.eqz (i64.load (local.get $old))) (then unreachable))
                (i64.store (local.get $state) (i64.load (local.get $old))) (i32.const 0)";
    let old = version("1.0.0", 8, "", "").unwrap();
    let new = version("2.0.0", 16, r#","migrates":["1.0.0"]"#, &migrate(body)).unwrap();
    let migration = Migration::new(&new, old.manifest()).unwrap();
    let params = 7_i64.to_le_bytes();
    assert!(migration.state(&params, &0_i64.to_le_bytes()).is_err());
    assert_eq!(migration.state(&params, &9_i64.to_le_bytes()).unwrap(), words(9, 0));
    assert!(matches!(migration.state(&params, &[]), Err(MigrationError::Size { what: "state", got: 0, expected: 8 })));
}

#[test]
fn a_version_without_state_takes_anything_over() {
    let old = version("1.0.0", 8, "", "").unwrap();
    let new = version("2.0.0", 0, "", "").unwrap();
    let state = Migration::new(&new, old.manifest()).unwrap().state(&7_i64.to_le_bytes(), &5_i64.to_le_bytes());
    assert_eq!(state.unwrap(), Vec::<u8>::new());
}

#[test]
fn manifest_and_export_must_agree() {
    let cases = [
        (r#","migrates":["1.0.0"]"#, String::new(), "if, and only if, the function `migrate` is exported"),
        ("", migrate("(i32.const 0)"), "if, and only if, the function `migrate` is exported"),
        (r#","migrates":["2.0.0"]"#, migrate("(i32.const 0)"), "not older than the rule's own version"),
        (r#","migrates":["1"]"#, migrate("(i32.const 0)"), "not a semantic version"),
        (r#","migrates":["1.0.0","1.0.0"]"#, migrate("(i32.const 0)"), "named twice"),
        (r#","migrates":["1.0.0"]"#, r#"(func (export "migrate"))"#.into(), "`migrate` has the wrong type"),
    ];
    for (members, fields, expect) in cases {
        let refused = version("2.0.0", 8, members, &fields).unwrap_err().to_string();
        assert!(refused.contains(expect), "{members} {fields}: {refused}");
    }
}

#[test]
fn a_migration_that_keeps_or_reads_anything_else_is_refused() {
    let old = version("1.0.0", 8, "", "").unwrap();
    let global = "(global $count (mut i64) (i64.const 0))";
    let counts = "(global.set $count (i64.add (global.get $count) (i64.const 1)))
                  (i64.store (local.get $state) (global.get $count)) (i32.const 0)";
    let fields = format!("{global} {}", migrate(counts));
    let new = version("2.0.0", 16, r#","migrates":["1.0.0"]"#, &fields).unwrap();
    let migration = Migration::new(&new, old.manifest()).unwrap();
    // A counter counts to one and no further: nothing gets from one binding to the next.
    for _ in 0..3 {
        assert_eq!(migration.state(&7_i64.to_le_bytes(), &5_i64.to_le_bytes()).unwrap(), words(1, 0));
    }
    let address = "(i64.store (local.get $state) (i64.extend_i32_u (local.get $old))) (i32.const 0)";
    let refused = take_over(&old, address).unwrap_err();
    assert!(matches!(refused, MigrationError::Impure(_)), "{refused}");
}

#[test]
fn a_trial_finds_migrations_that_cannot_work() {
    let old = version("1.0.0", 8, "", "").unwrap();
    let violations_of = |body: &str| -> Vec<String> {
        let new = version("2.0.0", 16, r#","migrates":["1.0.0"]"#, &migrate(body)).unwrap();
        trial_migration(&new, old.manifest()).unwrap().iter().map(ToString::to_string).collect()
    };
    assert_eq!(violations_of("(i32.const 0)"), [""; 0]);
    assert_eq!(violations_of("(i32.const 3)"), [""; 0]);
    for (body, expect) in [("unreachable", "unreachable"), ("(loop $l (br $l)) (i32.const 0)", "fuel")] {
        let violations = violations_of(body);
        assert!(
            violations.len() == 1
                && violations[0].contains("of zeros of version 1.0.0")
                && violations[0].contains(expect),
            "{violations:?}"
        );
    }
}
