//! `POST` and `DELETE /api/v1/rules/{name}/versions/{version}/promote`: alerts move to a version of their rule, or a promotion
//! that is under way is cancelled.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Served;
use super::extract::{self, Body, Query, UrlPath};
use super::json_reader::JsonReader;
use super::openapi::{BadBody, BadRequest};
use super::problem::Problem;
use crate::control::{CancelledPromotion, PromoteRule, Promoted};
use crate::wire::{CancelledBody, PromotedBody};

pub(super) fn routes() -> OpenApiRouter<Served> {
    OpenApiRouter::new().routes(routes!(promote, cancel))
}

#[derive(ToSchema)]
#[schema(as = Promotion)]
struct PromotionBody {
    /// The version that alerts leave; all others if it is left out.
    #[schema(example = "1.0.0")]
    from: Option<String>,
    /// Where the version takes no states of an older one over, or its migration refuses or faults on one, they begin at zero.
    #[schema(required = false)]
    reset_state: bool,
}

impl PromotionBody {
    fn read(mut reader: JsonReader) -> Result<Self, Problem> {
        let body = Self { from: reader.text("from"), reset_state: reader.flag("reset_state") };
        reader.finish()?;
        Ok(body)
    }
}

/// Moves the live alerts of other versions of a rule to this one, with their params and states: all of them or, if one
/// cannot move, none. No tick is lost or evaluated twice. The body may be left out.
#[utoipa::path(post, path = "/api/v1/rules/{name}/versions/{version}/promote",
    operation_id = "promote_rule", tag = "rules",
    request_body = Option<PromotionBody>,
    params(
        ("name" = String, Path, description = "The rule's name"),
        ("version" = String, Path, description = "The version that alerts move to"),
    ),
    responses(
        (status = 200, body = PromotedBody, description = "What has moved"),
        (status = 400, description = "The request is wrong, or params of alerts do not fit the version's schema: `violations` names them"),
        (status = 403, description = "The version would have more live bindings than may be"),
        (status = 404, description = "There is no such rule or version"),
        (status = 409, description = "The version cannot take a state over, it is impure, a partition of its alerts has halted, another \
                           promotion is under way, or this one was cancelled"),
        BadBody,
        (status = 503, description = "The evaluators are too far behind, or a backend is away"),
    ),
)]
async fn promote(
    State(served): State<Served>,
    UrlPath((name, version)): UrlPath<(String, String)>,
    query: Query,
    headers: HeaderMap,
    body: Result<Body, Problem>,
) -> Result<Json<PromotedBody>, Problem> {
    query.finish()?;
    let PromotionBody { from, reset_state } = PromotionBody::read(extract::json_if_any(&headers, &body?)?)?;
    let request = PromoteRule { name, version, from, reset_state };
    let Promoted { rule, moved } = served.api.control.promote_rule(&served.api.tenant, request).await?;
    Ok(Json(PromotedBody {
        name: rule.name.to_string(),
        version: rule.version.to_string(),
        digest: rule.digest.to_string(),
        alerts: moved.alerts,
        bindings: moved.bindings,
    }))
}

/// Cancels the promotion to this version that is under way: its alerts stay on the versions that they are on, and are
/// evaluated on without a gap. The request that promotes answers 409.
#[utoipa::path(delete, path = "/api/v1/rules/{name}/versions/{version}/promote",
    operation_id = "cancel_promotion", tag = "rules",
    params(
        ("name" = String, Path, description = "The rule's name"),
        ("version" = String, Path, description = "The version that alerts are moving to"),
    ),
    responses(
        (status = 200, body = CancelledBody, description = "It is cancelled"),
        BadRequest,
        (status = 404, description = "No promotion to this version is under way"),
        (status = 503, description = "A backend is away"),
    ),
)]
async fn cancel(
    State(served): State<Served>,
    UrlPath((name, version)): UrlPath<(String, String)>,
    query: Query,
) -> Result<Json<CancelledBody>, Problem> {
    query.finish()?;
    let CancelledPromotion { rule, given_back } =
        served.api.control.cancel_promotion(&served.api.tenant, &name, &version).await?;
    Ok(Json(CancelledBody { name: rule.name.to_string(), version: rule.version.to_string(), given_back }))
}
