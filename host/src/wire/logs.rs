//! Logs of ticks.

use serde::Serialize;
use utoipa::ToSchema;

/// A log of ticks.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Log)]
pub(crate) struct LogBody {
    /// What no other log has, such as the topic's id.
    #[schema(example = "kafka:QQ4AVrXgTk2Y8Yz9lqXh3w")]
    pub(crate) identity: String,
    /// How many other logs were evaluated before it.
    pub(crate) generation: u32,
    /// Since when alerts refer to it: RFC 3339.
    pub(crate) accepted_at: String,
}

/// Which log of ticks there is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LogReport)]
pub(crate) struct LogReportBody {
    /// The log that alerts, firings and checkpoints refer to; null until ticks were evaluated for the first time.
    pub(crate) expected: Option<LogBody>,
    /// The identity of the log that is there.
    pub(crate) found: String,
}

/// The log that is evaluated from now on.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AcceptedLog)]
pub(crate) struct AcceptedBody {
    pub(crate) log: LogBody,
    /// Live bindings whose partition the log does not have: they wait for the first tick of their symbol.
    pub(crate) moved_bindings: u64,
}
