//! Faults on the running binary: quarantine, bundles, release, impure rules and caps.

use std::path::Path;

use serde_json::{Value, json};

use crate::server::{Server, tocsin, wait_for};

/// Counts its evaluations in its state, and traps when it was evaluated more often than a trial run has ticks.
const TIRES: &str = r#"(module (memory (export "memory") 1)
  (func (export "evaluate") (param i32 i32) (param $state i32) (param i32) (result i32)
    (if (i64.ge_u (i64.load (local.get $state)) (i64.const 100)) (then unreachable))
    (i64.store (local.get $state) (i64.add (i64.load (local.get $state)) (i64.const 1)))
    (i32.const 1))
  (@custom "tocsin.manifest" "{\"abi\":1,\"name\":\"tires\",\"version\":\"1.0.0\",\"state\":{\"size\":8}}"))"#;

/// Keeps a count where no rule may, in a global, if the tick is newer than those of a trial run.
const IMPURE: &str = r#"(module (memory (export "memory") 1) (global $count (mut i32) (i32.const 0))
  (func (export "evaluate") (param $tick i32) (param i32 i32 i32) (result i32)
    (if (i32.and (i64.gt_u (i64.load offset=16 (local.get $tick)) (i64.const 1750000000000))
                 (i64.lt_u (i64.load offset=16 (local.get $tick)) (i64.const 9000000000000)))
      (then (global.set $count (i32.add (global.get $count) (i32.const 1)))))
    (i32.and (global.get $count) (i32.const 1)))
  (@custom "tocsin.manifest" "{\"abi\":1,\"name\":\"impure\",\"version\":\"1.0.0\"}"))"#;

/// Once it was evaluated more often than a trial run has ticks, it promises to hold for ever, and fires all the same.
const LIAR: &str = r#"(module (memory (export "memory") 1)
  (func (export "evaluate") (param i32 i32) (param $state i32) (param $verdict i32) (result i32)
    (f64.store offset=32 (local.get $verdict) (f64.const -1e300))
    (f64.store offset=40 (local.get $verdict) (f64.const 1e300))
    (i64.store offset=48 (local.get $verdict) (i64.const 9000000000000000))
    (if (i64.gt_u (i64.load (local.get $state)) (i64.const 100)) (then (return (i32.const 1))))
    (i64.store (local.get $state) (i64.add (i64.load (local.get $state)) (i64.const 1)))
    (select (i32.const 2) (i32.const 0) (i64.gt_u (i64.load (local.get $state)) (i64.const 100))))
  (@custom "tocsin.manifest"
    "{\"abi\":1,\"name\":\"liar\",\"version\":\"1.0.0\",\"state\":{\"size\":8},\"sleeps\":true}"))"#;

const FEED: [&str; 6] = ["--tickers", "AAPL", "--simulated-rate", "200", "--audit-every", "1"];

fn upload(server: &Server, module: &str) {
    let (status, answer) = server.upload(wat::parse_str(module).unwrap());
    assert_eq!(status, 201, "{answer}");
}

fn create(server: &Server, rule: &str) -> (u16, Value) {
    let body = json!({"user_id": 1, "symbols": ["AAPL"], "rule": rule, "lifecycle": {"repeat": "every"}});
    server.post("/api/v1/alerts", &body)
}

fn faults(server: &Server, alert: i64) -> Vec<Value> {
    server.get(&format!("/api/v1/alerts/{alert}/faults"))["faults"].as_array().unwrap().clone()
}

fn wait_for_quarantine(server: &Server, alert: i64) {
    wait_for("the alert to be quarantined", || {
        server.get(&format!("/api/v1/alerts/{alert}"))["bindings"][0]["status"] == "quarantined"
    });
}

/// Saves a fault's bundle, changed if need be.
fn save_bundle(server: &Server, fault: &Value, path: &Path, change: impl FnOnce(&mut Value)) {
    let mut bundle = server.get(&format!("/api/v1/faults/{}/bundle", fault["id"].as_str().unwrap()));
    change(&mut bundle);
    std::fs::write(path, bundle.to_string()).unwrap();
}

