//! kill -9 while a file is replayed: the log goes on, no stored firing is lost or doubled.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use crate::server::{FeedServer, Server, wait_for};

const KILLS: u32 = 20;

#[test]
fn a_server_killed_repeatedly_loses_and_doubles_nothing() {
    let files = tocsin_testdata::tick_files();
    let path = files.iter().find(|path| path.to_string_lossy().contains("binance_spot")).expect("the spot recording");
    let feed = FeedServer::start(path, 2);
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--finnhub-url", &feed.url, "--tickers", "BTCUSDT,ETHUSDT", "--checkpoint-interval-ms", "50"];
    let quiet = Server::start(folder.path(), &["--feed", "none"]);
    let alert = json!({
        "user_id": 1, "symbols": ["BTCUSDT", "ETHUSDT"], "rule": "above", "params": {"target": 0.01},
        "lifecycle": {"repeat": "every"},
    });
    assert_eq!(quiet.post("/api/v1/alerts", &alert).0, 201);
    quiet.kill();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for round in 0..KILLS {
        let server = Server::start(folder.path(), &arguments);
        std::thread::sleep(Duration::from_millis(u64::from(40 + round * 37 % 300)));
        let ids: BTreeSet<String> =
            server.firings().iter().map(|firing| firing["id"].as_str().unwrap().to_owned()).collect();
        assert!(ids.is_superset(&seen), "a stored firing is gone");
        seen = ids;
        server.kill();
    }
    // With nothing new coming in, everything in the log is evaluated: the alert fires on every tick, so that the offsets of
    // each partition are dense from 0.
    let server = Server::start(folder.path(), &["--feed", "none"]);
    let mut before = usize::MAX;
    wait_for("the log to be evaluated", || {
        let now = server.firings().len();
        std::mem::replace(&mut before, now) == now
    });
    let firings = server.firings();
    assert!(!firings.is_empty());
    let ids: BTreeSet<&str> = firings.iter().map(|firing| firing["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), firings.len(), "a firing is doubled");
    for partition in 0..8 {
        let mut offsets: Vec<u64> = firings
            .iter()
            .filter(|firing| firing["partition"] == partition)
            .map(|firing| firing["offset"].as_u64().unwrap())
            .collect();
        offsets.sort_unstable();
        assert!(offsets.iter().enumerate().all(|(i, offset)| *offset == i as u64), "partition {partition}");
    }
}

#[test]
fn a_server_continues_when_its_log_is_no_longer_read() {
    let folder = tempfile::tempdir().unwrap();
    let feed = ["--tickers", "AAPL", "--simulated-rate", "200"];
    let server = Server::start_unheard(folder.path(), &feed);
    let alert = json!({"user_id": 1, "symbols": ["AAPL"], "rule": "above", "params": {"target": 0.01},
        "lifecycle": {"repeat": "every"}});
    assert_eq!(server.post("/api/v1/alerts", &alert).0, 201);
    // Each is logged.
    wait_for("firings", || server.firings().len() > 20);
    assert_eq!(server.stop(), Some(0));
}
