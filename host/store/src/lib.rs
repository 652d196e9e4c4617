//! The store: rules, alerts, firings, and what evaluators remember. Only domain types travel.
//!
//! Both members speak the SQL in `sql`, each with its own driver: the files there are compiled once for each. What
//! databases do differently (connections, locks, watches) is in the file of the member.

mod alert;
#[cfg(test)]
pub(crate) mod conformance;
mod error;
mod evaluation;
mod faults;
pub mod health;
mod lease;
mod logs;
mod migrations;
mod newest;
mod outbox;
mod postgres;
mod promotion;
#[cfg(any(test, feature = "testing"))]
pub mod simulated;
mod sqlite;
mod symbol_assignment;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::collections::HashMap;
use std::path::Path;

use tocsin_engine::SavedBinding;
use tocsin_engine::domain::{
    Alert, AlertId, BindingId, Digest, FaultId, Firing, FiringId, RuleName, RuleRef, RuleVersion, Symbol, Tenant,
    Version,
};
use tokio::sync::watch;

use self::postgres::PostgresStore;
use self::sqlite::SqliteStore;

pub use self::alert::{
    AlertFilter, BindingCaps, CapReached, Capped, Idempotency, NewAlert, StoredAlert, StoredRule, Unquarantined,
};
pub use self::error::StoreError;
pub use self::evaluation::{BindingRow, Changed, Checkpoint, Claim, Commit, Standing};
pub use self::faults::{FaultRecord, NewFault, StoredBundle};
pub use self::lease::{Lease, Leased};
pub use self::logs::{AcceptedLog, LogStart, TickLog};
pub use self::outbox::OutboxLease;
pub use self::postgres::DatabaseUrl;
pub use self::promotion::{
    BegunPromotion, FinishedPromotion, Handoff, HandoffState, HeldBinding, Moved, NewPromotion, OutOfService,
    Promotable, PromotedAlert, PromotionId, UnfinishedPromotion, WaitingFor,
};
pub use self::symbol_assignment::{Start, SymbolAssignment, UnassignedSymbol};

/// Rows that one statement writes at most: of the widest, with 20 columns, SQLite takes 1,638.
const ROWS_AT_ONCE: usize = 1_000;

/// Groups whose states one statement writes at most: each may take megabytes.
const GROUPS_AT_ONCE: usize = 64;

/// The newest revision and the number of the newest firing.
const NEWEST: &str = "SELECT (SELECT newest FROM revisions), (SELECT coalesce(max(seq), 0) FROM firings)";

/// Where Tocsin keeps what must not be lost. Cloning is cheap.
#[derive(Clone)]
pub enum Store {
    /// A SQLite database in the data folder.
    Sqlite(SqliteStore),
    /// A PostgreSQL database, which other processes may use at the same time.
    Postgres(PostgresStore),
    /// A SQLite database in memory, each call of which waits for a simulator.
    #[cfg(any(test, feature = "testing"))]
    Simulated(simulated::SimulatedStore),
}

macro_rules! on_backend {
    ($store:expr, $method:ident($($argument:expr),*)) => {
        match $store {
            Store::Sqlite(store) => store.$method($($argument),*).await,
            Store::Postgres(store) => PostgresStore::in_time(store.$method($($argument),*)).await,
            #[cfg(any(test, feature = "testing"))]
            Store::Simulated(store) => {
                let outcome = store.pass(stringify!($method)).await?;
                simulated::heard(outcome, simulated::at_once(store.database().$method($($argument),*))).await
            }
        }
    };
}

impl Store {
    /// Opens the embedded store in a data folder, and brings its schema up to date.
    pub async fn open_sqlite(data_dir: &Path) -> Result<Self, StoreError> {
        Ok(Self::Sqlite(SqliteStore::open(data_dir).await?))
    }

    /// Opens the store in a PostgreSQL database, and brings its schema up to date.
    pub async fn open_postgres(url: &DatabaseUrl) -> Result<Self, StoreError> {
        Ok(Self::Postgres(PostgresStore::open(url).await?))
    }

