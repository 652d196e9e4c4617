//! The domain types. They validate at construction and have no wire format: protobuf, JSON and SQL code converts to and
//! from them, next to types of its own.

mod alert;
mod firing;
mod rule;
mod symbol;
mod tenant;
mod tick;

pub use alert::{Alert, AlertId, Binding, BindingId, BindingStatus, Lifecycle, Params, Position, Repeat, UserId};
pub use firing::{Evidence, FaultId, Firing, FiringId, LogSalt};
pub use rule::{
    Digest, NameError, RuleName, RuleQuarantine, RuleRef, RuleVersion, Version, VersionError, parse_version,
};
pub use symbol::{MAX_SYMBOL_BYTES, Symbol, SymbolError};
pub use tenant::Tenant;
pub use tick::{Conditions, MAX_TIME_MS, Tick, TickError};
