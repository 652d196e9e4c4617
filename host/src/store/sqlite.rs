//! The embedded store: SQLite through sqlx. One connection writes, so that transactions never meet; a few read.

mod alerts;
mod evaluation;
mod faults;
mod firings;
mod promotion;
mod quarantine;
mod rows;
mod rules;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};
use tokio::sync::watch;

use super::StoreError;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/sqlite");

/// The database file in the data folder.
const FILE: &str = "tocsin.sqlite";

/// Connections that read.
const READERS: u32 = 4;

/// How long a statement waits for the database's lock before it fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The SQLite member of [`super::Store`].
#[derive(Clone)]
pub struct SqliteStore(Arc<Inner>);

struct Inner {
    writer: SqlitePool,
    readers: SqlitePool,
    newest_revision: watch::Sender<u64>,
    newest_firing: watch::Sender<u64>,
}

impl SqliteStore {
    pub(super) async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(data_dir.join(FILE))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A killed process loses nothing; a power cut may lose the last commits, which a replay makes again.
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        MIGRATIONS.run(&writer).await?;
        let readers = SqlitePoolOptions::new().max_connections(READERS).connect_with(options.read_only(true)).await?;
        let revision: i64 = sqlx::query_scalar("SELECT newest FROM revisions").fetch_one(&writer).await?;
        let firing: i64 = sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM firings").fetch_one(&writer).await?;
        Ok(Self(Arc::new(Inner {
            writer,
            readers,
            newest_revision: watch::Sender::new(revision as u64),
            newest_firing: watch::Sender::new(firing as u64),
        })))
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.0.readers).await?;
        Ok(())
    }

    pub(super) async fn close(&self) {
        self.0.readers.close().await;
        self.0.writer.close().await;
    }

    /// A transaction that holds the write lock from its start.
    async fn write(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.0.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// The next revision, to be published by [`Self::publish_revision`] once the transaction is committed.
    async fn next_revision(transaction: &mut Transaction<'static, Sqlite>) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar("UPDATE revisions SET newest = newest + 1 RETURNING newest")
            .fetch_one(&mut **transaction)
            .await?)
    }

    fn publish_revision(&self, revision: i64) {
        // Two commits may publish in either order: the newest wins.
        self.0.newest_revision.send_if_modified(|newest| {
            let newer = revision as u64 > *newest;
            *newest = (revision as u64).max(*newest);
            newer
        });
    }
}