    /// Whether the store answers, on a connection of its own: calls that wait for one do not hold it up.
    pub async fn ping(&self) -> Result<(), StoreError> {
        on_backend!(self, ping())
    }

    /// Stores a rule version unless name and version are taken.
    pub async fn put_rule(&self, tenant: &Tenant, rule: &RuleVersion, module: &[u8]) -> Result<StoredRule, StoreError> {
        on_backend!(self, put_rule(tenant, rule, module))
    }

    /// All versions of a rule, oldest first by semantic version; none if there is no such rule.
    pub async fn rule_versions(&self, tenant: &Tenant, name: &RuleName) -> Result<Vec<RuleVersion>, StoreError> {
        on_backend!(self, rule_versions(tenant, name))
    }

    /// The newest version of each rule whose name sorts behind `after`, by name, at most `limit`.
    pub async fn rules(&self, tenant: &Tenant, after: &str, limit: u32) -> Result<Vec<RuleVersion>, StoreError> {
        on_backend!(self, rules(tenant, after, limit))
    }

    /// The bytes of a rule version.
    pub async fn module(
        &self,
        tenant: &Tenant,
        name: &RuleName,
        version: &Version,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        on_backend!(self, module(tenant, name, version))
    }

    /// The bytes behind a digest, whoever uploaded them.
    pub async fn module_by_digest(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        on_backend!(self, module_by_digest(digest))
    }

    /// Stores an alert with its bindings unless that would exceed a cap, and notifies evaluators.
    pub async fn create_alert(&self, new: &NewAlert, caps: BindingCaps) -> Result<StoredAlert, StoreError> {
        on_backend!(self, create_alert(new, caps))
    }

    /// Returns the assignment of every watched symbol, and of some that are no longer watched.
    pub async fn symbol_assignments(&self) -> Result<Vec<SymbolAssignment>, StoreError> {
        on_backend!(self, symbol_assignments())
    }

    /// Returns the unassigned symbols of bindings that changed after one revision and up to another.
    pub async fn unassigned_symbols(
        &self,
        after_revision: u64,
        up_to_revision: u64,
    ) -> Result<Vec<UnassignedSymbol>, StoreError> {
        on_backend!(self, unassigned_symbols(after_revision, up_to_revision))
    }

    /// The symbols that live bindings watch.
    pub async fn watched_symbols(&self) -> Result<Vec<Symbol>, StoreError> {
        on_backend!(self, watched_symbols())
    }

    /// Assigns a symbol to a partition if live bindings wait for that, and announces these to evaluators. Returns the
    /// partition that the symbol is assigned to; None if it is to none, since no binding waits any more.
    pub async fn assign_symbol(&self, symbol: &Symbol, partition: u32) -> Result<Option<u32>, StoreError> {
        on_backend!(self, assign_symbol(symbol, partition))
    }

    /// Those of some symbols that live bindings watch.
    pub async fn live_among(&self, symbols: &[Symbol]) -> Result<Vec<Symbol>, StoreError> {
        on_backend!(self, live_among(symbols))
    }

    /// Unquarantines an alert's bindings, all or that on one symbol, and notifies evaluators.
    pub async fn unquarantine(
        &self,
        tenant: &Tenant,
        id: AlertId,
        symbol: Option<&Symbol>,
    ) -> Result<Unquarantined, StoreError> {
        on_backend!(self, unquarantine(tenant, id, symbol))
    }

    /// An alert that was not deleted.
    pub async fn alert(&self, tenant: &Tenant, id: AlertId) -> Result<Option<Alert>, StoreError> {
        on_backend!(self, alert(tenant, id))
    }

    /// Whether there is such an alert, or was until it was deleted.
    pub async fn has_had_alert(&self, tenant: &Tenant, id: AlertId) -> Result<bool, StoreError> {
        on_backend!(self, has_had_alert(tenant, id))
    }

