//! Promotion on the running binary: alerts move to a new version with what they remember, while ticks flow.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tocsin_proto::tocsin::v1::PromoteRuleRequest;
use tocsin_proto::tocsin::v1::rule_service_client::RuleServiceClient;

use crate::server::{Server, tocsin, wait_for};

const FEED: [&str; 4] = ["--tickers", "AAPL", "--simulated-rate", "200"];

/// What a version adds to the count that it takes over.
const STEP: u64 = 1_000_000;

/// Fires on every tick with the count of its ticks; version N.0.0 takes the count over from all before it, and adds a step.
/// `trouble` is code of its `migrate`.
fn version(number: usize, trouble: &str) -> Vec<u8> {
    let mut manifest = json!({
        "abi": 1, "name": "counts", "version": format!("{number}.0.0"), "state": {"size": 8}, "evidence": ["count"],
    });
    let mut migrate = String::new();
    if number > 1 {
        manifest["migrates"] = (1..number).map(|older| format!("{older}.0.0")).collect();
        migrate = format!(
            r#"(func (export "migrate") (param i32) (param $old i32) (param i32) (param $state i32) (result i32)
                 {trouble}
                 (f64.store (local.get $state) (f64.add (f64.load (local.get $old)) (f64.const {STEP})))
                 (i32.const 0))"#
        );
    }
    let manifest: String = manifest.to_string().bytes().map(|byte| format!("\\{byte:02x}")).collect();
    let text = format!(
        r#"(module (memory (export "memory") 1)
             (func (export "evaluate") (param i32 i32) (param $state i32) (param $verdict i32) (result i32)
               (f64.store (local.get $state) (f64.add (f64.load (local.get $state)) (f64.const 1)))
               (f64.store (local.get $verdict) (f64.load (local.get $state)))
               (i32.const 1))
             {migrate} (@custom "tocsin.manifest" "{manifest}"))"#
    );
    wat::parse_str(text).unwrap()
}

fn upload(server: &Server, module: Vec<u8>) {
    let (status, answer) = server.upload(module);
    assert_eq!(status, 201, "{answer}");
}

fn start(folder: &Path) -> Server {
    let server = Server::start(folder, &FEED);
    upload(&server, version(1, ""));
    let alert = json!({"user_id": 1, "symbols": ["AAPL"], "rule": "counts", "lifecycle": {"repeat": "every"}});
    assert_eq!(server.post("/api/v1/alerts", &alert).0, 201);
    wait_for("the alert to fire", || !server.firings().is_empty());
    server
}

fn version_of_the_alert(server: &Server) -> Value {
    server.get("/api/v1/alerts/1")["version"].clone()
}

/// Every tick fired once, on versions that only rise, with the count that they make of it. Returns the last version.
fn check_firings(server: &Server) -> u64 {
    let mut firings = server.firings();
    firings.sort_by_key(|firing| firing["offset"].as_u64());
    let (mut version, mut count) = (1, 0);
    for pair in firings.windows(2) {
        assert_eq!(
            pair[1]["offset"].as_u64().unwrap(),
            pair[0]["offset"].as_u64().unwrap() + 1,
            "a tick is lost or doubled"
        );
    }
    for firing in &firings {
        let of: u64 = firing["version"].as_str().unwrap().split('.').next().unwrap().parse().unwrap();
        assert!(of >= version, "{firing} is of an older version than the one before");
        if of > version {
            (version, count) = (of, count + STEP);
        }
        count += 1;
        assert_eq!(firing["evidence"]["count"], count as f64, "{firing}");
    }
    version
}

fn wait_for_version(server: &Server, version: u64) {
    let version = format!("{version}.0.0");
    wait_for("the new version to fire", || server.firings().iter().any(|firing| firing["version"] == version.as_str()));
}

