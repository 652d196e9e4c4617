//! Another log behind what is stored, as an operator meets it: the server says so, and the command line mends it.

use serde_json::json;

use crate::server::{Server, tocsin, wait_for};

const FEED: [&str; 4] = ["--tickers", "AAPL", "--simulated-rate", "200"];

#[test]
fn another_log_is_reported_and_accepted_on_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let alert = json!({"user_id": 1, "symbols": ["AAPL"], "rule": "above", "params": {"target": 0.01}});
    let server = Server::start(folder.path(), &FEED);
    assert_eq!(server.post("/api/v1/alerts", &alert).0, 201);
    wait_for("the first alert to fire", || !server.firings().is_empty());
    let (status, said) = tocsin(&server, &["log", "show"]);
    assert!(status == Some(0) && said.contains("alerts refer to it"), "{said}");
    let (status, said) = tocsin(&server, &["log", "accept", "--from", "end"]);
    assert!(status == Some(1) && said.contains("there is nothing to accept"), "{said}");
    let log = server.get("/api/v1/log");
    assert_eq!(log["expected"]["identity"], log["found"]);
    assert_eq!(server.stop(), Some(0));

    std::fs::remove_dir_all(folder.path().join("log")).unwrap();
    let server = Server::start(folder.path(), &FEED);
    let ready = server.get("/ready");
    let problems = ready["problems"].to_string();
    assert_eq!(ready["ready"], false, "{problems}");
    assert!(
        problems.matches("partitions 0, 1, 2, 3, 4, 5, 6, 7 are not evaluated").count() == 1
            && problems.contains("`tocsin log accept`"),
        "{problems}"
    );
    let (status, refused) = server.post("/api/v1/alerts", &alert);
    assert!(status == 503 && refused["detail"].as_str().unwrap().contains("tocsin log accept"), "{refused}");
    let (status, said) = tocsin(&server, &["log", "show"]);
    assert!(status == Some(0) && said.contains("alerts refer to another one"), "{said}");
    let before = log["found"].as_str().unwrap();
    let (status, said) = tocsin(&server, &["log", "accept", "--from", "earliest", "--log", before]);
    assert!(status == Some(1) && said.contains("`tocsin log show`"), "not the one that is there: {said}");

    let (status, said) = tocsin(&server, &["log", "accept", "--from", "earliest"]);
    assert!(status == Some(0) && said.contains("evaluation goes on with embedded:"), "{said}");
    wait_for("evaluation to go on", || server.get("/ready")["ready"] == true);
    assert_eq!(server.post("/api/v1/alerts", &alert).0, 201);
    wait_for("the second alert to fire", || server.firings().len() == 2);
    let log = server.get("/api/v1/log");
    assert_eq!((&log["expected"]["identity"], &log["expected"]["generation"]), (&log["found"], &json!(1)));
    assert_eq!(server.stop(), Some(0));
}