#[test]
fn a_fault_is_quarantined_reproduced_and_unquarantined_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &FEED);
    upload(&server, TIRES);
    assert_eq!(create(&server, "tires").0, 201);
    wait_for_quarantine(&server, 1);
    let first = faults(&server, 1);
    assert_eq!(first.len(), 5, "{first:?}");
    assert_eq!((&first[4]["kind"], &first[4]["quarantined"]), (&json!("trap"), &json!(true)));
    assert_eq!(server.firings().len(), 100);
    let (code, output) = tocsin(&server, &["alert", "faults", "1"]);
    assert!(code == Some(0) && output.contains("unreachable") && output.contains("(quarantined)"), "{output}");

    let path = folder.path().join("bundle.json");
    let file = path.to_str().unwrap();
    save_bundle(&server, &first[0], &path, |_| {});
    let (code, output) = tocsin(&server, &["rule", "reproduce", file]);
    assert!(code == Some(0) && output.starts_with("tires 1.0.0 on AAPL at "), "{output}");
    let (code, output) = tocsin(&server, &["--json", "rule", "reproduce", file]);
    assert_eq!((code, &serde_json::from_str::<Value>(&output).unwrap()["reproduced"]), (Some(0), &json!(true)));
    save_bundle(&server, &first[0], &path, |bundle| bundle["state"] = json!("0000000000000000"));
    let (code, output) = tocsin(&server, &["rule", "reproduce", file]);
    assert!(code == Some(1) && output.contains("evaluated again, it fired"), "{output}");

    server.kill();
    let server = Server::start(folder.path(), &FEED);
    wait_for_quarantine(&server, 1);
    let before = faults(&server, 1).len();
    let (code, output) = tocsin(&server, &["alert", "release", "1", "--symbol", "AAPL"]);
    assert!(code == Some(0) && output.contains("active"), "{output}");
    // It is tired still: one fault on probe quarantines it again.
    wait_for_quarantine(&server, 1);
    wait_for("the probe's fault to be listed", || faults(&server, 1).len() > before);
    assert_eq!(server.stop(), Some(0));
    let quiet = Server::start(folder.path(), &["--feed", "none"]);
    wait_for_quarantine(&quiet, 1);
    let (code, output) = tocsin(&quiet, &["alert", "release", "1", "--symbol", "MSFT"]);
    assert!(code == Some(1) && output.contains("does not watch MSFT"), "{output}");
}

