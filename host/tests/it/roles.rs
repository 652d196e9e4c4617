//! Processes by role, over a real Kafka and PostgreSQL: their state, who takes ticks from a feed, and how they stop.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::{Server, wait_for};
use crate::stack::Stack;

/// Prices that need no network.
const SIMULATED: [&str; 2] = ["--feed", "simulated"];

fn takes_ticks(server: &Server) -> bool {
    server.get("/health")["feed_connected"] == true
}

#[test]
fn one_ingester_takes_ticks_and_another_takes_over_after_a_kill_and_after_a_stop() {
    let (stack, folders) = (Stack::make(), [(); 3].map(|()| tempfile::tempdir().unwrap()));
    let first = stack.start(folders[0].path(), "ingest", &SIMULATED);
    wait_for("the first to take ticks", || takes_ticks(&first));
    let second = stack.start(folders[1].path(), "ingest", &SIMULATED);
    wait_for("the second to stand by", || second.get("/health")["standby"].is_string());
    let health = second.get("/health");
    assert!(health["standby"].as_str().unwrap().contains("feed-simulated-"), "{health}");
    assert!(health["feed_connected"] == false && health["status"] == "ok", "{health}");
    assert_eq!(health["roles"], json!(["ingest"]));
    let ready = second.get("/ready");
    let problems = ready["problems"].as_array().unwrap();
    assert_eq!((&ready["ready"], problems.len()), (&json!(true), 1), "{ready}");
    assert!(
        problems[0].as_str().unwrap().contains("a partition has 1 copies"),
        "the Kafka of tests has one broker: {ready}"
    );
    assert!(second.get("/api/v1/tickers")["detail"].as_str().unwrap().contains("/health"), "it has no API");

    let killed = Instant::now();
    first.kill();
    wait_for("the second to take over", || takes_ticks(&second));
    println!("taken over {:?} after a kill", killed.elapsed());
    assert_eq!(second.get("/health")["standby"], Value::Null);

    let third = stack.start(folders[2].path(), "ingest", &SIMULATED);
    wait_for("the third to stand by", || third.get("/health")["standby"].is_string());
    let stopped = Instant::now();
    assert_eq!(second.stop(), Some(0));
    wait_for("the third to take over", || takes_ticks(&third));
    println!("taken over {:?} after a stop began", stopped.elapsed());
    assert_eq!(third.stop(), Some(0));
}

#[test]
fn processes_with_a_role_each_are_one_system() {
    let (stack, folders) = (Stack::make(), [(); 4].map(|()| tempfile::tempdir().unwrap()));
    let [api, evaluate, deliver, ingest] = [
        stack.start(folders[0].path(), "api", &SIMULATED),
        stack.start(folders[1].path(), "evaluate", &SIMULATED),
        stack.start(folders[2].path(), "deliver", &SIMULATED),
        stack.start(folders[3].path(), "ingest", &SIMULATED),
    ];
    for server in [&api, &evaluate, &deliver, &ingest] {
        wait_for("readiness", || server.get("/ready")["ready"] == true);
    }
    assert_eq!(
        deliver.get("/health")["backends"].as_object().unwrap().keys().collect::<Vec<_>>(),
        ["firings", "store"]
    );
    let alert = json!({"user_id": 1, "symbol": "AAPL", "target_price": 1.0, "condition": "ABOVE"});
    assert_eq!(api.post("/alerts", &alert).0, 201);
    wait_for("the alert to fire", || !api.firings().is_empty());
    for server in [ingest, evaluate, deliver, api] {
        assert_eq!(server.stop(), Some(0));
    }
}

/// Longer than a statement waits for a lock, 10 s.
const LOCKED: Duration = Duration::from_secs(11);

#[test]
fn an_api_starts_although_another_process_holds_changes_up() {
    let (stack, folder) = (Stack::make(), tempfile::tempdir().unwrap());
    let api = stack.start(folder.path(), "api", &SIMULATED);
    wait_for("readiness", || api.get("/ready")["ready"] == true);
    assert_eq!(api.stop(), Some(0));
    let held = stack.hold_changes(LOCKED);
    let api = stack.start(folder.path(), "api", &SIMULATED);
    held.join().unwrap();
    wait_for("readiness", || api.get("/ready")["ready"] == true);
    assert_eq!(api.stop(), Some(0));
}

/// How long a killed evaluator keeps its partitions: its session in the consumer group. Longer with what it takes to see.
const SESSION: Duration = Duration::from_secs(10);
const SESSION_SEEN: Duration = Duration::from_secs(15);

/// Divides the partitions among these; how many each has.
fn shares(evaluators: &[Server]) -> Vec<usize> {
    let all: BTreeSet<u64> = (0..8).collect();
    let mut shares = Vec::new();
    wait_for("each partition to have one evaluator", || {
        let partitions = |server: &Server| -> Vec<u64> {
            server.get("/health")["partitions"].as_array().unwrap().iter().filter_map(Value::as_u64).collect()
        };
        let held: Vec<_> = evaluators.iter().map(partitions).collect();
        shares = held.iter().map(Vec::len).collect();
        held.concat().len() == all.len() && held.into_iter().flatten().collect::<BTreeSet<_>>() == all
    });
    shares
}

#[test]
fn evaluators_divide_the_partitions_and_those_of_a_killed_one_move_within_its_session() {
    let (stack, folders) = (Stack::make(), [(); 6].map(|()| tempfile::tempdir().unwrap()));
    let evaluator = |folder: &Path| stack.start(folder, "evaluate", &SIMULATED);
    let api = stack.start(folders[0].path(), "api", &SIMULATED);
    let symbols: Vec<String> = (0..24).map(|i| format!("S{i}")).collect();
    let alert = json!({
        "user_id": 1, "symbols": symbols, "rule": "above", "params": {"target": 0.000_001}, "lifecycle": {"repeat": "every"},
    });
    assert_eq!(api.post("/api/v1/alerts", &alert).0, 201);
    let mut evaluators = vec![evaluator(folders[1].path())];
    assert_eq!(shares(&evaluators), [8]);
    let feed = ["--tickers", &symbols.join(","), "--simulated-rate", "100"];
    let ingest = stack.start(folders[5].path(), "ingest", &[&SIMULATED[..], &feed].concat());
    evaluators.push(evaluator(folders[2].path()));
    assert_eq!(shares(&evaluators), [4, 4]);
    evaluators.extend([evaluator(folders[3].path()), evaluator(folders[4].path())]);
    assert_eq!(shares(&evaluators), [2; 4]);

    let killed = Instant::now();
    evaluators.remove(0).kill();
    let mut left = shares(&evaluators);
    println!("its partitions were taken over after {:?}; the session is {SESSION:?}", killed.elapsed());
    assert!(killed.elapsed() < SESSION_SEEN, "{:?}", killed.elapsed());
    left.sort_unstable();
    assert_eq!(left, [2, 3, 3]);
    assert_eq!(ingest.stop(), Some(0));
    let (ticks, mut firings) = (stack.ticks(), Vec::new());
    wait_for("every tick to have fired", || {
        api.read_firings(&mut firings);
        firings.len() >= ticks
    });
    let positions: BTreeSet<_> = firings.iter().map(|it| (it["partition"].as_u64(), it["offset"].as_u64())).collect();
    assert!(ticks > 0 && firings.len() == ticks && positions.len() == ticks, "{ticks} ticks, {positions:?}");
    for server in evaluators.into_iter().chain([api]) {
        assert_eq!(server.stop(), Some(0));
    }
}
