//! The store: rules, alerts, firings, and what evaluators remember. Only domain types travel.
//!
//! Both members speak the SQL in `sql`, each with its own driver: the files there are compiled once for each. What
//! databases do differently (connections, locks, watches) is in the file of the member.

#[cfg(test)]
pub(crate) mod conformance;
mod error;
mod faults;
mod homes;
mod lease;
mod migrations;
mod newest;
mod outbox;
mod postgres;
mod promotion;
mod sqlite;
#[cfg(test)]
pub(crate) mod testing;

use std::path::Path;

use tocsin_engine::domain::{
    Alert, AlertId, BindingId, BindingStatus, Digest, FaultId, Firing, FiringId, Lifecycle, Params, Position, RuleName,
    RuleQuarantine, RuleRef, RuleVersion, Symbol, Tenant, UserId, Version,
};
use tocsin_engine::{GroupSnapshot, SavedBinding};
use tokio::sync::watch;

use self::postgres::PostgresStore;
use self::sqlite::SqliteStore;

pub use self::error::StoreError;
pub use self::faults::{FaultRecord, NewFault, StoredBundle};
pub use self::homes::Start;
pub use self::lease::{Lease, Leased};
pub use self::outbox::OutboxLease;
pub use self::postgres::DatabaseUrl;
pub use self::promotion::{
    BegunPromotion, FinishedPromotion, HandedOver, HeldBinding, Hold, Moved, NewPromotion, Promotable, PromotedAlert,
    PromotionId,
};

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
}

/// What became of a rule version that was to be stored.
#[derive(Debug, PartialEq, Eq)]
pub enum StoredRule {
    /// It is new.
    Created(RuleVersion),
    /// These very bytes were stored before.
    Existing(RuleVersion),
    /// Name and version are taken by other bytes.
    Conflict(RuleVersion),
}

/// An alert to be stored; store and tenant give it its number.
#[derive(Clone, Debug)]
pub struct NewAlert {
    /// Who owns it.
    pub tenant: Tenant,
    /// The user, made if unknown.
    pub user: UserId,
    /// The rule version.
    pub rule: RuleRef,
    /// The params.
    pub params: Params,
    /// The lifecycle.
    pub lifecycle: Lifecycle,
    /// Each symbol, and the first tick that counts for it.
    pub symbols: Vec<(Symbol, Start)>,
    /// Unix milliseconds.
    pub created_at_ms: i64,
    /// The request's Idempotency-Key, if it had one.
    pub idempotency: Option<Idempotency>,
}

/// An Idempotency-Key and the request that it stands for.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// The client's key.
    pub key: String,
    /// SHA-256 of the request.
    pub fingerprint: [u8; 32],
}

/// What became of an alert that was to be stored.
#[derive(Debug)]
pub enum StoredAlert {
    /// It is new.
    Created(Alert),
    /// The same request, by its key, created this one before.
    Repeated(Alert),
    /// The key was used for another request.
    KeyReused,
    /// There would be more live bindings than may be.
    CapReached(CapReached),
    /// Its rule version is judged no more.
    RuleQuarantined(RuleQuarantine),
}

/// The most live bindings: active or quarantined ones, which evaluators keep in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindingCaps {
    /// Of one tenant.
    pub per_tenant: u64,
    /// Of one rule version of one tenant.
    pub per_rule: u64,
}

/// What a cap counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capped {
    /// The bindings of a tenant.
    Tenant,
    /// The bindings of a rule version.
    Rule,
}

/// A cap that an alert would have exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapReached {
    /// What is counted.
    pub capped: Capped,
    /// How many bindings live.
    pub live: u64,
    /// How many may.
    pub cap: u64,
}

/// What became of bindings that were to be released from quarantine.
#[derive(Debug)]
pub enum Released {
    /// They are tried again; the alert as it is now.
    Released(Alert),
    /// None of those that were meant is quarantined; the alert.
    NothingQuarantined(Alert),
    /// Its rule version is judged no more: there is nothing to try.
    RuleQuarantined(RuleQuarantine),
    /// A promotion of it is under way.
    BeingPromoted,
    /// There is no such alert.
    NoAlert,
}