    /// Alerts with a number above `after`, in the order of numbers, at most `limit`.
    pub async fn alerts(
        &self,
        tenant: &Tenant,
        filter: AlertFilter,
        after: AlertId,
        limit: u32,
    ) -> Result<Vec<Alert>, StoreError> {
        on_backend!(self, alerts(tenant, filter, after, limit))
    }

    /// Deletes an alert and announces that to evaluators; false if there is none. Its firings stay, and none is recorded
    /// after this has returned.
    pub async fn delete_alert(&self, tenant: &Tenant, id: AlertId, now_ms: i64) -> Result<bool, StoreError> {
        on_backend!(self, delete_alert(tenant, id, now_ms))
    }

    /// Firings recorded behind the sequence number `after`, oldest first, at most `limit`, with their numbers.
    pub async fn firings(
        &self,
        tenant: &Tenant,
        alert: Option<AlertId>,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, Firing)>, StoreError> {
        on_backend!(self, firings(tenant, alert, after, limit))
    }

    /// Firings of all tenants recorded behind the sequence number `after`, oldest first, at most `limit`, with their
    /// numbers. Whoever hands them on does so by tenant.
    pub async fn firings_of_all(&self, after: u64, limit: u32) -> Result<Vec<(u64, Firing)>, StoreError> {
        on_backend!(self, firings_of_all(after, limit))
    }

    /// The sequence number of a firing.
    pub async fn firing_seq(&self, tenant: &Tenant, id: FiringId) -> Result<Option<u64>, StoreError> {
        on_backend!(self, firing_seq(tenant, id))
    }

    /// A tenant's newest firing, with its sequence number.
    pub async fn last_firing(&self, tenant: &Tenant) -> Result<Option<(u64, Firing)>, StoreError> {
        on_backend!(self, last_firing(tenant))
    }

    /// An alert's faults behind a sequence number, oldest first, at most `limit`, with their numbers.
    pub async fn faults(
        &self,
        tenant: &Tenant,
        alert: AlertId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, FaultRecord)>, StoreError> {
        on_backend!(self, faults(tenant, alert, after, limit))
    }

    /// What it takes to see a fault again; None once newer faults have displaced it.
    pub async fn fault_bundle(&self, tenant: &Tenant, id: FaultId) -> Result<Option<StoredBundle>, StoreError> {
        on_backend!(self, fault_bundle(tenant, id))
    }

    /// Takes a rule version out of service, with all its live bindings. It has no effect on one that already is.
    pub async fn quarantine_rule(&self, rule: Digest, reason: &str, at_ms: i64) -> Result<(), StoreError> {
        on_backend!(self, quarantine_rule(rule, reason, at_ms))
    }

    /// Impure rule versions that live bindings still wait on, with how many, at most `limit`.
    pub async fn impure_rules_in_use(&self, limit: u32) -> Result<Vec<(RuleRef, u64)>, StoreError> {
        on_backend!(self, impure_rules_in_use(limit))
    }

    /// Alerts on a rule with a live binding, on one version or on all but `to`, behind `after`, at most `limit`.
    pub async fn promotable(
        &self,
        tenant: &Tenant,
        to: &RuleRef,
        from: Option<&RuleRef>,
        after: AlertId,
        limit: u32,
    ) -> Result<Vec<Promotable>, StoreError> {
        on_backend!(self, promotable(tenant, to, from, after, limit))
    }

    /// Begins a promotion: evaluators are asked for the live bindings of its alerts. Alerts that were deleted since they
    /// were read are left out. Nothing is begun while a partition of one of these bindings is halted.
    pub async fn begin_promotion(&self, new: &NewPromotion) -> Result<BegunPromotion, StoreError> {
        on_backend!(self, begin_promotion(new))
    }

    /// The promotion under way, and how far it has come.
    pub async fn unfinished_promotion(&self) -> Result<Option<UnfinishedPromotion>, StoreError> {
        on_backend!(self, unfinished_promotion())
    }

