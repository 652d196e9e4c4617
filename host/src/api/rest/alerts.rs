//! `/api/v1/alerts`: creating, reading and deleting alerts.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use tocsin_engine::domain::{Alert, Binding, BindingStatus, Lifecycle, Repeat};
use tocsin_store::Idempotency;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Served;
use super::extract::{self, Body, Query, UrlPath, rfc3339};
use super::json_reader::JsonReader;
use super::openapi::{AlertParam, BadBody, BadRequest, PageParams};
use super::problem::{Problem, internal};
use crate::control::{AlertQuery, CreateAlert, FieldViolation};
use crate::wire::{AlertBody, AlertsBody, BindingBody, LifecycleBody, RepeatBody};

/// The header by which a client may repeat a request without creating a second alert.
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

pub(super) fn routes() -> OpenApiRouter<Served> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(read, delete))
}

#[derive(ToSchema)]
#[schema(as = CreateAlert)]
struct CreateAlertBody {
    /// From 1.
    #[schema(required)]
    user_id: Option<i64>,
    /// 1 to 100, each once; each is a binding of its own.
    #[schema(required)]
    symbols: Option<Vec<String>>,
    /// The rule's name.
    #[schema(required)]
    rule: Option<String>,
    /// A semantic version, fixed at creation. If absent, the newest release; a pre-release only where there is none.
    version: Option<String>,
    /// Params that satisfy the schema of the rule's manifest.
    #[schema(value_type = Option<Object>)]
    params: Option<Value>,
    lifecycle: Option<LifecycleBody>,
}

impl LifecycleBody {
    fn read(reader: &mut JsonReader) -> Self {
        Self { repeat: reader.one_of("repeat", &[("once", RepeatBody::Once), ("every", RepeatBody::Every)]) }
    }

    fn into_lifecycle(self) -> Lifecycle {
        let repeat = match self.repeat {
            None => Repeat::default(),
            Some(RepeatBody::Once) => Repeat::Once,
            Some(RepeatBody::Every) => Repeat::Every,
        };
        Lifecycle { repeat }
    }

    fn from_lifecycle(lifecycle: Lifecycle) -> Self {
        let repeat = match lifecycle.repeat {
            Repeat::Once => RepeatBody::Once,
            Repeat::Every => RepeatBody::Every,
        };
        Self { repeat: Some(repeat) }
    }
}

impl AlertBody {
    pub(super) fn from_alert(alert: Alert) -> Result<Self, Problem> {
        Ok(Self {
            id: alert.id.0,
            user_id: alert.user.0,
            rule: alert.rule.name.to_string(),
            version: alert.rule.version.to_string(),
            digest: alert.rule.digest.to_string(),
            params: RawValue::from_string(alert.params.json).map_err(|error| internal(&error))?,
            lifecycle: LifecycleBody::from_lifecycle(alert.lifecycle),
            created_at: rfc3339(alert.created_at_ms)?,
            bindings: alert.bindings.into_iter().map(BindingBody::from_binding).collect(),
            unserved: Vec::new(),
        })
    }
}

impl BindingBody {
    fn from_binding(binding: Binding) -> Self {
        let (status, reason) = match binding.status {
            BindingStatus::Active => ("active", None),
            BindingStatus::Triggered => ("triggered", None),
            BindingStatus::Quarantined(reason) => ("quarantined", Some(reason)),
        };
        Self {
            symbol: binding.symbol.as_str().to_owned(),
            status: status.into(),
            reason,
            suppressed: binding.suppressed,
        }
    }
}