#[test]
fn an_impure_rule_is_quarantined_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let quiet = Server::start(folder.path(), &["--feed", "none"]);
    upload(&quiet, IMPURE);
    // Evidence from several bindings speaks against the version, and may do so from the first ticks on.
    (0..5).for_each(|_| assert_eq!(create(&quiet, "impure").0, 201));
    assert_eq!(quiet.stop(), Some(0));
    let server = Server::start(folder.path(), &FEED);
    wait_for("the rule to be out of service", || server.get("/health").to_string().contains("impure 1.0.0"));
    wait_for_quarantine(&server, 1);
    let (code, output) = tocsin(&server, &["rule", "show", "impure"]);
    assert!(code == Some(0) && output.contains("quarantine ") && output.contains("for ever: "), "{output}");
    assert!(server.get("/health")["problems"][0].as_str().unwrap().contains("impure 1.0.0"));
    assert_eq!(server.stop(), Some(0));

    let server = Server::start(folder.path(), &FEED);
    let (status, refused) = create(&server, "impure");
    assert!(status == 409 && refused["detail"].as_str().unwrap().contains("no longer evaluated"), "{refused}");
    let (status, again) = server.upload(wat::parse_str(IMPURE).unwrap());
    assert!(status == 200 && again["quarantine"]["reason"].is_string(), "{again}");
    let (code, output) = tocsin(&server, &["alert", "release", "1"]);
    assert!(code == Some(1) && output.contains("no longer evaluated"), "{output}");
    // Ticks are evaluated, but not by it.
    let before = server.firings().len();
    let (status, _) = server.post(
        "/alerts",
        &json!({
            "user_id": 1, "symbol": "AAPL", "target_price": 0.01, "condition": "ABOVE",
        }),
    );
    assert_eq!(status, 201);
    wait_for("an honest alert to fire", || server.firings().len() > before);
    assert_eq!(server.firings().len(), before + 1);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_false_wake_band_is_found_where_waking_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &[&FEED[..], &["--waking", "checked"]].concat());
    upload(&server, LIAR);
    assert_eq!(create(&server, "liar").0, 201);
    wait_for_quarantine(&server, 1);
    let found = faults(&server, 1);
    assert!(found.iter().all(|fault| fault["kind"] == "overslept"), "{found:?}");
    assert!(server.firings().is_empty(), "who sleeps does not fire");
    let path = folder.path().join("bundle.json");
    save_bundle(&server, &found[0], &path, |_| {});
    assert_eq!(tocsin(&server, &["rule", "reproduce", path.to_str().unwrap()]).0, Some(0));
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn caps_are_settings() {
    let folder = tempfile::tempdir().unwrap();
    let caps = ["--feed", "none", "--max-bindings-per-tenant", "3", "--max-bindings-per-rule", "2"];
    let server = Server::start(folder.path(), &caps);
    let alert = |symbols: &[&str], rule| {
        let body = json!({"user_id": 1, "symbols": symbols, "rule": rule, "params": {"target": 1}});
        server.post("/api/v1/alerts", &body)
    };
    assert_eq!(alert(&["A", "B"], "above").0, 201);
    for (symbols, rule, expect) in [
        (&["C"][..], "above", "the rule above 1.0.0 has 2 live bindings"),
        (&["C", "D"], "below", "the tenant default has 2 live bindings"),
    ] {
        let (status, refused) = alert(symbols, rule);
        assert!(status == 403 && refused["detail"].as_str().unwrap().contains(expect), "{refused}");
    }
    assert_eq!(alert(&["C"], "below").0, 201);
    assert_eq!(server.stop(), Some(0));
}

/// A panic of the engine ends the process once; the rule that it evaluated is out of service by then.
#[cfg(feature = "failpoints")]
#[test]
fn a_rule_that_makes_the_engine_panic_is_out_of_service_after_the_restart() {
    let folder = tempfile::tempdir().unwrap();
    let module = || {
        tocsin_testdata::modules::with_manifest(
            r#"{"abi":1,"name":"panics","version":"1.0.0"}"#,
            &format!("{} {}", tocsin_testdata::modules::GOOD_MEMORY, tocsin_testdata::modules::GOOD_EVALUATE),
        )
    };
    let alert = |rule: &str, params: Value| json!({"user_id": 1, "symbols": ["AAPL"], "rule": rule, "params": params, "lifecycle": {"repeat": "every"}});
    let quiet = Server::start(folder.path(), &["--feed", "none"]);
    assert_eq!(quiet.upload(module()).0, 201);
    assert_eq!(quiet.post("/api/v1/alerts", &alert("panics", json!({}))).0, 201);
    assert_eq!(quiet.post("/api/v1/alerts", &alert("above", json!({"target": 0.01}))).0, 201);
    assert_eq!(quiet.stop(), Some(0));
    let panics = [("TOCSIN_PANIC_ON_RULE", "panics".to_owned())];
    let simulated = ["--feed", "simulated", "--tickers", "AAPL"];
    let mut server = Server::start_with(folder.path(), &simulated, &panics);
    assert_eq!(server.exit_status(), Some(1), "the evaluator ends, and with it the process");
    // The same again: it goes on without that rule.
    let server = Server::start_with(folder.path(), &simulated, &panics);
    wait_for("the other alert to fire", || !server.firings().is_empty());
    let health = server.get("/health").to_string();
    assert!(health.contains("panics 1.0.0"), "{health}");
    let rule = server.get("/api/v1/rules/panics").to_string();
    assert!(rule.contains("the engine panicked while it evaluated this rule version"), "{rule}");
    assert_eq!(server.stop(), Some(0));
}
