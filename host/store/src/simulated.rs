//! The store of a simulated process: the real SQL on SQLite in memory, whose calls wait until the simulator lets them happen.
//!
//! A call that may happen is one step: it runs to its end before anything else does. Or it fails as if the database were away,
//! before it has done anything or after, when the answer gets lost. What is new is announced when the simulator says so.

#![allow(clippy::unwrap_used, missing_docs, reason = "what fails here fails the test that calls it")]

use std::ops::Deref;
use std::pin::pin;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use tocsin_bus::simulated::{Gate, Outcome};
use tocsin_engine::domain::{AlertId, BindingId, RuleVersion, Tenant};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::sqlite::SqliteStore;
use super::{BindingCaps, Claim, Commit, FinishedPromotion, NewAlert, PromotionId, StoreError, StoredAlert};

/// A binding as it is stored, whatever has become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBinding {
    pub id: i64,
    pub alert: i64,
    pub user: i64,
    pub symbol: String,
    /// -1 while the symbol is not assigned.
    pub partition: i64,
    pub counts_from: u64,
    pub status: String,
    pub repeat: String,
    pub handoff: String,
    pub rule_name: String,
    pub rule_version: String,
}

/// What is durable of a call that has happened, as far as an oracle must know when it did.
#[derive(Clone, Debug)]
pub enum Recorded {
    Created(AlertId),
    Deleted(AlertId),
    /// A promotion is finished.
    Promoted,
    /// A checkpoint, with the bindings that are unquarantined right after it.
    Checkpoint {
        next_offset: u64,
        unquarantined: Vec<BindingId>,
    },
}

/// A database that processes share.
#[derive(Clone)]
pub struct SimulatedDatabase {
    sqlite: SqliteStore,
    recorded: Arc<Mutex<Vec<Recorded>>>,
}

/// The handle of one process on a shared database.
#[derive(Clone)]
pub struct SimulatedStore(Arc<Inner>);

struct Inner {
    database: Database,
    gate: Gate,
}

/// The database as one process calls it: what is announced to the process, and what an oracle must know, are its own.
pub(super) struct Database {
    shared: SimulatedDatabase,
    revision: watch::Sender<u64>,
}

/// Where the database's own tasks and timers run: not on the runtime whose time is simulated.
static SIDE: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime is made")
});

/// Runs a future of the database to its end, while nothing else of the simulation does.
pub fn at_once<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let _entered = SIDE.enter();
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(tokio::task::unconstrained(future));
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

impl SimulatedDatabase {
    /// An empty database but for these rule versions.
    pub fn new(rules: &[(RuleVersion, Vec<u8>)]) -> Self {
        at_once(async {
            let sqlite = SqliteStore::open_in_memory().await.unwrap();
            for (rule, module) in rules {
                sqlite.put_rule(&Tenant::standard(), rule, module).await.unwrap();
            }
            Self { sqlite, recorded: Arc::default() }
        })
    }

    /// The handle of a process, which knows at first what is there now.
    pub fn handle(&self, gate: Gate) -> SimulatedStore {
        let revision = watch::Sender::new(self.newest_revision());
        SimulatedStore(Arc::new(Inner { database: Database { shared: self.clone(), revision }, gate }))
    }

    /// A store that nothing waits for.
    pub fn direct(&self) -> super::Store {
        super::Store::Sqlite(self.sqlite.clone())
    }

    /// All bindings, by number.
    pub fn bindings(&self) -> Vec<StoredBinding> {
        let rows = sqlx::query(
            "SELECT b.*, a.user_id, a.repeat, a.rule_name, a.rule_version FROM bindings b
             JOIN alerts a ON a.id = b.alert_id ORDER BY b.id",
        );
        let binding = |row: SqliteRow| StoredBinding {
            id: row.get("id"),
            alert: row.get("alert_id"),
            user: row.get("user_id"),
            symbol: row.get("symbol"),
            partition: row.get("partition"),
            counts_from: row.get::<i64, _>("counts_from") as u64,
            status: row.get("status"),
            repeat: row.get("repeat"),
            handoff: row.get("handoff"),
            rule_name: row.get("rule_name"),
            rule_version: row.get("rule_version"),
        };
        at_once(rows.fetch_all(self.sqlite.readers())).unwrap().into_iter().map(binding).collect()
    }

