//! Databases for tests, each of its own, on the server that `TOCSIN_TEST_DATABASE_URL` names.

#![allow(clippy::unwrap_used, missing_docs, reason = "what fails here fails the test that calls it")]

use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection as _};
use tocsin_base::proxy::{Mode, Proxy};

use super::DatabaseUrl;

const VARIABLE: &str = "TOCSIN_TEST_DATABASE_URL";

/// A new and empty database, dropped with this.
pub struct TestDatabase {
    server: DatabaseUrl,
    url: DatabaseUrl,
    name: String,
}

impl TestDatabase {
    pub async fn create() -> Self {
        let server = std::env::var(VARIABLE).unwrap_or_else(|_| {
            panic!(
                "{VARIABLE} is not set: run `cargo xtask test`, which starts PostgreSQL, or name a server to test with"
            )
        });
        let server = DatabaseUrl::parse(&server).unwrap_or_else(|error| panic!("{VARIABLE}: {error}"));
        let name = format!("tocsin_test_{:016x}", rand::random::<u64>());
        execute(&server, format!("CREATE DATABASE {name}")).await.unwrap();
        Self { url: server.with_database(&name), server, name }
    }

    pub fn url(&self) -> &DatabaseUrl {
        &self.url
    }

    /// The database behind a network on which no notification arrives, though all else does.
    pub async fn without_notifications(&self) -> (Proxy, DatabaseUrl) {
        let proxy = Proxy::start(self.url.server()).await;
        proxy.set(Mode::StallAfter("LISTEN"));
        let url = self.url.at_port(proxy.port());
        (proxy, url)
    }

    /// Runs a statement.
    pub async fn execute(&self, statement: &str) {
        execute(&self.url, statement.to_owned()).await.unwrap();
    }

    /// Has each statement that changes a table take a second more, while it holds its locks.
    pub async fn slow_down(&self, change: &str, table: &str) {
        let trigger = format!(
            "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN PERFORM pg_sleep(1); RETURN NULL; END $$;
             CREATE TRIGGER slowly AFTER {change} ON {table} FOR EACH STATEMENT EXECUTE FUNCTION slowly()"
        );
        execute(&self.url, trigger).await.unwrap();
    }

    /// Waits until a statement is slowed down.
    pub async fn until_slowed_down(&self) {
        let mut connection = self.server.options().connect().await.unwrap();
        let asleep = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND wait_event = 'PgSleep'";
        let waiting = async {
            while sqlx::query_scalar::<_, i64>(asleep).bind(&self.name).fetch_one(&mut connection).await.unwrap() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("a statement is slowed down");
    }

    /// Ends all sessions of the database, as a restart of the server does.
    pub async fn end_sessions(&self) {
        let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'", self.name);
        execute(&self.server, end).await.unwrap();
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, drop) = (self.server.clone(), format!("DROP DATABASE {} WITH (FORCE)", self.name));
        // A thread, since this may be dropped within a runtime.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(execute(&server, drop))
        });
        // A failing test must report its own error, not this one.
        if !matches!(dropped.join(), Ok(Ok(()))) {
            tracing::warn!(database = self.name, "a test's database could not be dropped");
        }
    }
}

async fn execute(server: &DatabaseUrl, statement: String) -> Result<(), sqlx::Error> {
    let mut connection = server.options().connect().await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await?;
    connection.close().await
}
