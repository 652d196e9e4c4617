//! The store that many processes share: PostgreSQL through sqlx.
//!
//! Writers run side by side here, and numbers that readers go by must become visible in their order: who has read up to N
//! asks for what is behind N, and would never see a smaller number that is committed later. So whoever draws numbers
//! waits for its turn, and keeps it until the commit:
//! - Whoever changes alerts locks the only row of `revisions` before it reads anything. All that it reads stays true
//!   then: two changes never meet, as in SQLite, and caps hold.
//! - A commit of an evaluator takes an advisory lock right before it numbers firings and faults. States, which are large,
//!   are written before that; the rows of its partitions are locked from its start, and so is its claim on them.
//!
//! Both are let go with the transaction, also where its process hangs: the server ends sessions that stay idle in one.
#![allow(clippy::duplicate_mod, reason = "the files in `sql` are compiled once for each backend")]

mod connect;
#[cfg(any(test, feature = "testing"))]
pub(super) mod database;
mod listen;
#[cfg(test)]
mod tests;

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

use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Postgres};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::migrations;
use super::newest::{Announcement, Newest};
use super::{GROUPS_AT_ONCE, NEWEST, ROWS_AT_ONCE, StoreError};

pub use self::connect::DatabaseUrl;

// What the files in `sql` call the database.
type Backend = PostgresStore;
type Db = Postgres;
type DbConnection = sqlx::PgConnection;
type DbRow = sqlx::postgres::PgRow;
type Tx = sqlx::Transaction<'static, Postgres>;

/// Claims hold until the transaction ends: a new claim waits for it.
const LOCK_CLAIMS: &str = " FOR NO KEY UPDATE";

/// What time it is, Unix milliseconds: now, not when the transaction began.
const CLOCK_MS: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// Tables and their columns, which tests compare.
#[cfg(test)]
const COLUMNS: &str = "SELECT table_name::text, column_name::text FROM information_schema.columns
    WHERE table_schema = current_schema()";

static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| migrations::migrator(migrations::POSTGRES));

/// The advisory lock under which firings and faults are numbered: the letters `tocsin`.
const EVENT_NUMBERS_LOCK: i64 = 0x746f_6373_696e;

/// The one under which alerts get and lose their owners in the outbox: the letters `outbox`.
const OUTBOX_OWNERS_LOCK: i64 = 0x6f75_7462_6f78;

/// Connections of this process at most: a server takes 100 as a rule, for all of them.
const MAX_CONNECTIONS: u32 = 16;

/// Connections on which the state of the store is asked for, beside those: by one at a time, see `health`.
const STATUS_CONNECTIONS: u32 = 1;

/// How long a call waits for a connection, a new one included, before it fails.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a call may take: a server that answers no more must not hold its callers for ever.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// What every session asks of the server, in milliseconds. A statement that waits for a lock, or runs too long, fails and
/// is tried again; a process that hangs within a transaction is thrown out, and others take its turn.
const SESSION: [(&str, &str); 3] =
    [("lock_timeout", "10000"), ("statement_timeout", "60000"), ("idle_in_transaction_session_timeout", "5000")];

/// The PostgreSQL backend of [`super::Store`].
#[derive(Clone)]
pub struct PostgresStore(Arc<Inner>);

struct Inner {
    pool: PgPool,
    status: PgPool,
    newest: Arc<Newest>,
    listener: CancellationToken,
    _listener: DropGuard,
}