/// Which alerts to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct AlertFilter {
    /// Only those of one user.
    pub user: Option<UserId>,
    /// Only those with an active binding.
    pub active_only: bool,
    /// Only those that GoStocks can express: `above` or `below` on one symbol.
    pub price_alerts_only: bool,
}

/// A binding as evaluators need it.
#[derive(Clone, Debug)]
pub struct BindingRow {
    /// Its number.
    pub id: BindingId,
    /// Its alert.
    pub alert: AlertId,
    /// Who owns it.
    pub tenant: Tenant,
    /// What it watches.
    pub symbol: Symbol,
    /// The first tick that counts since `armed_revision`; None as long as its symbol has no home.
    pub counts_from: Option<Position>,
    /// The rule version that judges it.
    pub rule: Digest,
    /// The packed params record.
    pub packed_params: Vec<u8>,
    /// What follows a fire verdict.
    pub lifecycle: Lifecycle,
    /// None if the alert was deleted.
    pub status: Option<BindingStatus>,
    /// The change that made it so.
    pub revision: u64,
    /// The change by which evaluators last began with it: its creation, or the end of a promotion.
    pub armed_revision: u64,
    /// What it remembers at `counts_from`, as long as no checkpoint does.
    pub resume: Option<SavedBinding>,
    /// Where it stands in a promotion.
    pub hold: Hold,
    /// Its rule version is judged no more.
    pub rule_impure: bool,
    /// It was released by hand, and no checkpoint was taken for that yet.
    pub release_due: bool,
}

/// What changed after a revision.
#[derive(Debug, Default)]
pub struct Changed {
    /// Bindings, in the order of revisions.
    pub bindings: Vec<BindingRow>,
    /// Rule versions that were found to be impure: their bindings are judged no more.
    pub impure_rules: Vec<Digest>,
    /// All of it up to this revision.
    pub revision: u64,
}

/// The right to evaluate a partition, until somebody else claims it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The partition.
    pub partition: u32,
    /// The number of this claim.
    pub epoch: u64,
    /// Where evaluation goes on; None if the partition was never evaluated.
    pub next_offset: Option<u64>,
    /// Changes up to this revision are in the checkpoint.
    pub revision: u64,
    /// Bindings whose release from quarantine takes effect right behind the checkpoint.
    pub released: Vec<BindingId>,
}

/// What an evaluator writes in one transaction.
#[derive(Debug, Default)]
pub struct Commit {
    /// Firings, each with whether it is its binding's last.
    pub firings: Vec<(Firing, bool)>,
    /// Faults, oldest first. Those that say so quarantine their binding.
    pub faults: Vec<NewFault>,
    /// Rule versions that were found to be impure, with what differed.
    pub impure_rules: Vec<(RuleRef, String)>,
    /// When it is written, Unix milliseconds: the time of what it finds out about rules.
    pub at_ms: i64,
    /// Checkpoints of partitions.
    pub checkpoints: Vec<Checkpoint>,
    /// New firings are put into the outbox as well: someone must take them from there.
    pub outbox: bool,
}

impl Commit {
    /// Leaves out what belongs to partitions that are not chosen.
    pub fn retain_partitions(&mut self, chosen: impl Fn(u32) -> bool) {
        self.firings.retain(|(firing, _)| chosen(firing.position.partition));
        self.faults.retain(|fault| chosen(fault.bundle.position.partition));
        self.checkpoints.retain(|checkpoint| chosen(checkpoint.partition));
    }

    /// Whether there is nothing to be written.
    pub fn is_empty(&self) -> bool {
        let Self { firings, faults, impure_rules, checkpoints, at_ms: _, outbox: _ } = self;
        firings.is_empty() && faults.is_empty() && impure_rules.is_empty() && checkpoints.is_empty()
    }
}

