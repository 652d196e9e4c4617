//! Alerts and their bindings.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Lifecycle)]
pub(crate) struct LifecycleBody {
    pub(crate) repeat: Option<RepeatBody>,
}

/// How often an alert may fire: once a symbol, or at every tick that its rule says fire to.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = Repeat)]
pub(crate) enum RepeatBody {
    Once,
    Every,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Alert)]
pub(crate) struct AlertBody {
    pub(crate) id: i64,
    pub(crate) user_id: i32,
    /// The rule's name.
    pub(crate) rule: String,
    /// The rule's version.
    pub(crate) version: String,
    /// The rule module's digest.
    pub(crate) digest: String,
    /// Defaults filled in.
    #[schema(value_type = Object)]
    pub(crate) params: Box<RawValue>,
    pub(crate) lifecycle: LifecycleBody,
    #[schema(format = DateTime)]
    pub(crate) created_at: String,
    /// One for each symbol.
    pub(crate) bindings: Vec<BindingBody>,
    /// In the answer to its creation: symbols of it that are none of this server's tickers, so that it waits for ticks
    /// from elsewhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(crate) unserved: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Binding)]
pub(crate) struct BindingBody {
    pub(crate) symbol: String,
    /// `active`, `triggered` or `quarantined`.
    pub(crate) status: Cow<'static, str>,
    /// Why it is quarantined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// Firings that were not recorded: it fired more than 1000 times in a row, and faster than once in 100 ms.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) suppressed: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AlertsPage)]
pub(crate) struct AlertsBody {
    pub(crate) alerts: Vec<AlertBody>,
    /// What to give as `after` for the next page; null on the last.
    pub(crate) next: Option<String>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