impl PostgresStore {
    pub(super) async fn open(url: &DatabaseUrl) -> Result<Self, StoreError> {
        migrate(url).await?;
        let options = url.options().clone().options(SESSION);
        let pool_of = |connections| PgPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT);
        let pool = pool_of(MAX_CONNECTIONS).connect_with(options.clone()).await?;
        let status = pool_of(STATUS_CONNECTIONS).connect_lazy_with(options.clone());
        let (revision, firing): (i64, i64) = sqlx::query_as(NEWEST).fetch_one(&pool).await?;
        let newest = Arc::new(Newest::new(revision, firing));
        let listener = CancellationToken::new();
        tokio::spawn(listen::run(options, newest.clone(), listener.clone()));
        Ok(Self(Arc::new(Inner { pool, status, newest, _listener: listener.clone().drop_guard(), listener })))
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.0.status).await?;
        Ok(())
    }

    pub(super) async fn close(&self) {
        self.0.listener.cancel();
        self.0.status.close().await;
        self.0.pool.close().await;
    }

    /// Gives a call up that takes too long. What it was to write may be written all the same.
    pub(super) async fn in_time<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let late = |_| {
            let text = format!("PostgreSQL has not answered within {} s", CALL_TIMEOUT.as_secs());
            StoreError::from(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, text)))
        };
        tokio::time::timeout(CALL_TIMEOUT, call).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
    }

    fn newest(&self) -> &Newest {
        &self.0.newest
    }

    fn readers(&self) -> &PgPool {
        &self.0.pool
    }

    fn status(&self) -> &PgPool {
        &self.0.status
    }

    fn writer(&self) -> &PgPool {
        &self.0.pool
    }

    /// A transaction that reads all of one moment.
    async fn snapshot(&self) -> Result<Tx, StoreError> {
        self.begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await
    }

    /// A transaction that changes alerts or rules: no other one does meanwhile.
    async fn write(&self) -> Result<Tx, StoreError> {
        self.begin_commit(true).await
    }

    /// A transaction of an evaluator, or one that changes alerts or rules as well.
    async fn begin_commit(&self, draws_revision: bool) -> Result<Tx, StoreError> {
        // Each statement sees what is committed when it begins: what another has changed before its locks were let go.
        let mut transaction = self.begin("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
        if draws_revision {
            sqlx::query("SELECT newest FROM revisions FOR UPDATE").execute(&mut *transaction).await?;
        }
        Ok(transaction)
    }

    /// Begins a transaction on a task of its own, which is never dropped half-way: sqlx 0.9 knows of a transaction only once
    /// BEGIN is answered, so one whose caller goes away before would stay open, and take in whatever its connection is
    /// used for next.
    async fn begin(&self, how: &'static str) -> Result<Tx, StoreError> {
        let pool = self.0.pool.clone();
        let begun = tokio::spawn(async move { pool.begin_with(how).await }).await;
        Ok(begun.unwrap_or(Err(sqlx::Error::WorkerCrashed))?)
    }

    /// Waits for the right to number events; it ends with the transaction.
    async fn lock_event_numbers(transaction: &mut Tx) -> Result<(), StoreError> {
        take(transaction, EVENT_NUMBERS_LOCK).await
    }

    /// Waits until all firings are recorded that are being recorded now. Those to come see what is committed by now.
    async fn wait_for_recording(&self) -> Result<(), StoreError> {
        // Outside of a transaction the lock is let go with the statement.
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(EVENT_NUMBERS_LOCK).execute(&self.0.pool).await?;
        Ok(())
    }

    /// Waits for the right to change who owns alerts in the outbox; it ends with the transaction.
    async fn lock_outbox_owners(transaction: &mut Tx) -> Result<(), StoreError> {
        take(transaction, OUTBOX_OWNERS_LOCK).await
    }

    /// The same as [`Self::commit_durable`]: a commit is durable here, as far as the server's `synchronous_commit` says.
    async fn commit_replayable(&self, transaction: Tx, announcement: Announcement) -> Result<(), StoreError> {
        self.commit_durable(transaction, announcement).await
    }

    async fn make_durable(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Commits, and announces what is new, to other processes as well.
    async fn commit_durable(&self, mut transaction: Tx, announcement: Announcement) -> Result<(), StoreError> {
        listen::notify(&mut transaction, announcement).await?;
        transaction.commit().await?;
        self.0.newest.announce(announcement);
        Ok(())
    }
}

async fn take(transaction: &mut Tx, turn: i64) -> Result<(), StoreError> {
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(turn).execute(&mut **transaction).await?;
    Ok(())
}

/// Brings the schema up to date. Of processes that do so at once one does, and the others wait for it: in sessions
/// without limits, since a large table may take its time.
async fn migrate(url: &DatabaseUrl) -> Result<(), StoreError> {
    connect::check(url).await?;
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(ACQUIRE_TIMEOUT);
    let pool = pool.connect_with(url.options().clone()).await?;
    MIGRATIONS.run(&pool).await?;
    pool.close().await;
    Ok(())
}
