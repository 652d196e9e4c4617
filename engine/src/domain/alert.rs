//! Alerts and their bindings.

use super::{RuleRef, Symbol, Tenant};

/// The id of an alert, from 1, unique within its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AlertId(pub i64);

/// The id of a user, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(pub i32);

/// The id of a binding, from 1. It does not change as long as its alert exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BindingId(pub i64);

/// A position in the bus: that of a tick, or of the next tick to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// The partition, from 0.
    pub partition: u32,
    /// The offset within it, from 0.
    pub offset: u64,
}

/// An alert's params, valid by the schema of its rule version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    /// The JSON object, with defaults filled in.
    pub json: String,
    /// The packed record that the rule reads.
    pub packed: Vec<u8>,
}

/// How often an alert may fire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Repeat {
    /// Once per symbol. The binding is then triggered and no longer evaluated.
    #[default]
    Once,
    /// On every tick for which the rule answers fire.
    Every,
}

/// What turns verdicts into firings. The same for all rules, and decided on event time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Lifecycle {
    /// How often the alert may fire.
    pub repeat: Repeat,
}

/// The status of a binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindingStatus {
    /// Evaluated on every tick of its symbol.
    Active,
    /// Fired, with a lifecycle that lets it fire once.
    Triggered,
    /// Not evaluated, since its rule faulted too often; with the reason.
    Quarantined(String),
}

/// The unit that the engine evaluates: one alert on one symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The id, which never changes.
    pub id: BindingId,
    /// The symbol on whose ticks it is evaluated.
    pub symbol: Symbol,
    /// Whether it is evaluated.
    pub status: BindingStatus,
    /// The position of the first tick that is evaluated: those published before the alert was created are not.
    pub counts_from: Option<Position>,
    /// The number of firings that were not recorded because they exceeded the firing rate.
    pub suppressed: u64,
}

/// A user's standing request: symbols, a rule version, params and a lifecycle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// The id, unique within its store.
    pub id: AlertId,
    /// The owner.
    pub tenant: Tenant,
    /// The tenant's user who created it.
    pub user: UserId,
    /// The rule version, fixed at creation.
    pub rule: RuleRef,
    /// The params of the rule.
    pub params: Params,
    /// What turns verdicts into firings.
    pub lifecycle: Lifecycle,
    /// Time of creation, Unix milliseconds.
    pub created_at_ms: i64,
    /// One per symbol, in the order of the request.
    pub bindings: Vec<Binding>,
}
