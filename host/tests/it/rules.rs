//! Rules of users, uploaded to a running server.

use serde_json::json;

use crate::server::{Server, tocsin, wait_for};

/// Behaves for as long as a trial run lasts, and then never ends again.
const ENDLESS: &str = r#"(module (memory (export "memory") 1)
  (func (export "evaluate") (param $tick i32) (param $params i32) (param $state i32) (param $verdict i32) (result i32)
    (loop $again (br_if $again (i64.gt_u (i64.load (local.get $state)) (i64.const 100))))
    (i64.store (local.get $state) (i64.add (i64.load (local.get $state)) (i64.const 1)))
    (i32.const 0))
  (@custom "tocsin.manifest" "{\"abi\":1,\"name\":\"endless\",\"version\":\"1.0.0\",\"state\":{\"size\":8}}"))"#;

#[test]
fn an_endless_loop_is_quarantined_and_stalls_no_other_alert() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--tickers", "AAPL", "--simulated-rate", "200"]);
    let module = wat::parse_str(ENDLESS).unwrap();
    assert_eq!(server.upload(module.clone()).0, 201);
    assert_eq!(server.upload(module).0, 200, "the same bytes again");
    let alert = |rule: &str, params| json!({"user_id": 1, "symbols": ["AAPL"], "rule": rule, "params": params});
    for _ in 0..50 {
        assert_eq!(server.post("/api/v1/alerts", &alert("endless", json!({}))).0, 201);
    }
    let (status, honest) = server.post("/api/v1/alerts", &alert("above", json!({"target": 0.01})));
    assert_eq!(status, 201, "{honest}");
    wait_for("the honest alert to fire", || !server.firings().is_empty());
    wait_for("the endless one to be quarantined", || {
        server.get("/api/v1/alerts/1")["bindings"][0]["status"] == "quarantined"
    });
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_bad_module_is_refused_with_every_violation() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--feed", "none"]);
    let (status, problem) = server.upload(wat::parse_str(r#"(module (import "env" "now" (func)))"#).unwrap());
    assert_eq!(status, 422);
    let codes: Vec<&str> =
        problem["violations"].as_array().unwrap().iter().map(|v| v["code"].as_str().unwrap()).collect();
    assert!(["import", "export", "manifest"].iter().all(|code| codes.contains(code)), "{problem}");
}

#[test]
fn a_version_with_build_metadata_is_refused_on_the_command_line_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--feed", "none"]);
    let file = folder.path().join("rule.wasm");
    std::fs::write(&file, wat::parse_str(ENDLESS.replace("1.0.0", "1.0.0+b")).unwrap()).unwrap();
    let file = file.to_str().unwrap();
    for arguments in [
        &["rule", "check", file][..],
        &["rule", "upload", file],
        &["rule", "show", "above", "--version", "1.0.0+b"],
        &["rule", "promote", "above", "1.0.0+b"],
        &["rule", "promote", "above", "1.0.0", "--from", "1.0.0+b"],
        &[
            "alert",
            "create",
            "--user",
            "1",
            "--symbol",
            "X",
            "--rule",
            "above",
            "--version",
            "1.0.0+b",
            "--param",
            "target=1",
        ],
    ] {
        let (status, said) = tocsin(&server, arguments);
        assert_eq!(status, Some(1), "{arguments:?}: {said}");
        assert!(said.contains("\"1.0.0+b\" has build metadata (+b)"), "{arguments:?}: {said}");
    }
}
