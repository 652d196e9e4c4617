//! Firings.

use std::collections::BTreeMap;

use serde::Serialize;
use tocsin_engine::domain::Firing;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Firing)]
pub(crate) struct FiringBody {
    /// The same however often its tick is replayed.
    pub(crate) id: String,
    pub(crate) alert_id: i64,
    pub(crate) symbol: String,
    pub(crate) price: f64,
    pub(crate) volume: f64,
    /// The tick's event time, Unix milliseconds.
    pub(crate) timestamp: i64,
    /// Where the tick is in the bus.
    pub(crate) partition: u32,
    /// See `partition`.
    pub(crate) offset: u64,
    /// The rule's name.
    pub(crate) rule: String,
    /// The rule's version.
    pub(crate) version: String,
    /// The rule module's digest.
    pub(crate) digest: String,
    /// The numbers by which the rule justifies the firing, by name.
    pub(crate) evidence: BTreeMap<String, f64>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FiringsPage)]
pub(crate) struct FiringsBody {
    pub(crate) firings: Vec<FiringBody>,
    /// What to give as `after` for the next page; null on the last.
    pub(crate) next: Option<String>,
}

impl From<Firing> for FiringBody {
    fn from(firing: Firing) -> Self {
        let Firing { id, alert, tick, position, rule, evidence, .. } = firing;
        Self {
            id: id.to_string(),
            alert_id: alert.0,
            symbol: tick.symbol.as_str().to_owned(),
            price: tick.price,
            volume: tick.volume,
            timestamp: tick.time_ms,
            partition: position.partition,
            offset: position.offset,
            rule: rule.name.to_string(),
            version: rule.version.to_string(),
            digest: rule.digest.to_string(),
            evidence: evidence.into_iter().map(|(name, number)| (name.to_string(), number)).collect(),
        }
    }
}

/// Returns a firing as an element of `GET /api/v1/firings`. Deliveries have the same body.
pub(crate) fn firing_json(firing: Firing) -> String {
    serde_json::to_string(&FiringBody::from(firing)).expect("texts and numbers are JSON")
}
