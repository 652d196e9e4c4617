//! A disk that fills up beside a running server, and is made room on again.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use serde_json::json;

use crate::server::{Server, wait_for};

const MIB: u64 = 1 << 20;

/// The most that is taken of the disk: other tests write and remove meanwhile, but not half as much.
const MAX_BALLAST_MIB: u64 = 2048;

fn free_mib(folder: &Path) -> u64 {
    let stats = statvfs(folder).unwrap();
    stats.f_bavail * stats.f_frsize / MIB
}

#[test]
fn ticks_wait_while_the_disk_is_full_and_none_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let free = free_mib(folder.path());
    let ballast_mib = MAX_BALLAST_MIB.min(free / 2);
    let kept = (free - ballast_mib / 2).to_string();
    let feed = ["--tickers", "AAPL", "--simulated-rate", "200", "--min-free-mib", &kept];
    let server = Server::start(folder.path(), &feed);
    let alert = json!({"user_id": 1, "symbols": ["AAPL"], "rule": "above", "params": {"target": 0.01},
        "lifecycle": {"repeat": "every"}});
    assert_eq!(server.post("/api/v1/alerts", &alert).0, 201);
    let mut firings = Vec::new();
    let mut wait_for_more = |server: &Server| {
        let before = firings.len();
        wait_for("more firings", || {
            server.read_firings(&mut firings);
            firings.len() > before + 10
        });
        firings.len()
    };
    wait_for_more(&server);
    let ballast = folder.path().join("ballast");
    for _ in 0..3 {
        fallocate(File::create(&ballast).unwrap(), FallocateFlags::empty(), 0, ballast_mib * MIB).unwrap();
        wait_for("the process to be not ready", || server.get("/ready")["ready"] == false);
        let problems = server.get("/health")["problems"].to_string();
        assert!(problems.contains("MiB are kept free") && problems.contains("--min-free-mib"), "{problems}");
        wait_for("ticks to wait", || server.get("/health").to_string().contains("ticks wait for the bus: the disk"));
        std::fs::remove_file(&ballast).unwrap();
        wait_for_more(&server);
        assert_eq!(server.get("/ready")["ready"], true);
    }
    server.kill();
    let server = Server::start(folder.path(), &feed);
    wait_for_more(&server);
    assert_eq!(server.stop(), Some(0));
    let offsets: Vec<u64> = firings.iter().map(|firing| firing["offset"].as_u64().unwrap()).collect();
    assert!(offsets.windows(2).all(|pair| pair[1] == pair[0] + 1), "each tick fires, once: {offsets:?}");
}
