//! `/health` and `/ready`, which every process answers, whatever its roles. `/health` is GoStocks', with more members.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{FromRef, State};
use axum::http::StatusCode;
use serde::Serialize;
use tocsin_engine::RuleUsage;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::{AlertFigures, EvaluationFigures, ProcessStatus};
use crate::connections::ConnectionCounts;

pub(super) fn routes<S>() -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
    ProcessStatus: FromRef<S>,
{
    OpenApiRouter::new().routes(routes!(health)).routes(routes!(ready))
}

#[derive(Serialize, ToSchema)]
struct HealthBody {
    /// `ok`, or `unavailable` if the process cannot do its work.
    status: &'static str,
    /// Always `gateway`.
    service: &'static str,
    /// The roles of this process: `ingest`, `project`, `evaluate`, `deliver`, `api`.
    roles: Vec<&'static str>,
    /// Its backends by port: `bus`, `store`, `prices`, `firings`.
    backends: BTreeMap<&'static str, String>,
    /// The process it waits for, where only one may do the work.
    #[serde(skip_serializing_if = "Option::is_none")]
    standby: Option<String>,
    /// The partitions that it evaluates, with the role `evaluate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    partitions: Option<Vec<u32>>,
    /// Where ticks come from: `finnhub`, `binance`, `simulated` or `none`.
    feed: &'static str,
    /// Whether the feed is connected.
    feed_connected: bool,
    /// Frames and trades of the feed that gave no tick since the start, by reason, such as `not_json` or `bad_price`.
    feed_rejected: BTreeMap<&'static str, u64>,
    /// What evaluating costs, since the start, with the role `evaluate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    evaluation: Option<EvaluationBody>,
    /// Connections of all ports.
    connections: ConnectionsBody,
    /// Live streams: server-sent events, WebSockets, gRPC watches.
    streams: StreamsBody,
    /// What is wrong, for people.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    problems: Vec<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Evaluation)]
struct EvaluationBody {
    /// The rule versions that took the most time, at most ten.
    rules: Vec<RuleUsageBody>,
    /// The most active alerts, at most ten.
    alerts: Vec<AlertActivityBody>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = RuleUsage)]
struct RuleUsageBody {
    rule: String,
    version: String,
    tenant: String,
    evaluations: u64,
    firings: u64,
    /// Firings that were not recorded, because their binding fired too often.
    suppressed: u64,
    faults: u64,
    /// Fuel; for a certified rule the most that it can have burnt.
    fuel: u64,
    /// Time of evaluation, estimated from a sample of one call in 64.
    seconds: f64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AlertActivity)]
struct AlertActivityBody {
    id: i64,
    firings: u64,
    suppressed: u64,
    faults: u64,
}

impl EvaluationBody {
    fn from_figures(figures: EvaluationFigures) -> Self {
        let rule = |RuleUsage { rule, tenant, usage }: RuleUsage| RuleUsageBody {
            rule: rule.name.to_string(),
            version: rule.version.to_string(),
            tenant: tenant.to_string(),
            evaluations: usage.evaluations,
            firings: usage.firings,
            suppressed: usage.suppressed,
            faults: usage.faults,
            fuel: usage.fuel,
            seconds: usage.time.as_secs_f64(),
        };
        let alert = |AlertFigures { alert, firings, suppressed, faults }| AlertActivityBody {
            id: alert.0,
            firings,
            suppressed,
            faults,
        };
        Self {
            rules: figures.rules.into_iter().map(rule).collect(),
            alerts: figures.alerts.into_iter().map(alert).collect(),
        }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Connections)]
struct ConnectionsBody {
    /// Open ones.
    open: u64,
    /// The most that may be open at a time.
    max: u64,
    /// Idle ones that were closed to make room for others, since the start.
    evicted: u64,
    /// Those that were refused because all others were in use, since the start.
    refused: u64,
    /// Attempts to accept one that failed, as where too many files are open, since the start.
    accept_failures: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Streams)]
struct StreamsBody {
    /// Open ones.
    open: u64,
    /// The most that may be open at a time.
    max: u64,
    /// Those that were refused because all others were in use, since the start.
    refused: u64,
}

impl ConnectionsBody {
    fn from_counts(counts: ConnectionCounts) -> Self {
        let ConnectionCounts { open, max, evicted, refused, accept_failures, .. } = counts;
        Self { open, max, evicted, refused, accept_failures }
    }
}

impl StreamsBody {
    fn from_counts(counts: ConnectionCounts) -> Self {
        Self { open: counts.streams_open, max: counts.streams_max, refused: counts.streams_refused }
    }
}

#[derive(Serialize, ToSchema)]
struct ReadyBody {
    ready: bool,
    /// What is wrong, for people.
    problems: Vec<String>,
}

/// Returns whether the process can do its work, and its figures.
#[utoipa::path(get, path = "/health", operation_id = "health", tag = "health", responses(
    (status = 200, body = HealthBody, description = "It can; `problems` lists what is wrong all the same"),
    (status = 503, body = HealthBody, description = "It cannot; `problems` says why"),
))]
async fn health(State(status): State<ProcessStatus>) -> (StatusCode, Json<HealthBody>) {
    let report = status.health.report().await;
    let (figures, connections) = ((status.figures)(), status.connections.counts());
    let (feed, feed_connected) = figures.feed.as_ref().map_or(("none", false), |feed| (feed.kind, feed.connected));
    let (code, word) =
        if report.ready { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "unavailable") };
    let body = HealthBody {
        status: word,
        service: "gateway",
        roles: report.roles,
        backends: report.backends.into_iter().collect(),
        standby: report.standby,
        partitions: figures.evaluation.as_ref().map(|evaluation| evaluation.partitions.clone()),
        evaluation: figures.evaluation.map(EvaluationBody::from_figures),
        feed,
        feed_connected,
        feed_rejected: figures.feed.into_iter().flat_map(|feed| feed.rejected).collect(),
        connections: ConnectionsBody::from_counts(connections),
        streams: StreamsBody::from_counts(connections),
        problems: report.problems,
    };
    (code, Json(body))
}

/// Returns whether the process can do its work, for probes.
#[utoipa::path(get, path = "/ready", operation_id = "ready", tag = "health", responses(
    (status = 200, body = ReadyBody, description = "It can"),
    (status = 503, body = ReadyBody, description = "It cannot; `problems` says why"),
))]
async fn ready(State(status): State<ProcessStatus>) -> (StatusCode, Json<ReadyBody>) {
    let report = status.health.report().await;
    let code = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(ReadyBody { ready: report.ready, problems: report.problems }))
}