    pub fn newest_revision(&self) -> u64 {
        at_once(self.sqlite.changes(u64::MAX >> 1, 1)).unwrap().revision
    }

    pub fn newest_firing(&self) -> u64 {
        let newest = sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM firings").fetch_one(self.sqlite.readers());
        at_once(newest).map(|seq: i64| seq as u64).unwrap()
    }

    pub fn has_promotion(&self) -> bool {
        at_once(self.sqlite.unfinished_promotion()).unwrap().is_some()
    }

    /// All leases run out, as where their owners have crashed or hang.
    pub fn expire_leases(&self) {
        at_once(sqlx::query("DELETE FROM leases").execute(self.sqlite.readers())).unwrap();
    }

    /// Takes what was recorded since the last call.
    pub fn take_recorded(&self) -> Vec<Recorded> {
        std::mem::take(&mut *self.recorded.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn record(&self, recorded: Recorded) {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner).push(recorded);
    }
}

impl SimulatedStore {
    /// Waits until a call may happen. Fails where it does not.
    pub(super) async fn pass(&self, call: &'static str) -> Result<Outcome, StoreError> {
        match self.0.gate.pass(call).await {
            Outcome::Refused => Err(away()),
            outcome => Ok(outcome),
        }
    }

    pub(super) fn database(&self) -> &Database {
        &self.0.database
    }

    /// Announces what is newest now to this process.
    pub fn notify(&self) {
        let newest = self.0.database.shared.newest_revision();
        self.0.database.revision.send_if_modified(|known| std::mem::replace(known, newest) < newest);
    }

    /// Whether there is something that this process was not notified of.
    pub fn is_behind(&self) -> bool {
        *self.0.database.revision.borrow() < self.0.database.shared.newest_revision()
    }
}

fn away() -> StoreError {
    StoreError::Away("the simulated database is away".into())
}

/// Returns what a process hears of a call that has happened.
pub(super) async fn heard<T>(outcome: Outcome, answer: Result<T, StoreError>) -> Result<T, StoreError> {
    match outcome {
        Outcome::Done => answer,
        Outcome::Lost | Outcome::Refused => Err(away()),
        Outcome::Unanswered => std::future::pending().await,
    }
}

impl Deref for Database {
    type Target = SqliteStore;

    fn deref(&self) -> &SqliteStore {
        &self.shared.sqlite
    }
}

/// Calls that this hides of the database below.
impl Database {
    pub(super) async fn newest_revision(&self) -> Result<watch::Receiver<u64>, StoreError> {
        Ok(self.revision.subscribe())
    }

    pub(super) async fn create_alert(&self, new: &NewAlert, caps: BindingCaps) -> Result<StoredAlert, StoreError> {
        let stored = self.shared.sqlite.create_alert(new, caps).await?;
        if let StoredAlert::Created(alert) = &stored {
            self.shared.record(Recorded::Created(alert.id));
        }
        Ok(stored)
    }

    pub(super) async fn delete_alert(&self, tenant: &Tenant, id: AlertId, now_ms: i64) -> Result<bool, StoreError> {
        let deleted = self.shared.sqlite.delete_alert(tenant, id, now_ms).await?;
        if deleted {
            self.shared.record(Recorded::Deleted(id));
        }
        Ok(deleted)
    }

    pub(super) async fn finish_promotion(
        &self,
        id: PromotionId,
        caps: BindingCaps,
    ) -> Result<FinishedPromotion, StoreError> {
        let finished = self.shared.sqlite.finish_promotion(id, caps).await?;
        if let FinishedPromotion::Finished(_) = &finished {
            self.shared.record(Recorded::Promoted);
        }
        Ok(finished)
    }

    pub(super) async fn commit(&self, claims: &[Claim], commit: &Commit) -> Result<u64, StoreError> {
        let written = self.shared.sqlite.commit(claims, commit).await?;
        for checkpoint in &commit.checkpoints {
            self.shared.record(Recorded::Checkpoint {
                next_offset: checkpoint.next_offset,
                unquarantined: checkpoint.unquarantined.clone(),
            });
        }
        Ok(written)
    }
}
