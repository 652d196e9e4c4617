//! Firings: in pages, and as a stream of server-sent events.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;
use tocsin_engine::domain::Firing;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{self, Query, UrlPath};
use super::openapi::{AlertParam, BadRequest, FiringsPageParams};
use super::problem::{Kind, Problem};
use super::{Served, events};

/// The header with which a client that reconnects names the last event that it saw.
const LAST_EVENT_ID: &str = "Last-Event-ID";

pub(super) fn routes() -> OpenApiRouter<Served> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(of_alert)).routes(routes!(live))
}

#[derive(Serialize, ToSchema)]
#[schema(as = Firing)]
struct FiringBody {
    /// The same however often its tick is replayed.
    id: String,
    alert_id: i64,
    symbol: String,
    price: f64,
    volume: f64,
    /// The tick's event time, Unix milliseconds.
    timestamp: i64,
    /// Where the tick is in the bus.
    partition: u32,
    /// See `partition`.
    offset: u64,
    /// The rule's name.
    rule: String,
    /// The rule's version.
    version: String,
    /// The rule module's digest.
    digest: String,
    /// The numbers by which the rule justifies the firing, by name.
    evidence: BTreeMap<String, f64>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = FiringsPage)]
struct FiringsBody {
    firings: Vec<FiringBody>,
    /// What to give as `after` for the next page; null on the last.
    next: Option<String>,
}

impl FiringBody {
    fn from_firing(firing: Firing) -> Self {
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
pub fn firing_json(firing: Firing) -> String {
    serde_json::to_string(&FiringBody::from_firing(firing)).expect("texts and numbers are JSON")
}

/// Firings in the order in which they were recorded.
#[utoipa::path(get, path = "/api/v1/firings", operation_id = "list_firings", tag = "firings",
    params(
        FiringsPageParams,
    ),
    responses(
        (status = 200, body = FiringsBody, description = "A page of firings"),
        BadRequest,
    ),
)]
async fn list(State(served): State<Served>, query: Query) -> Result<Json<FiringsBody>, Problem> {
    page(&served, None, query).await
}

/// The firings of an alert.
#[utoipa::path(get, path = "/api/v1/alerts/{id}/firings", operation_id = "list_firings_of_alert", tag = "firings",
    params(
        AlertParam,
        FiringsPageParams,
    ),
    responses(
        (status = 200, body = FiringsBody, description = "A page of firings"),
        BadRequest,
        (status = 404, description = "There was never such an alert"),
    ),
)]
async fn of_alert(
    State(served): State<Served>,
    UrlPath(id): UrlPath<String>,
    query: Query,
) -> Result<Json<FiringsBody>, Problem> {
    page(&served, Some(extract::id("id", &id)?), query).await
}

async fn page(served: &Served, alert: Option<i64>, mut query: Query) -> Result<Json<FiringsBody>, Problem> {
    let (after, limit) = (query.text("after"), query.limit());
    query.finish()?;
    let page = served.api.control.firings(&served.api.tenant, alert, after.as_deref(), limit).await?;
    let firings = page.items.into_iter().map(FiringBody::from_firing).collect();
    Ok(Json(FiringsBody { firings, next: page.next }))
}

/// Firings as they are recorded: events named `firing`, whose id is the firing's and whose data is its JSON. A client
/// that reconnects with `Last-Event-ID`, or gives `after`, misses none: so that this holds before the first firing too,
/// the first event, named `cursor`, has an id to reconnect with. An event `problem` ends the stream.
#[utoipa::path(get, path = "/api/v1/firings/stream", operation_id = "stream_firings", tag = "firings",
    params(
        ("alert_id" = Option<i64>, Query, description = "Only those of one alert"),
        ("after" = Option<String>, Query, description = "The id of a firing, or `start`; new ones only if absent"),
        ("Last-Event-ID" = Option<String>, Header, description = "As `after`, and before it"),
    ),
    responses(
        (status = 200, body = FiringBody, content_type = "text/event-stream",
            description = "The events; the stream has no end"),
        BadRequest,
        (status = 404, description = "There was never such an alert"),
        (status = 429, description = "As many streams are open as may be; Retry-After says when to try again"),
    ),
)]
async fn live(State(served): State<Served>, headers: HeaderMap, mut query: Query) -> Result<Response, Problem> {
    let alert = query.text("alert_id");
    let after = query.text("after");
    query.finish()?;
    let alert = alert.map(|text| extract::id("alert_id", &text)).transpose()?;
    let last_seen = extract::header_text(&headers, LAST_EVENT_ID)?.filter(|id| !id.is_empty());
    let resumed = last_seen.is_some();
    let after = last_seen.or(after);
    let streams = served.api.status.connections.streams();
    let place = streams.open_one().ok_or_else(|| Problem::new(Kind::TooManyStreams, streams.refusal()))?;
    let firings = served.api.control.watch_firings(&served.api.tenant, alert, after.as_deref()).await;
    let (cursor, firings) = firings.map_err(|error| {
        let problem = Problem::from(error);
        if resumed { problem.renaming("after", LAST_EVENT_ID) } else { problem }
    })?;
    Ok(events::response(cursor, firings, place, served.stop))
}