    /// Live bindings that are held, by number, behind `after`, at most `limit`.
    pub async fn held_bindings(&self, after: BindingId, limit: u32) -> Result<Vec<HeldBinding>, StoreError> {
        on_backend!(self, held_bindings(after, limit))
    }

    /// Keeps what held bindings are to remember once the promotion is finished.
    pub async fn stage_promotion(&self, id: PromotionId, states: &[SavedBinding]) -> Result<(), StoreError> {
        on_backend!(self, stage_promotion(id, states))
    }

    /// Finishes a promotion whose bindings are all held and staged, and notifies evaluators to go on with them.
    pub async fn finish_promotion(&self, id: PromotionId, caps: BindingCaps) -> Result<FinishedPromotion, StoreError> {
        on_backend!(self, finish_promotion(id, caps))
    }

    /// Takes a promotion back: evaluators go on with the bindings that they have handed over, and keep those that they have
    /// not. One that hands over all the same, since it has not heard of this yet, gets the binding back at once. Returns how
    /// many bindings were held; None if the promotion is not under way.
    pub async fn roll_back_promotion(&self, id: PromotionId) -> Result<Option<u64>, StoreError> {
        on_backend!(self, roll_back_promotion(id))
    }

    /// The sequence number of the newest firing, 0 if there is none. It changes when firings are recorded.
    pub async fn newest_firing(&self) -> Result<watch::Receiver<u64>, StoreError> {
        on_backend!(self, newest_firing())
    }

    /// The newest revision of bindings. It changes when there is something to read with [`Self::changes`].
    pub async fn newest_revision(&self) -> Result<watch::Receiver<u64>, StoreError> {
        on_backend!(self, newest_revision())
    }

    /// What changed after a revision: bindings that evaluators are to begin with (`armed_revision`), or of which something
    /// else has changed since (`revision`), at most `limit` of each, which must be more than one alert can have. A binding
    /// is among them by either, so that its beginning is not passed over where it has changed again since.
    pub async fn changes(&self, after: u64, limit: u32) -> Result<Changed, StoreError> {
        on_backend!(self, changes(after, limit))
    }

    /// Notes why the partition of a claim is not evaluated until an operator acts. Its next checkpoint takes the note away.
    pub async fn halt_partition(&self, claim: &Claim, why: &str) -> Result<(), StoreError> {
        on_backend!(self, halt_partition(claim, why))
    }

    /// Claims a partition of a log: whoever held it before can commit no more. Fails where what is stored refers to another
    /// log.
    pub async fn claim_in(&self, log: &str, partition: u32) -> Result<Claim, StoreError> {
        on_backend!(self, claim(partition, Some(log)))
    }

    /// Claims a partition of whichever log the store refers to.
    /// Claims a partition of whatever log there is.
    #[cfg(any(test, feature = "testing"))]
    pub async fn claim(&self, partition: u32) -> Result<Claim, StoreError> {
        on_backend!(self, claim(partition, None))
    }

    /// The log that offsets in the store refer to; None until a partition of one is claimed.
    pub async fn tick_log(&self) -> Result<Option<TickLog>, StoreError> {
        on_backend!(self, tick_log())
    }

    /// The offsets behind all to which the store refers, by partition: checkpoints, firings, faults, and where bindings count
    /// from.
    pub async fn referenced(&self) -> Result<HashMap<u32, u64>, StoreError> {
        on_backend!(self, referenced())
    }

    /// Refers to another log from now on, or to the same one after it lost records: evaluation of each partition, and of
    /// its live bindings with what they remember, goes on at the start that is given for it. `starts` has all partitions
    /// of the log, in their order.
    pub async fn accept_log(&self, identity: &str, starts: &[LogStart]) -> Result<AcceptedLog, StoreError> {
        on_backend!(self, accept_log(identity, starts))
    }

