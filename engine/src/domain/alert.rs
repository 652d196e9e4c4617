//! A user's standing request, and the bindings that it is evaluated by.

use super::{RuleRef, Symbol, Tenant};

/// An alert's number, from 1, unique in its tenant's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AlertId(pub i64);

/// A user's number, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(pub i32);

/// A binding's number, from 1: stable for the life of its alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BindingId(pub i64);

/// A place in the bus: the next tick to be read there has this offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The partition, from 0.
    pub partition: u32,
    /// The offset within it, from 0.
    pub offset: u64,
}

/// An alert's params, already checked against the schema of its rule version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// The JSON object, defaults filled in, for people.
    pub json: String,
    /// The packed record that the rule reads.
    pub packed: Vec<u8>,
}

/// How often an alert may fire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Repeat {
    /// Once a symbol; the binding is then triggered and judged no more.
    #[default]
    Once,
    /// At every tick that the rule answers with fire.
    Every,
}

/// What follows a fire verdict. The same for all rules, decided by the host on event time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lifecycle {
    /// How often the alert may fire.
    pub repeat: Repeat,
}

/// Where a binding is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindingStatus {
    /// Judged on every tick of its symbol.
    Active,
    /// Fired, and its lifecycle says once.
    Triggered,
    /// Its rule faulted too often; the text says how.
    Quarantined(String),
}

/// The unit that the engine evaluates: one alert on one symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Its number.
    pub id: BindingId,
    /// The symbol that it watches.
    pub symbol: Symbol,
    /// Where it is in its life.
    pub status: BindingStatus,
    /// The first tick that counts: those published before the alert was created do not.
    pub counts_from: Option<Position>,
    /// Firings that were not recorded, since it fired more often than a binding may.
    pub suppressed: u64,
}

/// A user's standing request: symbols, a rule version, params and a lifecycle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// Its number.
    pub id: AlertId,
    /// Who owns it.
    pub tenant: Tenant,
    /// The tenant's user who asked for it.
    pub user: UserId,
    /// The rule version, fixed at creation.
    pub rule: RuleRef,
    /// The rule's params.
    pub params: Params,
    /// What follows a fire verdict.
    pub lifecycle: Lifecycle,
    /// When it was created, Unix milliseconds.
    pub created_at_ms: i64,
    /// One for each symbol, in the order that the user gave.
    pub bindings: Vec<Binding>,
}
