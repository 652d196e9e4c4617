//! Firings: in pages, and as a stream of server-sent events.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{self, Query, UrlPath};
use super::openapi::{AlertParam, BadRequest, FiringsPageParams};
use super::problem::{Kind, Problem};
use super::{Served, events};
use crate::wire::{FiringBody, FiringsBody};

/// The header with which a client that reconnects names the last event that it saw.
const LAST_EVENT_ID: &str = "Last-Event-ID";

pub(super) fn routes() -> OpenApiRouter<Served> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(of_alert)).routes(routes!(live))
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
    let firings = page.items.into_iter().map(FiringBody::from).collect();
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
