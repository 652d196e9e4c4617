//! The API's description, made from the code: OpenAPI 3.1. What several routes have in common is declared here, once.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, header};
use axum::routing::get;
use tocsin_engine::domain::Digest;
use utoipa::openapi::path::Operation;
use utoipa::openapi::response::{Response, ResponseBuilder, ResponsesBuilder};
use utoipa::openapi::{ContentBuilder, PathItem, Ref, RefOr};
use utoipa::{IntoParams, IntoResponses, OpenApi};
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

/// Where errors are problems.
const API: &str = "/api/v1/";

/// The parameters of a page.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it is declared for the description")]
pub(super) struct PageParams {
    /// The cursor of a page
    after: Option<String>,
    /// 1 to 500; 100 if absent
    limit: Option<u32>,
}

/// The parameters of a page of firings.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it is declared for the description")]
pub(super) struct FiringsPageParams {
    /// The cursor of a page, or the id of a firing, or `start`
    after: Option<String>,
    /// 1 to 500; 100 if absent
    limit: Option<u32>,
}

/// The parameter of a route about one alert.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it is declared for the description")]
pub(super) struct AlertParam {
    /// The alert's number
    id: i64,
}

/// The parameters of a route about one version of a rule.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "it is declared for the description")]
pub(super) struct VersionParams {
    /// The rule's name
    name: String,
    /// A semantic version
    version: String,
}

/// The response to a wrong request.
pub(super) struct BadRequest;

impl IntoResponses for BadRequest {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        described_as(&[("400", "The request is wrong: `violations` lists all that is")])
    }
}

/// The responses to a body that is not read.
pub(super) struct BadBody;

impl IntoResponses for BadBody {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        described_as(&[
            ("413", "The body is larger than this route takes: `detail` has the limit"),
            ("415", "The Content-Type is none that this route takes: `detail` names those"),
        ])
    }
}

fn described_as(responses: &[(&str, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let described = |builder: ResponsesBuilder, (status, text): &(&str, &str)| {
        builder.response(*status, ResponseBuilder::new().description(*text))
    };
    responses.iter().fold(ResponsesBuilder::new(), described).build().into()
}

/// Gives each error of `/api/v1` the body that errors have there.
pub(super) fn describe_problems(openapi: &mut utoipa::openapi::OpenApi) {
    let paths = openapi.paths.paths.iter_mut().filter(|(path, _)| path.starts_with(API));
    for operation in paths.flat_map(|(_, item)| operations(item)) {
        for (status, response) in &mut operation.responses.responses {
            if let (true, RefOr::T(response)) = (is_error(status), response)
                && response.content.is_empty()
            {
                let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
                response.content.insert("application/problem+json".into(), content.into());
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, put, post, delete, patch].into_iter().flatten()
}

fn is_error(status: &str) -> bool {
    status.starts_with(['4', '5'])
}

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
