//! What `/health`, `/ready` and gRPC's health service are answered from. `roles` fills it: the API knows no role.

use std::sync::Arc;

use tocsin_engine::RuleUsage;
use tocsin_engine::domain::AlertId;
use tocsin_health::Health;

use crate::connections::Connections;

/// The status of this process. Cloning is cheap.
#[derive(Clone)]
pub struct ProcessStatus {
    /// Readiness and problems.
    pub health: Health,
    /// Connections and streams.
    pub connections: Connections,
    /// Returns the figures of the roles now.
    pub figures: Arc<dyn Fn() -> RoleFigures + Send + Sync>,
}

/// What roles add to `/health`.
#[derive(Debug, Default)]
pub struct RoleFigures {
    /// None without the role `evaluate`.
    pub evaluation: Option<EvaluationFigures>,
    /// None without the role `ingest`, or without a feed.
    pub feed: Option<FeedFigures>,
}

/// What evaluation costs, since the start.
#[derive(Debug, Default)]
pub struct EvaluationFigures {
    /// The partitions that this process evaluates.
    pub partitions: Vec<u32>,
    /// The rule versions that took the most time, the first one most.
    pub rules: Vec<RuleUsage>,
    /// The most active alerts, the first one most.
    pub alerts: Vec<AlertFigures>,
}

/// What one alert did, since the start.
#[derive(Debug)]
pub struct AlertFigures {
    /// The alert.
    pub alert: AlertId,
    /// Firings that were recorded.
    pub firings: u64,
    /// Firings that were not recorded, because a binding fired too often.
    pub suppressed: u64,
    /// Faults of its rule.
    pub faults: u64,
}

/// The feed's figures, since the start.
#[derive(Debug)]
pub struct FeedFigures {
    /// `finnhub`, `binance` or `simulated`.
    pub kind: &'static str,
    /// Whether it is connected.
    pub connected: bool,
    /// Frames and trades that gave no tick, by the name of the reason; reasons that were not met are left out.
    pub rejected: Vec<(&'static str, u64)>,
}
