//! Rules and alerts as they are handed to the store, and what became of them.

use tocsin_engine::domain::{Alert, Lifecycle, Params, RuleQuarantine, RuleRef, RuleVersion, Symbol, Tenant, UserId};

use super::Start;

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
    /// The log whose offsets these are; None where that is not to be checked.
    pub log: Option<String>,
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
    /// Its rule version is no longer evaluated.
    RuleQuarantined(RuleQuarantine),
}

/// The most live bindings: active or quarantined ones, which evaluators keep in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindingCaps {
    /// Of one tenant.
    pub per_tenant: u64,
    /// Of one rule version of one tenant.
    pub per_rule: u64,
    /// Bytes of params and states of one tenant.
    pub bytes_per_tenant: u64,
    /// Bytes of params and states of one rule version of one tenant.
    pub bytes_per_rule: u64,
}

/// What a cap counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capped {
    /// The bindings of a tenant.
    Tenant,
    /// The bindings of a rule version.
    Rule,
    /// The bytes of a tenant's params and states.
    TenantBytes,
    /// The bytes of a rule version's params and states.
    RuleBytes,
}

/// A cap that an alert would have exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapReached {
    /// What is counted.
    pub capped: Capped,
    /// How many bindings live, or how many bytes they have.
    pub live: u64,
    /// How many more were needed.
    pub needs: u64,
    /// How many may.
    pub cap: u64,
}

/// What became of bindings that were to be released from quarantine.
#[derive(Debug)]
pub enum Unquarantined {
    /// They are tried again; the alert as it is now.
    Unquarantined(Alert),
    /// None of those that were meant is quarantined; the alert.
    NothingQuarantined(Alert),
    /// Its rule version is no longer evaluated: there is nothing to try.
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
