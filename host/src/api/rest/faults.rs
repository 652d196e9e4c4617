//! Faults of an alert, the bundle that reproduces one, and the release of what they have quarantined.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::value::RawValue;
use tocsin_store::{FaultRecord, StoredBundle};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Served;
use super::extract::{self, Body, Query, UrlPath};
use super::json_reader::JsonReader;
use super::openapi::{AlertParam, BadBody, BadRequest, PageParams};
use super::problem::{Problem, internal};
use crate::wire::{
    AlertBody, BUNDLE_FORMAT, BundleBody, BundleFaultBody, BundleRuleBody, BundleTickBody, FaultBody, FaultsBody,
};

pub(super) fn routes() -> OpenApiRouter<Served> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(bundle)).routes(routes!(release))
}

#[derive(ToSchema)]
#[schema(as = Release)]
struct ReleaseBody {
    /// Only the binding on this symbol.
    symbol: Option<String>,
}

impl ReleaseBody {
    fn read(mut reader: JsonReader) -> Result<Self, Problem> {
        let body = Self { symbol: reader.text("symbol") };
        reader.finish()?;
        Ok(body)
    }
}

impl FaultBody {
    fn from_record(record: FaultRecord) -> Self {
        let FaultRecord { id, alert, rule, tick, position, fault, quarantined } = record;
        Self {
            id: id.to_string(),
            alert_id: alert.0,
            kind: fault.kind().into(),
            fault: fault.to_string(),
            quarantined,
            symbol: tick.symbol.as_str().to_owned(),
            price: tick.price,
            volume: tick.volume,
            timestamp: tick.time_ms,
            partition: position.partition,
            offset: position.offset,
            rule: rule.name.to_string(),
            version: rule.version.to_string(),
            digest: rule.digest.to_string(),
        }
    }
}

impl BundleBody {
    fn from_stored(stored: StoredBundle) -> Result<Self, Problem> {
        let StoredBundle { alert, bundle, module, params_json } = stored;
        let (rule, tick, fault) = (bundle.rule, bundle.tick, bundle.fault);
        Ok(Self {
            format: BUNDLE_FORMAT,
            rule: BundleRuleBody {
                name: rule.name.to_string(),
                version: rule.version.to_string(),
                digest: rule.digest.to_string(),
                module: BASE64.encode(module),
            },
            params: hex::encode(bundle.params),
            params_json: RawValue::from_string(params_json).map_err(|error| internal(&error))?,
            state: hex::encode(bundle.state),
            tick: BundleTickBody {
                symbol: tick.symbol.as_str().to_owned(),
                price: tick.price,
                volume: tick.volume,
                timestamp: tick.time_ms,
                conditions: tick.conditions.0,
            },
            partition: bundle.position.partition,
            offset: bundle.position.offset,
            fuel: bundle.fuel,
            fault: BundleFaultBody { kind: fault.kind().into(), detail: fault.detail(), text: fault.to_string() },
            alert_id: alert.0,
        })
    }
}

/// The faults of an alert, oldest first: the newest 16 of each symbol are kept, as long as there are not too many in all.
#[utoipa::path(get, path = "/api/v1/alerts/{id}/faults", operation_id = "list_faults", tag = "faults",
    params(
        AlertParam,
        PageParams,
    ),
    responses(
        (status = 200, body = FaultsBody, description = "A page of faults"),
        BadRequest,
        (status = 404, description = "There is no such alert"),
    ),
)]
async fn list(
    State(served): State<Served>,
    UrlPath(id): UrlPath<String>,
    mut query: Query,
) -> Result<Json<FaultsBody>, Problem> {
    let (after, limit) = (query.text("after"), query.limit());
    query.finish()?;
    let alert = extract::id("id", &id)?;
    let page = served.api.control.faults(&served.api.tenant, alert, after.as_deref(), limit).await?;
    let faults = page.items.into_iter().map(FaultBody::from_record).collect();
    Ok(Json(FaultsBody { faults, next: page.next }))
}

/// All that decided a fault, the rule's module included: save it and give it to `tocsin rule reproduce`.
#[utoipa::path(get, path = "/api/v1/faults/{id}/bundle", operation_id = "get_fault_bundle", tag = "faults",
    params(("id" = String, Path, description = "The fault's id")),
    responses(
        (status = 200, body = BundleBody, description = "The bundle"),
        BadRequest,
        (status = 404, description = "There is no such fault, or newer ones have displaced it"),
    ),
)]
async fn bundle(
    State(served): State<Served>,
    UrlPath(id): UrlPath<String>,
    query: Query,
) -> Result<Json<BundleBody>, Problem> {
    query.finish()?;
    let stored = served.api.control.fault_bundle(&served.api.tenant, &id).await?;
    Ok(Json(BundleBody::from_stored(stored)?))
}

/// Releases an alert from quarantine, on all its symbols or on one: it is evaluated again within milliseconds, on probe.
/// One good evaluation ends the probe, one fault quarantines it again. The body may be left out.
#[utoipa::path(post, path = "/api/v1/alerts/{id}/release",
    operation_id = "release_alert", tag = "faults", request_body = Option<ReleaseBody>,
    params(AlertParam),
    responses(
        (status = 200, body = AlertBody, description = "The alert as it is now"),
        BadRequest,
        (status = 404, description = "There is no such alert"),
        (status = 409, description = "Nothing of it is quarantined, or its rule is impure and no longer evaluated"),
        BadBody,
    ),
)]
async fn release(
    State(served): State<Served>,
    UrlPath(id): UrlPath<String>,
    query: Query,
    headers: HeaderMap,
    body: Result<Body, Problem>,
) -> Result<Json<AlertBody>, Problem> {
    query.finish()?;
    let alert = extract::id("id", &id)?;
    let ReleaseBody { symbol } = ReleaseBody::read(extract::json_if_any(&headers, &body?)?)?;
    let alert = served.api.control.release_alert(&served.api.tenant, alert, symbol.as_deref()).await?;
    Ok(Json(AlertBody::from_alert(alert)?))
}