/// Creates an alert. It takes effect within milliseconds and counts the ticks that are published from then on.
#[utoipa::path(post, path = "/api/v1/alerts",
    operation_id = "create_alert", tag = "alerts", request_body = CreateAlertBody,
    params(("Idempotency-Key" = Option<String>, Header,
        description = "A repeat of the request with the same key answers 200 with the alert that it created before")),
    responses(
        (status = 201, body = AlertBody, description = "It was created",
            headers(("Location" = String, description = "The alert"))),
        (status = 200, body = AlertBody, description = "An earlier request with this Idempotency-Key created it"),
        (status = 400, description = "`violations` lists all that is wrong, params by their path (`params.percent`)"),
        (status = 403, description = "There would be more live bindings of the tenant or the rule version than may be"),
        (status = 404, description = "There is no such rule, or it has no such version"),
        (status = 409, description = "The Idempotency-Key was used for another request, or the rule is impure and no longer evaluated"),
        BadBody,
    ),
)]
async fn create(
    State(served): State<Served>,
    headers: HeaderMap,
    body: Result<Body, Problem>,
) -> Result<Response, Problem> {
    extract::content_type(&headers, &["application/json"])?;
    let Body(bytes) = body?;
    let (body, violations) = CreateAlertBody::read(extract::json(&bytes)?);
    let key = extract::header_text(&headers, IDEMPOTENCY_KEY)?;
    let idempotency = key.map(|key| Idempotency { key, fingerprint: Sha256::digest(&bytes).into() });
    let request = body.into_request(idempotency, violations);
    let (alert, created) = served.api.control.create_alert(&served.api.tenant, request).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let location = format!("/api/v1/alerts/{}", alert.id.0);
    let unserved = served.api.note_unserved(&alert).iter().map(ToString::to_string).collect();
    let body = AlertBody { unserved, ..AlertBody::from_alert(alert)? };
    Ok((status, [(header::LOCATION, location)], Json(body)).into_response())
}

impl CreateAlertBody {
    /// The members, and what is wrong with their types.
    fn read(mut reader: JsonReader) -> (Self, Vec<FieldViolation>) {
        reader.require(&["user_id", "symbols", "rule"]);
        let body = Self {
            user_id: reader.whole_number("user_id"),
            symbols: reader.texts("symbols"),
            rule: reader.text("rule"),
            version: reader.text("version"),
            params: reader.value("params"),
            lifecycle: reader.object("lifecycle", LifecycleBody::read),
        };
        reader.refuse_unknown();
        (body, reader.into_violations())
    }

    fn into_request(self, idempotency: Option<Idempotency>, violations: Vec<FieldViolation>) -> CreateAlert {
        CreateAlert {
            user_id: self.user_id,
            symbols: self.symbols,
            rule: self.rule,
            version: self.version,
            params: Some(self.params.unwrap_or_else(|| Value::Object(serde_json::Map::new()))),
            lifecycle: self.lifecycle.map(LifecycleBody::into_lifecycle).unwrap_or_default(),
            idempotency,
            violations,
        }
    }
}

/// Alerts in the order of their creation.
#[utoipa::path(get, path = "/api/v1/alerts", operation_id = "list_alerts", tag = "alerts",
    params(
        ("user_id" = Option<i32>, Query, description = "Only those of one user"),
        ("active_only" = Option<bool>, Query, description = "Only those with an active binding"),
        PageParams,
    ),
    responses(
        (status = 200, body = AlertsBody, description = "A page of alerts"),
        BadRequest,
    ),
)]
async fn list(State(served): State<Served>, mut query: Query) -> Result<Json<AlertsBody>, Problem> {
    let asked = AlertQuery {
        user_id: query.parsed("user_id", "a whole number"),
        active_only: query.flag("active_only"),
        after: query.text("after"),
        limit: query.limit(),
    };
    query.finish()?;
    let page = served.api.control.alerts(&served.api.tenant, asked).await?;
    let alerts = page.items.into_iter().map(AlertBody::from_alert).collect::<Result<_, _>>()?;
    Ok(Json(AlertsBody { alerts, next: page.next }))
}

/// An alert.
#[utoipa::path(get, path = "/api/v1/alerts/{id}", operation_id = "get_alert", tag = "alerts",
    params(AlertParam),
    responses(
        (status = 200, body = AlertBody, description = "The alert"),
        BadRequest,
        (status = 404, description = "There is no such alert"),
    ),
)]
async fn read(
    State(served): State<Served>,
    UrlPath(id): UrlPath<String>,
    query: Query,
) -> Result<Json<AlertBody>, Problem> {
    query.finish()?;
    let alert = served.api.control.alert(&served.api.tenant, extract::id("id", &id)?).await?;
    Ok(Json(AlertBody::from_alert(alert)?))
}

/// Ends an alert; its firings stay.
#[utoipa::path(delete, path = "/api/v1/alerts/{id}", operation_id = "delete_alert", tag = "alerts",
    params(AlertParam),
    responses(
        (status = 204, description = "Deleted"),
        BadRequest,
        (status = 404, description = "There is no such alert"),
    ),
)]
async fn delete(
    State(served): State<Served>,
    UrlPath(id): UrlPath<String>,
    query: Query,
) -> Result<StatusCode, Problem> {
    query.finish()?;
    served.api.control.delete_alert(&served.api.tenant, extract::id("id", &id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
