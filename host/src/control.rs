//! The use cases: what REST and gRPC both call. Input arrives as a client wrote it, is checked here once, and every
//! fault in it is named by its field; only domain types leave.

mod alerts;
mod faults;
mod firings;
mod logs;
mod price_alerts;
mod promotion;
mod rules;
mod thread;

use std::sync::Arc;

use tocsin_bus::{Bus, BusError, Clock};
use tocsin_engine::domain::Tenant;
use tocsin_engine::violation::Violation;
use tocsin_store::{BindingCaps, Store, StoreError};

use crate::rules::compiler::CompileError;
use crate::rules::{RuleCache, RuleCacheError};

use self::firings::Tail;

pub use self::alerts::{AlertQuery, CreateAlert, MAX_SYMBOLS};
pub use self::firings::{Recorded, START};
pub use self::logs::{AcceptFrom, LogReport};
pub use self::price_alerts::{Condition, CreatePriceAlert};
pub use self::promotion::{CancelledPromotion, PromoteRule, Promoted};
pub use self::rules::Upload;

/// The largest page that a list answers with.
pub const MAX_PAGE: u32 = 500;

/// The page size where a client gives none.
pub const DEFAULT_PAGE: u32 = 100;

/// When a client that met [`ControlError::Busy`] may try again, in seconds: the compiler gives up on a module after less.
pub const BUSY_RETRY_AFTER_S: u64 = 5;

/// All use cases. Cloning is cheap.
#[derive(Clone)]
pub struct Control(Arc<Inner>);

struct Inner {
    store: Store,
    bus: Bus,
    library: RuleCache,
    clock: Clock,
    caps: BindingCaps,
    tail: Tail,
}

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// The member, such as `symbols[1]` or `params.percent`.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub message: String,
}

impl FieldViolation {
    /// A violation of one field.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// Why a use case did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The request is wrong; at least one violation.
    #[error("{}", summary(.0))]
    Invalid(Vec<FieldViolation>),
    /// The module is no rule.
    #[error("the module is not a rule (violations: {})", .0.len())]
    Rejected(Vec<Violation>),
    /// What was asked for does not exist; says what.
    #[error("{0}")]
    NotFound(String),
    /// It contradicts what is stored; says how.
    #[error("{0}")]
    Conflict(String),
    /// Another request came in between; the same one may succeed once that has ended.
    #[error("{0}")]
    Raced(String),
    /// What is stored does not allow it now; says what would have to change first.
    #[error("{0}")]
    Precondition(String),
    /// There would be more of something than may be; says of what, how many there are, and what to do.
    #[error("{0}")]
    CapReached(String),
    /// A backend is away; the same request may succeed later.
    #[error("{0}; try again later")]
    Unavailable(String),
    /// Too many requests of this kind are under way; the same request will succeed in some seconds.
    #[error("{0}")]
    Busy(String),
    /// Something is broken on this side.
    #[error("{0}")]
    Internal(String),
}

fn summary(violations: &[FieldViolation]) -> String {
    violations.iter().map(|v| format!("{}: {}", v.field, v.message)).collect::<Vec<_>>().join("; ")
}

impl ControlError {
    /// One wrong field.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldViolation::new(field, message)])
    }
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Database(_) | StoreError::Away(_) | StoreError::Fenced(_) | StoreError::OtherLog { .. } => {
                Self::Unavailable(error.to_string())
            }
            StoreError::Refused(_)
            | StoreError::Open(_)
            | StoreError::Migration(_)
            | StoreError::Damaged { .. }
            | StoreError::CheckpointBehind { .. } => Self::Internal(error.to_string()),
        }
    }
}

impl From<BusError> for ControlError {
    fn from(error: BusError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<RuleCacheError> for ControlError {
    fn from(error: RuleCacheError) -> Self {
        match error {
            RuleCacheError::Rejected(rejection) => Self::Rejected(rejection.violations),
            RuleCacheError::Compile(CompileError::Refused(violations)) => Self::Rejected(violations),
            RuleCacheError::Compile(error @ CompileError::Busy) => Self::Busy(error.to_string()),
            RuleCacheError::Store(error) => error.into(),
            other => Self::Internal(other.to_string()),
        }
    }
}

/// A page of a list, and the cursor of the next one.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The items, at most as many as were asked for.
    pub items: Vec<T>,
    /// What to give as `after` for the next page; None on the last.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// Makes a page of one item more than was asked for: if it is there, there is a next page.
    fn of(mut items: Vec<T>, limit: u32, cursor: impl Fn(&T) -> String) -> Self {
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next = if more { items.last().map(cursor) } else { None };
        Self { items, next }
    }
}

/// Checks a page size; None means the default. `field` is its name in the caller's words.
fn page_size(limit: Option<i64>, field: &str) -> Result<u32, FieldViolation> {
    match limit {
        None => Ok(DEFAULT_PAGE),
        Some(limit) => u32::try_from(limit)
            .ok()
            .filter(|limit| (1..=MAX_PAGE).contains(limit))
            .ok_or_else(|| FieldViolation::new(field, format!("{limit} is not between 1 and {MAX_PAGE}"))),
    }
}

/// A page's size and where it begins, or all that is wrong with either.
fn page<T>(size: Result<u32, FieldViolation>, after: Result<T, ControlError>) -> Result<(u32, T), ControlError> {
    match (size, after) {
        (Ok(size), after) => Ok((size, after?)),
        (Err(wrong), Err(ControlError::Invalid(more))) => {
            Err(ControlError::Invalid([wrong].into_iter().chain(more).collect()))
        }
        (Err(wrong), _) => Err(ControlError::Invalid(vec![wrong])),
    }
}

impl Control {
    /// The use cases over these backends.
    pub fn new(store: Store, bus: Bus, library: RuleCache, clock: Clock, caps: BindingCaps) -> Self {
        let tail = Tail::new(store.clone());
        Self(Arc::new(Inner { store, bus, library, clock, caps, tail }))
    }

    /// Stores the built-in rules of a tenant; those that are there already stay.
    pub async fn install_builtins(&self, tenant: &Tenant) -> Result<(), ControlError> {
        for module in tocsin_engine::builtin::ALL {
            self.upload_rule(tenant, module.to_vec()).await?;
        }
        Ok(())
    }

    fn now_ms(&self) -> i64 {
        (self.0.clock)()
    }
}
