//! GoStocks' routes, as its clients know them member for member; its `/health` is in `status`.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use tocsin_engine::domain::{Alert, BindingStatus, Symbol};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Served;
use super::extract::{self, Body, Query, UrlPath};
use super::json_reader::JsonReader;
use super::problem::{Kind, Problem};
use crate::api;
use crate::control::{Condition, CreatePriceAlert};
use crate::wire::ProblemBody;

pub(super) fn routes() -> OpenApiRouter<Served> {
    OpenApiRouter::new().routes(routes!(price)).routes(routes!(create_alert, list_alerts))
}

#[derive(Serialize, ToSchema)]
struct PriceBody {
    symbol: String,
    price: f64,
    /// Event time of the newest trade, Unix milliseconds.
    timestamp: i64,
}

#[derive(Serialize, ToSchema)]
struct UnknownPriceBody {
    error: &'static str,
    symbol: String,
}

/// JsonReader that GoStocks does not know are ignored, as there.
#[derive(ToSchema)]
struct CreatePriceAlertBody {
    /// From 1.
    #[schema(required)]
    user_id: Option<i64>,
    /// Upper-cased.
    #[schema(required)]
    symbol: Option<String>,
    /// Greater than 0.
    #[schema(required)]
    target_price: Option<f64>,
    /// `ABOVE` or `BELOW`.
    #[schema(required, value_type = Option<String>)]
    condition: Option<Condition>,
}

#[derive(Serialize, ToSchema)]
struct CreatedPriceAlertBody {
    alert_id: i64,
    message: String,
}

#[derive(Serialize, ToSchema)]
struct PriceAlertsBody {
    alerts: Vec<PriceAlertBody>,
    count: usize,
}

#[derive(Serialize, ToSchema)]
struct PriceAlertBody {
    id: i64,
    user_id: i32,
    symbol: String,
    target_price: f64,
    /// `ABOVE` or `BELOW`.
    condition: &'static str,
    triggered: bool,
    /// Unix seconds.
    created_at: i64,
}

/// The newest price of a symbol.
#[utoipa::path(get, path = "/price/{symbol}", operation_id = "get_price", tag = "gostocks",
    params(("symbol" = String, Path, description = "In any case; may hold `:` and spaces, percent-encoded")),
    responses(
        (status = 200, body = PriceBody, description = "The price of the last trade"),
        (status = 404, body = UnknownPriceBody, description = "No trade of the symbol was seen yet"),
        (status = 503, body = ProblemBody, content_type = "application/json", description = "Redis is away"),
    ),
)]
async fn price(State(served): State<Served>, uri: Uri, symbol: Result<UrlPath<String>, Problem>) -> Response {
    // A path that is not UTF-8 names no symbol; it is answered as it came.
    let text = symbol.map_or_else(|_| uri.path().trim_start_matches("/price/").to_owned(), |UrlPath(text)| text);
    let unknown = |symbol: String| {
        (StatusCode::NOT_FOUND, Json(UnknownPriceBody { error: "symbol not found", symbol })).into_response()
    };
    let Ok(symbol) = Symbol::parse(&text) else { return unknown(text.to_uppercase()) };
    match served.api.prices.get(&symbol).await {
        Ok(Some(price)) => {
            let symbol = symbol.as_str().to_owned();
            Json(PriceBody { symbol, price: price.price, timestamp: price.time_ms }).into_response()
        }
        Ok(None) => unknown(symbol.as_str().to_owned()),
        Err(error) => Problem::new(Kind::Unavailable, error.to_string()).into_plain_response(),
    }
}

/// Creates a price alert: it fires once, when the price reaches the target.
#[utoipa::path(post, path = "/alerts", operation_id = "create_price_alert", tag = "gostocks",
    request_body = CreatePriceAlertBody, responses(
    (status = 201, body = CreatedPriceAlertBody, description = "It was created"),
    (status = 400, body = ProblemBody, content_type = "application/json",
        description = "The request is wrong: `violations` lists all that is"),
    (status = 413, body = ProblemBody, content_type = "application/json",
        description = "The body is larger than this route takes: `detail` has the limit"),
))]
async fn create_alert(State(served): State<Served>, body: Result<Body, Problem>) -> Response {
    match create_price_alert(&served, body).await {
        Ok(created) => (StatusCode::CREATED, Json(created)).into_response(),
        Err(problem) => problem.into_plain_response(),
    }
}

async fn create_price_alert(served: &Served, body: Result<Body, Problem>) -> Result<CreatedPriceAlertBody, Problem> {
    let request = CreatePriceAlertBody::read(extract::json(&body?.0)?);
    let alert = served.api.control.create_price_alert(&served.api.tenant, request).await?;
    served.api.note_unserved(&alert);
    let alert = PriceAlertBody::from_alert(&alert)?;
    let message = api::price_alert_message(&alert.symbol, alert.condition, alert.target_price);
    Ok(CreatedPriceAlertBody { alert_id: alert.id, message })
}

/// Price alerts.
#[utoipa::path(get, path = "/alerts", operation_id = "list_price_alerts", tag = "gostocks",
    params(
        ("user_id" = Option<i32>, Query, description = "Only those of one user"),
        ("active_only" = Option<String>, Query, description = "`true` or `1`: only those that have not fired"),
    ),
    responses(
        (status = 200, body = PriceAlertsBody, description = "All of them: this list has no pages"),
        (status = 400, description = "`{\"error\":\"invalid user_id\"}`"),
    ),
)]
async fn list_alerts(State(served): State<Served>, mut query: Query) -> Response {
    let user_id = match query.text("user_id").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => match text.parse().ok().filter(|user_id| *user_id > 0) {
            Some(user_id) => Some(user_id),
            None => return (StatusCode::BAD_REQUEST, Json(json!({"error": "invalid user_id"}))).into_response(),
        },
    };
    let active_only = matches!(query.text("active_only").as_deref(), Some("true" | "1"));
    let found = served.api.control.price_alerts(&served.api.tenant, user_id, active_only).await;
    let bodies =
        found.map_err(Problem::from).and_then(|alerts| alerts.iter().map(PriceAlertBody::from_alert).collect());
    match bodies {
        Ok(alerts) => {
            let alerts: Vec<PriceAlertBody> = alerts;
            Json(PriceAlertsBody { count: alerts.len(), alerts }).into_response()
        }
        Err(problem) => problem.into_plain_response(),
    }
}

impl CreatePriceAlertBody {
    fn read(mut reader: JsonReader) -> CreatePriceAlert {
        reader.require(&["user_id", "symbol", "target_price", "condition"]);
        let body = Self {
            user_id: reader.whole_number("user_id"),
            symbol: reader.text("symbol"),
            target_price: reader.number("target_price"),
            condition: reader.one_of("condition", &Condition::ALL.map(|condition| (condition.as_str(), condition))),
        };
        let Self { user_id, symbol, target_price, condition } = body;
        CreatePriceAlert { user_id, symbol, target_price, condition, violations: reader.into_violations() }
    }
}

impl PriceAlertBody {
    fn from_alert(alert: &Alert) -> Result<Self, Problem> {
        let (Some((condition, target_price)), [binding]) = (Condition::of(alert), alert.bindings.as_slice()) else {
            return Err(super::problem::internal(&format!("alert {} is not a price alert", alert.id.0)));
        };
        Ok(Self {
            id: alert.id.0,
            user_id: alert.user.0,
            symbol: binding.symbol.as_str().to_owned(),
            target_price,
            condition: condition.as_str(),
            triggered: binding.status == BindingStatus::Triggered,
            created_at: alert.created_at_ms.div_euclid(1000),
        })
    }
}