    /// The bindings of a partition that are neither triggered nor deleted, and that were
    /// armed up to a revision, by number, behind `after`, at most `limit`.
    pub async fn live_bindings(
        &self,
        partition: u32,
        up_to_revision: u64,
        after: BindingId,
        limit: u32,
    ) -> Result<Vec<BindingRow>, StoreError> {
        on_backend!(self, live_bindings(partition, up_to_revision, after, limit))
    }

    /// What the bindings of a partition remembered at its checkpoint, each with its rule version. A binding that was
    /// promoted since may also have a record left of the version before.
    pub async fn saved_states(&self, partition: u32) -> Result<Vec<(Digest, SavedBinding)>, StoreError> {
        on_backend!(self, saved_states(partition))
    }

    /// Writes firings, faults, quarantines and checkpoints at once, if all claims still hold. A firing that is recorded
    /// already, or whose binding is no longer active, changes nothing; nor does a fault that is recorded already.
    /// Returns how many firings are new.
    pub async fn commit(&self, claims: &[Claim], commit: &Commit) -> Result<u64, StoreError> {
        on_backend!(self, commit(claims, commit))
    }

    /// Returns the oldest firings in the outbox whose alerts no deliverer owns, at most `limit`, in the order of their
    /// sequence numbers, and makes the caller the owner of these alerts. An alert has one owner at any time, by the clock
    /// of the database: while it has one, all its firings are passed over. Firings of an owner whose lease has run out may
    /// have been delivered all the same: they are returned again.
    pub async fn lease_outbox(&self, lease: &OutboxLease, limit: u32) -> Result<Vec<(u64, Firing)>, StoreError> {
        on_backend!(self, lease_outbox(lease, limit))
    }

    /// Takes delivered firings out of the outbox, by their sequence numbers, but for those of alerts that another deliverer
    /// owns by now, and gives up all alerts that the owner has. Returns how many it took out.
    pub async fn ack_outbox(&self, owner: &str, delivered: &[u64]) -> Result<u64, StoreError> {
        on_backend!(self, ack_outbox(owner, delivered))
    }

    /// Makes the leases of an owner that have not run out end later. Returns how many alerts it owns now.
    pub async fn renew_outbox(&self, lease: &OutboxLease) -> Result<u64, StoreError> {
        on_backend!(self, renew_outbox(lease))
    }

    /// Gives up all alerts that an owner has, with their firings that are not acknowledged.
    pub async fn release_outbox(&self, owner: &str) -> Result<(), StoreError> {
        on_backend!(self, release_outbox(owner))
    }

    /// Asks for a lease, which is given where no other process holds it.
    pub async fn acquire_lease(&self, lease: &Lease) -> Result<Leased, StoreError> {
        on_backend!(self, acquire_lease(lease))
    }

    /// Makes a lease end later; false if it has run out or is another process's.
    pub async fn renew_lease(&self, lease: &Lease) -> Result<bool, StoreError> {
        on_backend!(self, renew_lease(lease))
    }

    /// Ends a lease; nothing happens if it is another process's.
    pub async fn release_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        on_backend!(self, release_lease(lease))
    }

    /// The counters of live bindings: kept, counted, and of the only tenant.
    #[cfg(test)]
    async fn live_counters(&self) -> (Vec<(String, Vec<u8>, i64)>, Vec<(String, Vec<u8>, i64)>, i64) {
        match self {
            Self::Sqlite(store) => store.live_counters().await,
            Self::Postgres(store) => store.live_counters().await,
            Self::Simulated(store) => store.database().live_counters().await,
        }
    }

    /// The tables, and the columns of each.
    #[cfg(test)]
    async fn columns(&self) -> std::collections::BTreeSet<(String, String)> {
        match self {
            Self::Sqlite(store) => store.columns().await,
            Self::Postgres(store) => store.columns().await,
            Self::Simulated(store) => store.database().columns().await,
        }
    }

    /// Finishes what is being written and closes the store.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(store) => store.close().await,
            Self::Postgres(store) => store.close().await,
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(_) => {}
        }
    }
}
