//! Kafka, Redis and PostgreSQL as `cargo xtask test` starts them, and processes that share them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use sqlx::{Connection as _, PgConnection};

use crate::server::{PATIENCE, Server};

/// Topics and a database of their own, on the servers that `cargo xtask test` starts.
pub(crate) struct Stack {
    pub(crate) brokers: String,
    server_url: String,
    pub(crate) name: String,
    /// `host:port`, and the number of a database.
    pub(crate) redis: (String, u32),
}

impl Stack {
    pub(crate) fn make() -> Self {
        let variable = |name: &str| {
            std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run `cargo xtask test`, which sets it"))
        };
        let name = format!("tocsin_it_{:016x}", rand::random::<u64>());
        let server_url = variable("TOCSIN_TEST_DATABASE_URL");
        execute(&server_url, format!("CREATE DATABASE {name}"));
        // Redis has 16 databases; 0 is for tests that need no other. No more than some stacks live at a time.
        static DATABASES: AtomicU32 = AtomicU32::new(0);
        let redis = (variable("TOCSIN_TEST_REDIS_ADDR"), DATABASES.fetch_add(1, Ordering::Relaxed) % 15 + 1);
        let stack = Self { brokers: variable("TOCSIN_TEST_KAFKA_BROKERS"), server_url, name, redis };
        assert_eq!(stack.redis("FLUSHDB"), "+OK");
        stack
    }

    /// What Redis answers to a command, as `redis-cli` would send it; of a string only the text.
    pub(crate) fn redis(&self, command: &str) -> String {
        let (address, database) = &self.redis;
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "SELECT {database}\r\n{command}\r\n").unwrap();
        let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
        assert_eq!(lines.next().unwrap(), "+OK");
        let answer = lines.next().unwrap();
        if answer.starts_with('$') && answer != "$-1" { lines.next().unwrap() } else { answer }
    }

    /// How many ticks are on the topic.
    pub(crate) fn ticks(&self) -> usize {
        let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap();
        let topic = format!("{}_ticks", self.name);
        let metadata = consumer.fetch_metadata(Some(&topic), PATIENCE).unwrap();
        let partitions = metadata.topics()[0].partitions().iter();
        partitions.map(|it| consumer.fetch_watermarks(&topic, it.id(), PATIENCE).unwrap().1 as usize).sum()
    }

    fn database_url(&self) -> String {
        let (server, _) = self.server_url.rsplit_once('/').unwrap();
        format!("{server}/{}", self.name)
    }

    /// Holds the lock that changes of alerts and rules take, as a process that hangs does. Returns once it is held; it is
    /// released when the thread ends.
    pub(crate) fn hold_changes(&self, duration: Duration) -> JoinHandle<()> {
        let (url, (held, is_held)) = (self.database_url(), channel());
        let holding = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut connection = PgConnection::connect(&url).await.unwrap();
                let lock = "BEGIN; SELECT newest FROM revisions FOR UPDATE";
                sqlx::raw_sql(lock).execute(&mut connection).await.unwrap();
                held.send(()).unwrap();
                tokio::time::sleep(duration).await;
                sqlx::raw_sql("COMMIT").execute(&mut connection).await.unwrap();
            });
        });
        is_held.recv().unwrap();
        holding
    }

    /// Starts a process with a role.
    pub(crate) fn start(&self, data_dir: &Path, role: &str, arguments: &[&str]) -> Server {
        let environment = [
            ("KAFKA_BROKERS", self.brokers.clone()),
            ("KAFKA_TOPIC", format!("{}_ticks", self.name)),
            ("KAFKA_FIRINGS_TOPIC", format!("{}_firings", self.name)),
            ("DATABASE_URL", self.database_url()),
            ("REDIS_ADDR", format!("redis://{}/{}", self.redis.0, self.redis.1)),
        ];
        Server::start_with(data_dir, &[&["--role", role], arguments].concat(), &environment)
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
