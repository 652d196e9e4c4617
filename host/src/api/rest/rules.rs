//! `/api/v1/rules`: uploading and reading rules.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::value::RawValue;
use tocsin_engine::domain::RuleVersion;
use tocsin_engine::limits::MAX_MODULE_BYTES;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{self, Body, Query, UrlPath, rfc3339};
use super::openapi::{BadBody, BadRequest, PageParams, VersionParams};
use super::problem::{Problem, internal};
use super::{Served, etag};
use crate::wire::{RuleBody, RuleQuarantineBody, RuleWithVersionsBody, RulesBody, VersionBody};

/// What a module may be sent as.
const MODULE_TYPES: [&str; 2] = ["application/wasm", "application/octet-stream"];

pub(super) fn routes() -> OpenApiRouter<Served> {
    // The limit goes by route: GET has no body that it could matter for.
    let upload_and_list =
        OpenApiRouter::new().routes(routes!(upload, list)).layer(extract::body_limit(MAX_MODULE_BYTES));
    upload_and_list.routes(routes!(newest)).routes(routes!(version)).routes(routes!(module))
}

impl RuleBody {
    fn from_rule(rule: RuleVersion) -> Result<Self, Problem> {
        let quarantine = rule.quarantine.map(|quarantine| {
            Ok::<_, Problem>(RuleQuarantineBody { reason: quarantine.reason, at: rfc3339(quarantine.at_ms)? })
        });
        Ok(Self {
            name: rule.reference.name.to_string(),
            version: rule.reference.version.to_string(),
            digest: rule.reference.digest.to_string(),
            manifest: RawValue::from_string(rule.manifest).map_err(|error| internal(&error))?,
            created_at: rfc3339(rule.created_at_ms)?,
            quarantine: quarantine.transpose()?,
        })
    }
}

/// Uploads a rule: the body is the module, at most 1 MiB.
#[utoipa::path(post, path = "/api/v1/rules", operation_id = "upload_rule", tag = "rules",
    request_body(content((Vec<u8> = "application/wasm"), (Vec<u8> = "application/octet-stream"))),
    responses(
        (status = 201, body = RuleBody, description = "The version is new",
            headers(("Location" = String, description = "The stored version"))),
        (status = 200, body = RuleBody, description = "These very bytes were stored before; `quarantine` says whether they are impure"),
        (status = 409, description = "Name and version are taken by other bytes"),
        BadBody,
        (status = 422, description = "The module is no rule: `violations` lists all that is wrong with it"),
        (status = 503, description = "Too many modules wait for the compiler, or a backend is away",
            headers(("Retry-After" = u64, description = "Seconds; where too many wait"))),
    ),
)]
async fn upload(
    State(served): State<Served>,
    headers: HeaderMap,
    body: Result<Body, Problem>,
) -> Result<Response, Problem> {
    extract::content_type(&headers, &MODULE_TYPES)?;
    let upload = served.api.control.upload_rule(&served.api.tenant, body?.0.into()).await?;
    let status = if upload.created { StatusCode::CREATED } else { StatusCode::OK };
    // Versions may hold a plus sign, which is itself in a path.
    let reference = &upload.rule.reference;
    let location = format!("/api/v1/rules/{}/versions/{}", reference.name, reference.version);
    Ok((status, [(header::LOCATION, location)], Json(RuleBody::from_rule(upload.rule)?)).into_response())
}

/// The newest version of every rule, by name.
#[utoipa::path(get, path = "/api/v1/rules", operation_id = "list_rules", tag = "rules",
    params(
        PageParams,
    ),
    responses(
        (status = 200, body = RulesBody, description = "A page of rules, each in its newest version"),
        BadRequest,
    ),
)]
async fn list(State(served): State<Served>, mut query: Query) -> Result<Json<RulesBody>, Problem> {
    let (after, limit) = (query.text("after"), query.limit());
    query.finish()?;
    let page = served.api.control.rules(&served.api.tenant, after.as_deref(), limit).await?;
    let rules = page.items.into_iter().map(RuleBody::from_rule).collect::<Result<_, _>>()?;
    Ok(Json(RulesBody { rules, next: page.next }))
}

/// The newest version of a rule.
#[utoipa::path(get, path = "/api/v1/rules/{name}", operation_id = "get_rule", tag = "rules",
    params(("name" = String, Path, description = "The rule's name")),
    responses(
        (status = 200, body = RuleWithVersionsBody, description = "The newest version, and the names of all"),
        BadRequest,
        (status = 404, description = "There is no such rule"),
    ),
)]
async fn newest(
    State(served): State<Served>,
    UrlPath(name): UrlPath<String>,
    query: Query,
) -> Result<Json<RuleWithVersionsBody>, Problem> {
    query.finish()?;
    let rules = served.api.control.rule_versions(&served.api.tenant, &name).await?;
    let versions = rules.iter().map(|rule| {
        Ok(VersionBody {
            version: rule.reference.version.to_string(),
            digest: rule.reference.digest.to_string(),
            created_at: rfc3339(rule.created_at_ms)?,
            quarantined: rule.quarantine.is_some(),
        })
    });
    let versions = versions.collect::<Result<_, Problem>>()?;
    let newest = RuleVersion::newest(rules).ok_or_else(|| internal(&"a rule without versions"))?;
    Ok(Json(RuleWithVersionsBody { newest: RuleBody::from_rule(newest)?, versions }))
}

/// One version of a rule.
#[utoipa::path(get, path = "/api/v1/rules/{name}/versions/{version}",
    operation_id = "get_rule_version", tag = "rules",
    params(
        VersionParams,
    ),
    responses(
        (status = 200, body = RuleBody, description = "The version"),
        BadRequest,
        (status = 404, description = "There is no such rule or version"),
    ),
)]
async fn version(
    State(served): State<Served>,
    UrlPath((name, version)): UrlPath<(String, String)>,
    query: Query,
) -> Result<Json<RuleBody>, Problem> {
    query.finish()?;
    let rule = served.api.control.rule(&served.api.tenant, &name, Some(&version)).await?;
    Ok(Json(RuleBody::from_rule(rule)?))
}

/// The module of a rule version. It never changes: its ETag is its digest.
#[utoipa::path(get, path = "/api/v1/rules/{name}/versions/{version}/module",
    operation_id = "get_rule_module", tag = "rules",
    params(
        VersionParams,
        ("If-None-Match" = Option<String>, Header, description = "ETags of modules that the client has"),
    ),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/wasm", description = "The module",
            headers(("ETag" = String, description = "The module's digest"))),
        (status = 304, description = "The client has it"),
        BadRequest,
        (status = 404, description = "There is no such rule or version"),
    ),
)]
async fn module(
    State(served): State<Served>,
    UrlPath((name, version)): UrlPath<(String, String)>,
    headers: HeaderMap,
    query: Query,
) -> Result<Response, Problem> {
    query.finish()?;
    let (control, tenant) = (&served.api.control, &served.api.tenant);
    let rule = control.rule(tenant, &name, Some(&version)).await?;
    let module = async {
        let bytes = control.rule_module(tenant, &rule.reference).await?;
        Ok(([(header::CONTENT_TYPE, "application/wasm")], bytes))
    };
    etag::answer(&headers, rule.reference.digest, module).await
}
