//! Processes by role, over a real Kafka and PostgreSQL: their state, who takes ticks from a feed, and how they stop.

use std::time::Instant;

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
    assert_eq!(second.get("/ready"), json!({"ready": true, "problems": []}));
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
