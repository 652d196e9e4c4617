//! `/api/v1/log`: which log of ticks there is, and going on with another one.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use tocsin_store::TickLog;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Served;
use super::extract::{self, Body, Query, rfc3339};
use super::json_reader::JsonReader;
use super::openapi::BadBody;
use super::problem::Problem;
use crate::control::{AcceptFrom, LogReport};
use crate::wire::{AcceptedBody, LogBody, LogReportBody};

pub(super) fn routes() -> OpenApiRouter<Served> {
    OpenApiRouter::new().routes(routes!(log)).routes(routes!(accept_log))
}

#[derive(ToSchema)]
#[schema(as = AcceptLog)]
struct AcceptBody {
    /// The identity of the log that is there.
    #[schema(example = "kafka:QQ4AVrXgTk2Y8Yz9lqXh3w")]
    log: String,
    /// Where its evaluation begins: at the `earliest` tick that it has, or at its `end`.
    #[schema(value_type = String, example = "earliest")]
    from: AcceptFrom,
}

impl AcceptBody {
    fn read(mut reader: JsonReader) -> Result<Self, Problem> {
        reader.require(&["log", "from"]);
        let log = reader.text("log");
        let from = reader.one_of("from", &[("earliest", AcceptFrom::Earliest), ("end", AcceptFrom::End)]);
        reader.finish()?;
        // Whatever is missing was refused.
        Ok(Self { log: log.unwrap_or_default(), from: from.unwrap_or(AcceptFrom::Earliest) })
    }
}

fn body(log: TickLog) -> Result<LogBody, Problem> {
    let accepted_at = rfc3339(log.accepted_at_ms)?;
    Ok(LogBody { identity: log.identity, generation: log.generation, accepted_at })
}

/// Which log of ticks there is, and which one alerts, firings and checkpoints refer to.
#[utoipa::path(get, path = "/api/v1/log", operation_id = "get_log", tag = "log", responses(
    (status = 200, body = LogReportBody, description = "Both"),
    (status = 503, description = "A backend is away; try again"),
))]
async fn log(State(served): State<Served>, query: Query) -> Result<Json<LogReportBody>, Problem> {
    query.finish()?;
    let LogReport { expected, found } = served.api.control.log().await?;
    Ok(Json(LogReportBody { expected: expected.map(body).transpose()?, found }))
}

/// Goes on with the log that is there, where it is another one than alerts, firings and checkpoints refer to, or has lost
/// its last records. Alerts keep what they remember.
#[utoipa::path(post, path = "/api/v1/log/accept", operation_id = "accept_log", tag = "log",
    request_body = AcceptBody,
    responses(
        (status = 200, body = AcceptedBody, description = "It is evaluated from now on"),
        (status = 400, description = "The request is wrong: `violations` names what"),
        (status = 409, description = "The log that is there is another one, there is nothing to accept, or a promotion is under way"),
        BadBody,
        (status = 503, description = "A backend is away; try again"),
    ),
)]
async fn accept_log(
    State(served): State<Served>,
    query: Query,
    headers: HeaderMap,
    body: Result<Body, Problem>,
) -> Result<Json<AcceptedBody>, Problem> {
    query.finish()?;
    extract::content_type(&headers, &["application/json"])?;
    let AcceptBody { log, from } = AcceptBody::read(extract::json(&body?.0)?)?;
    let (log, moved_bindings) = served.api.control.accept_log(&log, from).await?;
    Ok(Json(AcceptedBody { log: self::body(log)?, moved_bindings }))
}
