//! Candles of a symbol, in pages.

use std::str::FromStr;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::Serialize;
use tocsin_engine::domain::Symbol;
use tocsin_prices::{Candle, Interval, Span};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Served;
use super::extract::{Query, UrlPath, rfc3339};
use super::openapi::BadRequest;
use super::problem::{Kind, Problem};

/// The most candles of a page: 1,000 are some 150 KB, and a chart shows no more.
const MAX_CANDLES: usize = 1_000;

/// Candles of a page where no limit is given.
const DEFAULT_CANDLES: usize = 500;

/// What a time must be, for messages.
const TIME: &str = "a time such as 2024-08-09T12:00:00Z (RFC 3339; + is written %2B)";

pub(super) fn routes() -> OpenApiRouter<Served> {
    OpenApiRouter::new().routes(routes!(list))
}

#[derive(Serialize, ToSchema)]
#[schema(as = CandlesPage)]
struct CandlesBody {
    symbol: String,
    /// `1s`, `1m`, `5m` or `1h`.
    interval: &'static str,
    /// By their start, the earliest first. An interval without a tick has none.
    candles: Vec<CandleBody>,
    /// What to give as `after` for the next page; null on the last.
    next: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Candle)]
struct CandleBody {
    /// Where the interval begins: a multiple of its length since 1970.
    start: String,
    /// Price of the first tick by event time; of equal times, of the one that arrived first.
    open: f64,
    /// The highest price.
    high: f64,
    /// The lowest price.
    low: f64,
    /// Price of the last tick by event time; of equal times, of the one that arrived last.
    close: f64,
    /// Sum of the volumes.
    volume: f64,
    /// Sum of price times volume by the sum of volume; null where the volume is 0.
    #[schema(required)]
    vwap: Option<f64>,
    /// Ticks with a volume: those without are price updates.
    trades: u64,
}

impl CandleBody {
    fn from_candle(candle: &Candle) -> Result<Self, Problem> {
        Ok(Self {
            start: rfc3339(candle.start_ms)?,
            open: candle.open.price,
            high: candle.high,
            low: candle.low,
            close: candle.close.price,
            volume: candle.volume,
            vwap: candle.vwap(),
            trades: candle.trades,
        })
    }
}

/// The parameter `interval`.
struct Named(Interval);

impl FromStr for Named {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Interval::ALL.into_iter().find(|interval| interval.label() == text).map(Self).ok_or(())
    }
}

/// The parameter `limit`.
struct Limit(usize);

impl FromStr for Limit {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse().ok().filter(|limit| (1..=MAX_CANDLES).contains(limit)).map(Self).ok_or(())
    }
}

/// What was traded of a symbol by second, minute, five minutes or hour of event time. Late ticks go into the candle of
/// their time. Of each symbol the newest 3,600, 2,880, 2,016 and 2,160 candles are kept. The last one changes for as long
/// as ticks of its time come.
#[utoipa::path(get, path = "/api/v1/candles/{symbol}", operation_id = "list_candles", tag = "candles",
    params(
        ("symbol" = String, Path, description = "In any case; may hold `:` and spaces, percent-encoded"),
        ("interval" = Option<String>, Query, description = "`1s`, `1m`, `5m` or `1h`; `1m` if absent"),
        ("from" = Option<String>, Query,
            description = "The earliest start, RFC 3339. If absent, the page has the newest candles before `to`"),
        ("to" = Option<String>, Query, description = "Starts are before this, RFC 3339"),
        ("after" = Option<String>, Query, description = "The cursor of a page; with the same other parameters"),
        ("limit" = Option<u32>, Query, description = "1 to 1,000; 500 if absent"),
    ),
    responses(
        (status = 200, body = CandlesBody, description = "A page of candles"),
        BadRequest,
        (status = 404, description = "No tick of the symbol was seen yet"),
        (status = 503, description = "Redis is away"),
    ),
)]
async fn list(
    State(served): State<Served>,
    UrlPath(symbol): UrlPath<String>,
    mut query: Query,
) -> Result<Json<CandlesBody>, Problem> {
    let interval = query.parsed::<Named>("interval", "1s, 1m, 5m or 1h").map_or(Interval::Minute, |named| named.0);
    let from = query.parsed::<Timestamp>("from", TIME).map(first_millisecond);
    let to_ms = query.parsed::<Timestamp>("to", TIME).map(first_millisecond);
    let after = query.parsed::<Timestamp>("after", TIME).map(|after| after.as_millisecond() + 1);
    let limit =
        query.parsed::<Limit>("limit", "a whole number from 1 to 1000").map_or(DEFAULT_CANDLES, |limit| limit.0);
    query.finish()?;
    let symbol = Symbol::parse(&symbol).map_err(|error| Problem::invalid("symbol", error.to_string()))?;
    if from.zip(to_ms).is_some_and(|(from_ms, to_ms)| from_ms >= to_ms) {
        return Err(Problem::invalid("to", "is not after `from`"));
    }

    let span = Span { from_ms: from.max(after), to_ms };
    // One more than fits says whether there is another page. The newest candles have none after them.
    let wanted = limit + usize::from(span.from_ms.is_some());
    let found = served.api.prices.candles(&symbol, interval, span, wanted).await;
    let found = found.map_err(|error| Problem::new(Kind::Unavailable, error.to_string()))?;
    let unknown = || Problem::new(Kind::NotFound, format!("no tick of {symbol} was seen yet"));
    let found = found.ok_or_else(unknown)?;
    let page = &found[..found.len().min(limit)];
    let last = page.last().filter(|_| page.len() < found.len());
    Ok(Json(CandlesBody {
        symbol: symbol.as_str().to_owned(),
        interval: interval.label(),
        candles: page.iter().map(CandleBody::from_candle).collect::<Result<_, _>>()?,
        next: last.map(|candle| rfc3339(candle.start_ms)).transpose()?,
    }))
}

/// The first whole millisecond that is not before a time.
fn first_millisecond(time: Timestamp) -> i64 {
    let floor = time.as_millisecond();
    floor + i64::from(time.as_nanosecond() > i128::from(floor) * 1_000_000)
}
