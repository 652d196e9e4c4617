//! The embedded store: SQLite through sqlx. One connection writes, so that transactions never meet; a few read.
#![allow(clippy::duplicate_mod, reason = "the files in `sql` are compiled once for each backend")]

#[path = "sql/alerts.rs"]
mod alerts;
#[path = "sql/commit.rs"]
mod commit;
#[path = "sql/evaluation.rs"]
mod evaluation;
#[path = "sql/faults.rs"]
mod faults;
#[path = "sql/firings.rs"]
mod firings;
#[path = "sql/handoffs.rs"]
mod handoffs;
#[cfg(test)]
#[path = "sql/inspect.rs"]
mod inspect;
#[path = "sql/leases.rs"]
mod leases;
#[path = "sql/logs.rs"]
mod logs;
#[path = "sql/outbox.rs"]
mod outbox;
#[path = "sql/promotion.rs"]
mod promotion;
#[path = "sql/quarantine.rs"]
mod quarantine;
#[path = "sql/rows.rs"]
mod rows;
#[path = "sql/rules.rs"]
mod rules;
#[path = "sql/symbol_assignments.rs"]
mod symbol_assignments;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool};

use super::migrations;
use super::newest::{Announcement, Newest};
use super::{GROUPS_AT_ONCE, NEWEST, ROWS_AT_ONCE, StoreError};

// What the files in `sql` call the database.
type Backend = SqliteStore;
type Db = Sqlite;
type DbConnection = sqlx::SqliteConnection;
type DbRow = sqlx::sqlite::SqliteRow;
type Tx = sqlx::Transaction<'static, Sqlite>;

/// Nothing is to be locked: transactions that write never meet.
const LOCK_CLAIMS: &str = "";

/// What time it is, Unix milliseconds.
const CLOCK_MS: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

/// Tables and their columns, which tests compare.
#[cfg(test)]
const COLUMNS: &str = "SELECT m.name, c.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c
    WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'";

static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| migrations::migrator(migrations::SQLITE));

/// The database file in the data folder.
const FILE: &str = "tocsin.sqlite";

/// SQLite's own log beside it, in which commits are until they are folded into the database.
const WAL_FILE: &str = "tocsin.sqlite-wal";

/// Connections that read.
const READERS: u32 = 4;

/// Connections on which the state of the store is asked for: by one at a time, see `health`.
const STATUS_READERS: u32 = 1;

/// How long a statement waits for the database's lock before it fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The SQLite backend of [`super::Store`].
#[derive(Clone)]
pub struct SqliteStore(Arc<Inner>);

struct Inner {
    writer: SqlitePool,
    readers: SqlitePool,
    status: SqlitePool,
    newest: Newest,
    wal: PathBuf,
}

impl SqliteStore {
    pub(super) async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(data_dir.join(FILE))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A killed process loses nothing; a power cut may lose the last commits of evaluators, which a replay makes
            // again. What clients were promised is synced, see `make_durable`.
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        MIGRATIONS.run(&writer).await?;
        let options = options.read_only(true);
        let status = SqlitePoolOptions::new().max_connections(STATUS_READERS).connect_with(options.clone()).await?;
        let readers = SqlitePoolOptions::new().max_connections(READERS).connect_with(options).await?;
        let (revision, firing): (i64, i64) = sqlx::query_as(NEWEST).fetch_one(&writer).await?;
        let (newest, wal) = (Newest::new(revision, firing), data_dir.join(WAL_FILE));
        let store = Self(Arc::new(Inner { writer, readers, status, newest, wal }));
        // A request that is made again is answered with what a process that was killed has committed.
        store.make_durable().await?;
        Ok(store)
    }

    /// Opens an empty database in memory, with one connection for everything.
    #[cfg(any(test, feature = "testing"))]
    pub(super) async fn open_in_memory() -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new().in_memory(true).foreign_keys(true);
        let pool =
            SqlitePoolOptions::new().max_connections(1).idle_timeout(None::<Duration>).max_lifetime(None::<Duration>);
        let pool = pool.test_before_acquire(false).connect_with(options).await?;
        for (_, schema) in migrations::SQLITE {
            sqlx::raw_sql(*schema).execute(&pool).await?;
        }
        let (writer, readers, status) = (pool.clone(), pool.clone(), pool);
        Ok(Self(Arc::new(Inner { writer, readers, status, newest: Newest::new(0, 0), wal: PathBuf::new() })))
    }

    /// Runs a statement on a connection of its own.
    #[cfg(any(test, feature = "testing"))]
    pub(super) async fn execute(data_dir: &Path, statement: &'static str) {
        let options = SqliteConnectOptions::new().filename(data_dir.join(FILE));
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await
            .expect("the folder of a test has a database");
        sqlx::raw_sql(statement).execute(&pool).await.expect("the statement of a test can be executed");
        pool.close().await;
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.0.status).await?;
        Ok(())
    }

    pub(super) async fn close(&self) {
        self.0.status.close().await;
        self.0.readers.close().await;
        self.0.writer.close().await;
    }

    fn newest(&self) -> &Newest {
        &self.0.newest
    }

    pub(super) fn readers(&self) -> &SqlitePool {
        &self.0.readers
    }

    fn status(&self) -> &SqlitePool {
        &self.0.status
    }

    fn writer(&self) -> &SqlitePool {
        &self.0.writer
    }

    /// A transaction that reads all of one moment.
    async fn snapshot(&self) -> Result<Tx, StoreError> {
        Ok(self.0.readers.begin().await?)
    }

    /// A transaction that writes: it holds the database's lock from its start.
    async fn write(&self) -> Result<Tx, StoreError> {
        Ok(self.0.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    async fn begin_commit(&self, _draws_revision: bool) -> Result<Tx, StoreError> {
        self.write().await
    }

    /// Waits for the right to number events: whoever writes has it.
    async fn lock_event_numbers(_transaction: &mut Tx) -> Result<(), StoreError> {
        Ok(())
    }

    /// Waits until all firings are recorded that are being recorded now: whoever writes was alone.
    async fn wait_for_recording(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Waits for the right to change who owns alerts in the outbox: whoever writes has it.
    async fn lock_outbox_owners(_transaction: &mut Tx) -> Result<(), StoreError> {
        Ok(())
    }

    /// Commits what a client is about to be promised, and says what is new.
    async fn commit_durable(&self, transaction: Tx, announcement: Announcement) -> Result<(), StoreError> {
        self.commit_replayable(transaction, announcement).await?;
        self.make_durable().await
    }

    /// Commits what a replay would make again, and says what is new: on the disk when SQLite next syncs.
    async fn commit_replayable(&self, transaction: Tx, announcement: Announcement) -> Result<(), StoreError> {
        transaction.commit().await?;
        self.0.newest.announce(announcement);
        Ok(())
    }

    /// Waits until all that is committed is on the disk: what SQLite does at each commit with `synchronous=FULL`, here only
    /// where a client relies on it.
    async fn make_durable(&self) -> Result<(), StoreError> {
        let wal = self.0.wal.clone();
        let sync = move || match File::options().write(true).open(wal) {
            Ok(file) => file.sync_data(),
            // All of it is in the database.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        let synced = tokio::task::spawn_blocking(sync).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        synced.map_err(|error| sqlx::Error::Io(error).into())
    }
}
