//! Processes by role, over a real Kafka and PostgreSQL: their state, who takes ticks from a feed, and how they stop.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use crate::server::{Server, wait_for};

/// Topics and a database of their own, on the servers that `cargo xtask test` starts.
struct Stack {
    brokers: String,
    server_url: String,
    name: String,
}

impl Stack {
    fn make() -> Self {
        let variable = |name: &str| {
            std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `cargo xtask test`, which sets it"))
        };
        let name = format!("tocsin_it_{:016x}", rand::random::<u64>());
        let server_url = variable("TOCSIN_TEST_DATABASE_URL");
        execute(&server_url, format!("CREATE DATABASE {name}"));
        Self { brokers: variable("TOCSIN_TEST_KAFKA_BROKERS"), server_url, name }
    }

    /// Starts a process with a role. Prices are in Redis where several processes share them; none is asked here.
    fn start(&self, data_dir: &Path, role: &str) -> Server {
        let (server, _) = self.server_url.rsplit_once('/').unwrap();
        let environment = [
            ("KAFKA_BROKERS", self.brokers.clone()),
            ("KAFKA_TOPIC", format!("{}_ticks", self.name)),
            ("KAFKA_FIRINGS_TOPIC", format!("{}_firings", self.name)),
            ("DATABASE_URL", format!("{server}/{}", self.name)),
            ("REDIS_ADDR", std::env::var("TOCSIN_TEST_REDIS_ADDR").unwrap_or("127.0.0.1:1".into())),
        ];
        Server::start_with(data_dir, &["--role", role, "--feed", "simulated"], &environment)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        execute(&self.server_url, format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}

fn execute(url: &str, statement: String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = PgConnection::connect(url).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    });
}

fn takes_ticks(server: &Server) -> bool {
    server.get("/health")["feed_connected"] == true
}

#[test]
fn one_ingester_takes_ticks_and_another_takes_over_after_a_kill_and_after_a_stop() {
    let (stack, folders) = (Stack::make(), [(); 3].map(|()| tempfile::tempdir().unwrap()));
    let first = stack.start(folders[0].path(), "ingest");
    wait_for("the first to take ticks", || takes_ticks(&first));
    let second = stack.start(folders[1].path(), "ingest");
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

    let third = stack.start(folders[2].path(), "ingest");
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
        stack.start(folders[0].path(), "api"),
        stack.start(folders[1].path(), "evaluate"),
        stack.start(folders[2].path(), "deliver"),
        stack.start(folders[3].path(), "ingest"),
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