#[test]
fn alerts_move_with_their_states_while_ticks_flow() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    upload(&server, version(2, ""));
    let (code, output) = tocsin(&server, &["rule", "promote", "counts", "2.0.0"]);
    assert_eq!((code, output.trim()), (Some(0), "1 alert (1 live symbol) moved to counts 2.0.0"));
    assert_eq!(version_of_the_alert(&server), "2.0.0");
    wait_for_version(&server, 2);

    // A trial of an upload takes a state of zeros over; these refuse any other.
    let unless_zero =
        |trouble: &str| format!("(if (f64.gt (f64.load (local.get $old)) (f64.const 0)) (then {trouble}))");
    upload(&server, version(3, &unless_zero("(return (i32.const 7))")));
    let (code, output) = tocsin(&server, &["rule", "promote", "counts", "3.0.0"]);
    let expect = "alert 1 on AAPL: `migrate` refused the state with code 7; nothing is moved";
    assert!(code == Some(1) && output.contains(expect), "{output}");
    let (status, problem) = server.upload(version(4, "unreachable"));
    assert!(status == 422 && problem["violations"][0]["code"] == "trial_fault", "{problem}");
    upload(&server, version(4, &unless_zero("unreachable")));
    let (status, problem) = server.post("/api/v1/rules/counts/versions/4.0.0/promote", &json!({"from": "2.0.0"}));
    assert!(status == 409 && problem["detail"].as_str().unwrap().contains("unreachable"), "{problem}");
    assert_eq!(version_of_the_alert(&server), "2.0.0");

    let (code, output) = tocsin(&server, &["rule", "cancel-promotion", "counts", "4.0.0"]);
    assert!(code == Some(1) && output.contains("no promotion of counts to 4.0.0 is under way"), "{output}");

    upload(&server, version(5, ""));
    let promote = |from: &str| {
        let request = PromoteRuleRequest {
            name: "counts".into(),
            version: "5.0.0".into(),
            from: from.into(),
            reset_state: false,
        };
        let address = server.grpc_url.clone();
        let call = async move { RuleServiceClient::connect(address).await.unwrap().promote_rule(request).await };
        tokio::runtime::Runtime::new().unwrap().block_on(call).unwrap().into_inner()
    };
    assert_eq!(promote("1.0.0").alerts, 0);
    let moved = promote("2.0.0");
    assert_eq!((moved.alerts, moved.bindings), (1, 1));
    wait_for_version(&server, 5);
    assert_eq!(check_firings(&server), 5);

    server.kill();
    let server = Server::start(folder.path(), &FEED);
    let before = server.firings().len();
    wait_for("the alert to go on", || server.firings().len() > before);
    assert_eq!(check_firings(&server), 5);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_server_killed_during_promotions_moves_all_alerts_or_none() {
    const ROUNDS: usize = 12;
    let folder = tempfile::tempdir().unwrap();
    start(folder.path()).kill();
    let (mut moved, mut on) = (0, 1);
    for round in 0..ROUNDS {
        let server = Server::start(folder.path(), &FEED);
        let number = round + 2;
        upload(&server, version(number, ""));
        let uri = format!("{}/api/v1/rules/counts/versions/{number}.0.0/promote", server.url);
        let answered = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let answer = reqwest::blocking::Client::new().post(&uri).send();
                answered.store(answer.is_ok_and(|answer| answer.status() == 200), Ordering::Relaxed);
            });
            // A promotion takes some milliseconds: most kills hit it.
            std::thread::sleep(Duration::from_millis(round as u64 * 2));
            server.kill();
        });
        let server = Server::start(folder.path(), &FEED);
        let now = version_of_the_alert(&server);
        if now == format!("{number}.0.0") {
            (moved, on) = (moved + 1, number);
        } else {
            assert!(!answered.into_inner(), "it was promoted, and is not");
            assert_eq!(now, format!("{on}.0.0"));
        }
        let before = server.firings().len();
        wait_for("the alert to go on", || server.firings().len() > before);
        server.kill();
    }
    let server = Server::start(folder.path(), &FEED);
    wait_for_version(&server, on as u64);
    assert_eq!(check_firings(&server), on as u64);
    println!("{moved} of {ROUNDS} promotions ended before the kill");
}