/// What one partition remembers at an offset.
#[derive(Debug)]
pub struct Checkpoint {
    /// The partition.
    pub partition: u32,
    /// The next offset to be evaluated.
    pub next_offset: u64,
    /// Changes up to this revision are in it, but for the releases that follow.
    pub revision: u64,
    /// Bindings that left quarantine by themselves since the last checkpoint.
    pub recovered: Vec<BindingId>,
    /// Bindings that are released from quarantine right behind it.
    pub released: Vec<BindingId>,
    /// Bindings that are handed over for a promotion: right behind it they are no longer judged.
    pub handed_over: Vec<HandedOver>,
    /// Groups whose states changed since the last checkpoint.
    pub groups: Vec<GroupSnapshot>,
}

macro_rules! on_member {
    ($store:expr, $method:ident($($argument:expr),*)) => {
        match $store {
            Store::Sqlite(store) => store.$method($($argument),*).await,
            Store::Postgres(store) => PostgresStore::in_time(store.$method($($argument),*)).await,
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

    /// Whether the store answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        on_member!(self, ping())
    }

    /// Stores a rule version unless name and version are taken.
    pub async fn put_rule(&self, tenant: &Tenant, rule: &RuleVersion, module: &[u8]) -> Result<StoredRule, StoreError> {
        on_member!(self, put_rule(tenant, rule, module))
    }

    /// All versions of a rule, oldest first by semantic version; none if there is no such rule.
    pub async fn rule_versions(&self, tenant: &Tenant, name: &RuleName) -> Result<Vec<RuleVersion>, StoreError> {
        on_member!(self, rule_versions(tenant, name))
    }

    /// The newest version of each rule whose name sorts behind `after`, by name, at most `limit`.
    pub async fn rules(&self, tenant: &Tenant, after: &str, limit: u32) -> Result<Vec<RuleVersion>, StoreError> {
        on_member!(self, rules(tenant, after, limit))
    }

    /// The bytes of a rule version.
    pub async fn module(
        &self,
        tenant: &Tenant,
        name: &RuleName,
        version: &Version,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        on_member!(self, module(tenant, name, version))
    }

    /// The bytes behind a digest, whoever uploaded them.
    pub async fn module_by_digest(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        on_member!(self, module_by_digest(digest))
    }

    /// Stores an alert with its bindings unless that would exceed a cap, and tells evaluators.
    pub async fn create_alert(&self, new: &NewAlert, caps: BindingCaps) -> Result<StoredAlert, StoreError> {
        on_member!(self, create_alert(new, caps))
    }

    /// Every symbol that somebody watches, with its home if it has one, and some that nobody watches any more.
    pub async fn homes(&self) -> Result<Vec<(Symbol, Option<u32>)>, StoreError> {
        on_member!(self, homes())
    }

    /// The symbols that live bindings watch.
    pub async fn watched_symbols(&self) -> Result<Vec<Symbol>, StoreError> {
        on_member!(self, watched_symbols())
    }

    /// Makes a partition the home of a symbol that has none, and tells evaluators of the bindings that waited for it.
    /// Returns the home.
    pub async fn settle(&self, symbol: &Symbol, partition: u32) -> Result<u32, StoreError> {
        on_member!(self, settle(symbol, partition))
    }

    /// Releases an alert's quarantined bindings, all or that on one symbol, and tells evaluators.
    pub async fn release(&self, tenant: &Tenant, id: AlertId, symbol: Option<&Symbol>) -> Result<Released, StoreError> {
        on_member!(self, release(tenant, id, symbol))
    }

    /// An alert that was not deleted.
    pub async fn alert(&self, tenant: &Tenant, id: AlertId) -> Result<Option<Alert>, StoreError> {
        on_member!(self, alert(tenant, id))
    }

    /// Whether there is such an alert, or was until it was deleted.
    pub async fn has_had_alert(&self, tenant: &Tenant, id: AlertId) -> Result<bool, StoreError> {
        on_member!(self, has_had_alert(tenant, id))
    }

    /// Alerts with a number above `after`, in the order of numbers, at most `limit`.
    pub async fn alerts(
        &self,
        tenant: &Tenant,
        filter: AlertFilter,
        after: AlertId,
        limit: u32,
    ) -> Result<Vec<Alert>, StoreError> {
        on_member!(self, alerts(tenant, filter, after, limit))
    }

    /// Deletes an alert and tells evaluators; false if there is none. Its firings stay.
    pub async fn delete_alert(&self, tenant: &Tenant, id: AlertId, now_ms: i64) -> Result<bool, StoreError> {
        on_member!(self, delete_alert(tenant, id, now_ms))
    }

    /// Firings recorded behind the sequence number `after`, oldest first, at most `limit`, with their numbers.
    pub async fn firings(
        &self,
        tenant: &Tenant,
        alert: Option<AlertId>,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, Firing)>, StoreError> {
        on_member!(self, firings(tenant, alert, after, limit))
    }

    /// The sequence number of a firing.
    pub async fn firing_seq(&self, tenant: &Tenant, id: FiringId) -> Result<Option<u64>, StoreError> {
        on_member!(self, firing_seq(tenant, id))
    }

    /// A tenant's newest firing, with its sequence number.
    pub async fn last_firing(&self, tenant: &Tenant) -> Result<Option<(u64, Firing)>, StoreError> {
        on_member!(self, last_firing(tenant))
    }

    /// An alert's faults behind a sequence number, oldest first, at most `limit`, with their numbers.
    pub async fn faults(
        &self,
        tenant: &Tenant,
        alert: AlertId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, FaultRecord)>, StoreError> {
        on_member!(self, faults(tenant, alert, after, limit))
    }

    /// What it takes to see a fault again; None once newer faults have displaced it.
    pub async fn fault_bundle(&self, tenant: &Tenant, id: FaultId) -> Result<Option<StoredBundle>, StoreError> {
        on_member!(self, fault_bundle(tenant, id))
    }

    /// Impure rule versions that live bindings still wait on, with how many, at most `limit`.
    pub async fn impure_rules_in_use(&self, limit: u32) -> Result<Vec<(RuleRef, u64)>, StoreError> {
        on_member!(self, impure_rules_in_use(limit))
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
        on_member!(self, promotable(tenant, to, from, after, limit))
    }

    /// Begins a promotion: evaluators are asked for the live bindings of its alerts. Alerts that were deleted since they
    /// were read are left out.
    pub async fn begin_promotion(&self, new: &NewPromotion) -> Result<BegunPromotion, StoreError> {
        on_member!(self, begin_promotion(new))
    }

    /// The promotion under way, and to which version.
    pub async fn unfinished_promotion(&self) -> Result<Option<(PromotionId, RuleRef)>, StoreError> {
        on_member!(self, unfinished_promotion())
    }

    /// How many live bindings are asked for and not handed over yet. Each that is raises the newest revision.
    pub async fn bindings_asked_for(&self) -> Result<u64, StoreError> {
        on_member!(self, bindings_asked_for())
    }

    /// Live bindings that are held, by number, behind `after`, at most `limit`.
    pub async fn held_bindings(&self, after: BindingId, limit: u32) -> Result<Vec<HeldBinding>, StoreError> {
        on_member!(self, held_bindings(after, limit))
    }

    /// Keeps what held bindings are to remember once the promotion is finished.
    pub async fn stage_promotion(&self, id: PromotionId, states: &[SavedBinding]) -> Result<(), StoreError> {
        on_member!(self, stage_promotion(id, states))
    }

    /// Finishes a promotion whose bindings are all held and staged, and tells evaluators to go on with them.
    pub async fn finish_promotion(
        &self,
        id: PromotionId,
        max_bindings_per_rule: u64,
    ) -> Result<FinishedPromotion, StoreError> {
        on_member!(self, finish_promotion(id, max_bindings_per_rule))
    }

    /// Takes a promotion back, and tells evaluators to go on with what they have handed over. False while bindings are
    /// asked for and not handed over yet; nothing happens if it is not under way.
    pub async fn roll_back_promotion(&self, id: PromotionId) -> Result<bool, StoreError> {
        on_member!(self, roll_back_promotion(id))
    }

    /// The sequence number of the newest firing, 0 if there is none. Its changes tell that firings were recorded.
    pub async fn newest_firing(&self) -> Result<watch::Receiver<u64>, StoreError> {
        on_member!(self, newest_firing())
    }

    /// The newest revision of bindings. Its changes tell that there is something to read with [`Self::changes`].
    pub async fn newest_revision(&self) -> Result<watch::Receiver<u64>, StoreError> {
        on_member!(self, newest_revision())
    }

    /// What changed after a revision: at most `limit` bindings, which must be more than one alert can have.
    pub async fn changes(&self, after: u64, limit: u32) -> Result<Changed, StoreError> {
        on_member!(self, changes(after, limit))
    }

    /// Claims a partition: whoever held it before can commit no more.
    pub async fn claim(&self, partition: u32) -> Result<Claim, StoreError> {
        on_member!(self, claim(partition))
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
        on_member!(self, live_bindings(partition, up_to_revision, after, limit))
    }

    /// What the bindings of a partition remembered at its checkpoint, each with its rule version. A binding that was
    /// promoted since may also have a record left of the version before.
    pub async fn saved_states(&self, partition: u32) -> Result<Vec<(Digest, SavedBinding)>, StoreError> {
        on_member!(self, saved_states(partition))
    }

    /// Writes firings, faults, quarantines and checkpoints at once, if all claims still hold. A firing that is recorded
    /// already, or whose binding is no longer active, changes nothing; nor does a fault that is recorded already.
    /// Returns how many firings are new.
    pub async fn commit(&self, claims: &[Claim], commit: &Commit) -> Result<u64, StoreError> {
        on_member!(self, commit(claims, commit))
    }

    /// Leases the oldest firings in the outbox that nobody tells at the moment, at most `limit`, in the order of their
    /// sequence numbers. An alert's firings are told by one deliverer at a time, in their order: while one of them is
    /// leased, so are the others. One whose lease has run out may have been told all the same: it is leased again.
    pub async fn lease_outbox(
        &self,
        lease: &OutboxLease,
        limit: u32,
        now_ms: i64,
    ) -> Result<Vec<(u64, Firing)>, StoreError> {
        on_member!(self, lease_outbox(lease, limit, now_ms))
    }

    /// Takes firings that were told out of the outbox, by their sequence numbers, but for those that somebody else has
    /// leased by now. Returns how many.
    pub async fn ack_outbox(&self, owner: &str, told: &[u64]) -> Result<u64, StoreError> {
        on_member!(self, ack_outbox(owner, told))
    }

    /// Leases all firings anew that an owner has leased.
    pub async fn renew_outbox(&self, lease: &OutboxLease, now_ms: i64) -> Result<(), StoreError> {
        on_member!(self, renew_outbox(lease, now_ms))
    }

    /// Lets others have the firings that an owner has leased and not told.
    pub async fn release_outbox(&self, owner: &str) -> Result<(), StoreError> {
        on_member!(self, release_outbox(owner))
    }

    /// Asks for a lease, which is given where nobody holds it.
    pub async fn acquire_lease(&self, lease: &Lease) -> Result<Leased, StoreError> {
        on_member!(self, acquire_lease(lease))
    }

    /// Makes a lease end later; false if it has run out or is somebody else's.
    pub async fn renew_lease(&self, lease: &Lease) -> Result<bool, StoreError> {
        on_member!(self, renew_lease(lease))
    }

    /// Ends a lease; nothing happens if it is somebody else's.
    pub async fn release_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        on_member!(self, release_lease(lease))
    }

    /// The counters of live bindings: kept, counted, and of the only tenant.
    #[cfg(test)]
    async fn live_counters(&self) -> (Vec<(String, Vec<u8>, i64)>, Vec<(String, Vec<u8>, i64)>, i64) {
        match self {
            Self::Sqlite(store) => store.live_counters().await,
            Self::Postgres(store) => store.live_counters().await,
        }
    }

    /// Finishes what is being written and closes the store.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(store) => store.close().await,
            Self::Postgres(store) => store.close().await,
        }
    }
}
