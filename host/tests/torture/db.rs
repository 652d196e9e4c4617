//! What is asked of PostgreSQL: rows as text, so that two databases can be compared.

use std::time::Duration;

use anyhow::Context as _;
use sqlx::{Connection as _, PgConnection};
use tokio::runtime::Runtime;

/// How long one question may take, with what a server takes that was just killed.
const PATIENCE: Duration = Duration::from_secs(60);

const RETRY_WAIT: Duration = Duration::from_millis(200);

/// A database, reached by a connection for each question: the server may have been killed since the last one.
pub(crate) struct Db {
    runtime: Runtime,
    pub(crate) url: String,
}

impl Db {
    pub(crate) fn new(url: String) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, url })
    }

    /// Another database of the same server.
    pub(crate) fn beside(&self, name: &str) -> anyhow::Result<Self> {
        let (server, _) = self.url.rsplit_once('/').context("a database's URL ends with its name")?;
        Self::new(format!("{server}/{name}"))
    }

    pub(crate) fn execute(&self, statement: &str) -> anyhow::Result<()> {
        self.runtime.block_on(async {
            let mut connection = PgConnection::connect(&self.url).await?;
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut connection).await?;
            connection.close().await
        })?;
        Ok(())
    }

    /// Rows of one text each; asked again while the server is away.
    pub(crate) fn texts(&self, query: &str) -> anyhow::Result<Vec<String>> {
        self.ask(async |connection| sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_all(connection).await)
    }

    /// Rows of a text and bytes.
    pub(crate) fn records(&self, query: &str) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        self.ask(async |connection| sqlx::query_as(sqlx::AssertSqlSafe(query)).fetch_all(connection).await)
    }

    pub(crate) fn number(&self, query: &str) -> anyhow::Result<i64> {
        self.ask(async |connection| sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(connection).await)
    }

    fn ask<T>(&self, question: impl AsyncFn(&mut PgConnection) -> sqlx::Result<T>) -> anyhow::Result<T> {
        let asking = async {
            loop {
                let asked = match PgConnection::connect(&self.url).await {
                    Ok(mut connection) => question(&mut connection).await,
                    Err(error) => Err(error),
                };
                match asked {
                    Ok(answer) => return answer,
                    Err(error) => println!("torture: PostgreSQL is asked again: {error}"),
                }
                tokio::time::sleep(RETRY_WAIT).await;
            }
        };
        let answer = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, asking).await });
        answer.context("PostgreSQL does not answer")
    }
}
