//! Clients that hold connections and do nothing with them, or do not read, and what the server does meanwhile.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use serde_json::{Value, json};

use crate::server::{BINARY, Server, wait_for};

/// More connections than a server under the usual limit of 1,024 open files can have.
const SILENT: usize = 1_100;

/// Open files that these tests need for their own ends of the connections.
const OWN_FILES: u64 = 3_000;

/// Lets this process have as many files as these tests need. Others that run in it do not mind.
fn raise_own_limit() {
    let limit = getrlimit(Resource::Nofile);
    let enough = |files: Option<u64>| files.is_none_or(|files| files >= OWN_FILES);
    assert!(enough(limit.maximum), "these tests need a hard limit of {OWN_FILES} open files: see ulimit -Hn");
    if !enough(limit.current) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(OWN_FILES), ..limit }).unwrap();
    }
}

fn address(url: &str) -> SocketAddr {
    url.strip_prefix("http://").unwrap().parse().unwrap()
}

fn connect(url: &str) -> TcpStream {
    let stream = TcpStream::connect(address(url)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// A server on which each tick of AAPL fires.
fn firing(server: Server) -> Server {
    let alert = json!({"user_id": 1, "symbols": ["AAPL"], "rule": "above", "params": {"target": 0.01},
        "lifecycle": {"repeat": "every"}});
    assert_eq!(server.post("/api/v1/alerts", &alert).0, 201);
    server
}

/// Waits for firings of ticks that came after now.
fn check_fires(server: &Server) {
    let mut firings = server.firings();
    let before = firings.len();
    wait_for("firings", || {
        server.read_firings(&mut firings);
        firings.len() > before
    });
}

/// Opens the event stream on a connection of its own; what came with the head of the answer is all that is read.
fn open_stream(server: &Server) -> TcpStream {
    let mut stream = connect(&server.url);
    stream.write_all(b"GET /api/v1/firings/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    stream
}

#[test]
fn silent_connections_keep_no_client_out() {
    raise_own_limit();
    let folder = tempfile::tempdir().unwrap();
    let feed = ["--tickers", "AAPL", "--simulated-rate", "50"];
    let server = firing(Server::start_limited(folder.path(), &feed, 1_024));
    let max = server.get("/health")["connections"]["max"].as_u64().unwrap();
    assert!((500..1_024).contains(&max), "{max} connections of 1,024 files");
    for (url, begin) in [(&server.grpc_url, &b"PRI * HTTP/2.0\r\n"[..]), (&server.url, b"GET /health HTTP/1.1\r\nx: y")]
    {
        let mut held = Vec::new();
        for i in 0..SILENT {
            let mut stream = connect(url);
            // Every other one begins and does not go on.
            if i % 2 == 0 {
                // Fails if it has made room for another by now.
                let _ = stream.write_all(begin);
            }
            held.push(stream);
        }
        let health = server.get("/health");
        let open = health["connections"]["open"].as_u64().unwrap();
        assert!(health["status"] == "ok" && open <= max, "{health}");
        assert_eq!(server.get("/ready"), json!({"ready": true, "problems": []}));
        check_fires(&server);
    }
    let counts = &server.get("/health")["connections"];
    assert!(counts["evicted"].as_u64().unwrap() + counts["open"].as_u64().unwrap() > SILENT as u64 - max, "{counts}");
    assert_eq!((&counts["refused"], &counts["accept_failures"]), (&json!(0), &json!(0)), "{counts}");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn unread_streams_hold_up_neither_health_nor_firings_nor_memory() {
    const STREAMS: usize = 500;
    const MAX_GROWTH_MIB: u64 = 64;
    raise_own_limit();
    let folder = tempfile::tempdir().unwrap();
    let server = firing(Server::start(folder.path(), &["--tickers", "AAPL", "--simulated-rate", "100"]));
    let before_mib = server.rss_mib();
    let unread: Vec<_> = (0..STREAMS).map(|_| open_stream(&server)).collect();
    let mut took = Vec::new();
    for _ in 0..100 {
        let asked = Instant::now();
        let health = server.get("/health");
        took.push(asked.elapsed());
        assert!(health["status"] == "ok" && health["streams"]["open"] == STREAMS, "{health}");
    }
    took.sort_unstable();
    println!("/health beside {STREAMS} unread streams: median {:?}, p99 {:?}", took[50], took[98]);
    check_fires(&server);
    let grown_mib = server.rss_mib().saturating_sub(before_mib);
    assert!(grown_mib < MAX_GROWTH_MIB, "{grown_mib} MiB more than without streams");
    drop(unread);
    wait_for("streams whose clients are gone to end", || server.get("/health")["streams"]["open"] == 0);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn probes_are_answered_while_all_connections_are_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let few = ["--feed", "none", "--max-connections", "4", "--max-streams", "4"];
    let server = Server::start(folder.path(), &few);
    let mut streams: Vec<_> = (0..4).map(|_| open_stream(&server)).collect();
    let ask = |path: &str| {
        let answer = reqwest::blocking::get(format!("{}{path}", server.url)).unwrap();
        let retry_after = answer.headers().get("retry-after").map(|text| text.to_str().unwrap().to_owned());
        (answer.status().as_u16(), retry_after, answer.json::<Value>().unwrap())
    };
    for _ in 0..20 {
        let (status, _, health) = ask("/health");
        assert_eq!((status, &health["connections"]["open"]), (200, &json!(4)), "{health}");
    }
    assert_eq!(ask("/ready").0, 200);
    let (status, retry_after, problem) = ask("/api/v1/tickers");
    assert_eq!((status, problem["type"].as_str()), (503, Some("urn:tocsin:problem:busy")), "{problem}");
    assert!(retry_after.is_some() && problem["detail"].as_str().unwrap().contains("--max-connections"), "{problem}");
    let mut over_grpc = connect(&server.grpc_url);
    assert!(matches!(over_grpc.read(&mut [0]), Ok(0) | Err(_)), "it is closed at once");
    let (_, _, health) = ask("/health");
    assert!(health["problems"][0].as_str().unwrap().starts_with("connections are refused"), "{health}");
    streams.pop();
    wait_for("a place", || ask("/api/v1/tickers").0 == 200);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn too_many_open_files_are_logged_and_retried() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &["--feed", "none"]);
    let pid = Pid::from_raw(i32::try_from(server.id()).unwrap()).unwrap();
    let few = Rlimit { current: Some(8), ..getrlimit(Resource::Nofile) };
    let before = prlimit(Some(pid), Resource::Nofile, few).unwrap();
    // The system takes the connection; the server cannot.
    let mut waiting = connect(&server.url);
    waiting.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let is_logged = || server.log().iter().any(|line| line.contains("connections cannot be accepted"));
    wait_for("the log to name it", is_logged);
    prlimit(Some(pid), Resource::Nofile, before).unwrap();
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let health = server.get("/health");
    assert!(health["connections"]["accept_failures"].as_u64().unwrap() > 0, "{health}");
    assert!(health["problems"][0].as_str().unwrap().contains("Too many open files"), "{health}");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_limit_of_open_files_that_leaves_no_room_ends_the_start_with_what_to_do() {
    for (files, arguments, expect) in [
        (200, &[][..], ["fewer than 16 connections", "the limit of open files is 200", "ulimit -Hn"]),
        (
            1_024,
            &["--max-connections", "1000"],
            ["--max-connections 1000", "room for 720", "or lower --max-connections"],
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("ulimit -n {files}; exec \"$0\" serve --data-dir \"$@\"");
        let output = std::process::Command::new("sh")
            .args(["-c", &script, BINARY])
            .arg(folder.path())
            .args(arguments)
            .envs([("PORT", "0"), ("GRPC_PORT", "0")])
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(expect.iter().all(|part| said.contains(part)), "{expect:?}: {said}");
    }
}
