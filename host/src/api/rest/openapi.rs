//! The API's description, made from the code: OpenAPI 3.1.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, header};
use axum::routing::get;
use tocsin_engine::domain::Digest;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use super::{Served, etag};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tocsin",
        description = "Market data alerts whose conditions are WebAssembly rules. Errors under /api/v1 are \
                       application/problem+json (RFC 9457).",
    ),
    tags(
        (name = "rules", description = "Conditions as WebAssembly modules"),
        (name = "alerts", description = "Standing requests: symbols, a rule, its params"),
        (name = "firings", description = "The record of alerts that fired"),
        (name = "faults", description = "What rules did instead of answering, and the release from quarantine"),
        (name = "candles", description = "What was traded by second, minute, five minutes or hour"),
        (name = "log", description = "The log of ticks that alerts are evaluated on"),
        (name = "trades", description = "Live trades, as the trading app serves them"),
        (name = "gostocks", description = "Price alerts, as GoStocks serves them"),
        (name = "health", description = "Whether the server is well"),
    ),
)]
struct Description;

/// A router that gathers what its routes say of themselves.
pub(super) fn described() -> OpenApiRouter<Served> {
    OpenApiRouter::with_openapi(Description::openapi())
}

/// The route that serves the description.
pub(super) fn route(openapi: &utoipa::openapi::OpenApi) -> Router<Served> {
    let text: Arc<str> = openapi.to_json().expect("the description is made of texts and maps of texts").into();
    let digest = Digest::of(text.as_bytes());
    let answer = async move |headers: HeaderMap| {
        let body = async { Ok(([(header::CONTENT_TYPE, "application/json")], text.to_string())) };
        etag::answer(&headers, digest, body).await
    };
    Router::new().route("/api/v1/openapi.json", get(answer))
}
