//! Candles, as clients see them.

use serde_json::json;
use tocsin_prices::samples::record;
use tocsin_prices::{Prices, RedisAddress, RedisPrices};

use super::*;

/// Four minutes of AAPL from 2024-08-09T12:00:00Z on, the third without a tick.
async fn with_candles() -> Fixture {
    let server = fixture().await;
    let noon_ms = 1_723_204_800_000;
    let ticks = [(0, 150.0, 1.0), (59_999, 151.0, 3.0), (60_000, 149.5, 0.0), (180_000, 152.0, 2.0)];
    let ticks = ticks.iter().zip(0..);
    let records: Vec<_> =
        ticks.map(|((after_ms, price, volume), i)| record("AAPL", 0, i, *price, *volume, noon_ms + after_ms)).collect();
    server.backends.api.prices.apply(&records).await.unwrap();
    server
}

fn starts(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let candles = reply.json()["candles"].as_array().unwrap().clone();
    candles.iter().map(|candle| candle["start"].as_str().unwrap()["2024-08-09T".len()..].to_owned()).collect()
}

#[tokio::test]
async fn candles_are_returned_with_all_their_members() {
    let server = with_candles().await;
    let reply = server.get("/api/v1/candles/aapl?limit=2&from=2024-08-09T12:00:00Z").await;
    let candle = |start: &str, [open, high, low, close]: [f64; 4], volume: f64, vwap: Option<f64>, trades: u64| {
        json!({"start": start, "open": open, "high": high, "low": low, "close": close, "volume": volume, "vwap": vwap,
               "trades": trades})
    };
    let expect = json!({
        "symbol": "AAPL",
        "interval": "1m",
        "candles": [
            candle("2024-08-09T12:00:00Z", [150.0, 151.0, 150.0, 151.0], 4.0, Some(150.75), 2),
            candle("2024-08-09T12:01:00Z", [149.5; 4], 0.0, None, 0),
        ],
        "next": "2024-08-09T12:01:00Z",
    });
    assert_eq!((reply.status, reply.json()), (StatusCode::OK, expect));
}

#[tokio::test]
async fn a_page_is_chosen_by_time_cursor_and_limit() {
    let server = with_candles().await;
    let (first, second, fourth) = ("12:00:00Z", "12:01:00Z", "12:03:00Z");
    for (query, expect, next) in [
        ("", &[first, second, fourth][..], None),
        ("?interval=1h", &["12:00:00Z"], None),
        ("?interval=5m", &["12:00:00Z"], None),
        ("?interval=1s", &["12:00:00Z", "12:00:59Z", "12:01:00Z", "12:03:00Z"], None),
        ("?limit=2", &[second, fourth], None),
        ("?limit=1&to=2024-08-09T12:03:00Z", &[second], None),
        ("?from=1970-01-01T00:00:00Z&limit=1", &[first], Some(first)),
        ("?from=1970-01-01T00:00:00Z&limit=1&after=2024-08-09T12:00:00Z", &[second], Some(second)),
        ("?from=1970-01-01T00:00:00Z&limit=1&after=2024-08-09T12:01:00Z", &[fourth], None),
        ("?after=2024-08-09T12:03:00Z", &[], None),
        ("?from=2024-08-09T12:00:00.0000001Z", &[second, fourth], None),
        ("?from=2024-08-09T14:01:00%2B02:00&to=2024-08-09T12:01:00.0000001Z", &[second], None),
        ("?to=2024-08-09T12:00:00Z", &[], None),
    ] {
        let reply = server.get(&format!("/api/v1/candles/AAPL{query}")).await;
        assert_eq!(starts(&reply), expect, "{query}");
        let next = next.map(|next| format!("2024-08-09T{next}"));
        assert_eq!(reply.json()["next"], json!(next), "{query}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let server = with_candles().await;
    for (path, field, message) in [
        ("AAPL?interval=2m", "interval", "\"2m\" is not 1s, 1m, 5m or 1h"),
        ("AAPL?from=noon", "from", "RFC 3339"),
        ("AAPL?to=2024-08-09T14:00:00+02:00", "to", "%2B"),
        ("AAPL?after=1", "after", "RFC 3339"),
        ("AAPL?limit=0", "limit", "from 1 to 1000"),
        ("AAPL?limit=1001", "limit", "from 1 to 1000"),
        ("AAPL?limit=-1", "limit", "from 1 to 1000"),
        ("AAPL?from=2024-08-09T12:00:00Z&to=2024-08-09T12:00:00Z", "to", "is not after"),
        ("AAPL?since=1", "since", "is not a parameter"),
        ("%F0%9F%9A%80", "symbol", "printable ASCII"),
        ("%FF", "symbol", "UTF-8"),
    ] {
        let reply = server.get(&format!("/api/v1/candles/{path}")).await;
        assert_eq!((reply.status, reply.header("content-type")), (StatusCode::BAD_REQUEST, "application/problem+json"));
        let violation = &reply.json()["violations"][0];
        assert_eq!(violation["field"], field, "{path}");
        assert!(violation["message"].as_str().unwrap().contains(message), "{path}: {violation}");
    }
    let reply = server.get("/api/v1/candles/x").await;
    assert_eq!((reply.status, reply.header("content-type")), (StatusCode::NOT_FOUND, "application/problem+json"));
    assert_eq!(reply.json()["detail"], "no tick of X was seen yet");
}

#[tokio::test]
async fn without_redis_prices_and_candles_are_unavailable_and_the_rest_is_not() {
    let mut backends = backends().await;
    // This port is closed.
    let away = RedisPrices::new(&RedisAddress::parse("redis://:secret@127.0.0.1:1").unwrap()).unwrap();
    backends.api.prices = Prices::Redis(away);
    tocsin_prices::health::register(&backends.api.status.health, backends.api.prices.clone());
    let router = router(Served::new(backends.api.clone(), CancellationToken::new()));
    let server = Fixture { backends, router };
    for (path, content_type) in
        [("/api/v1/candles/AAPL", "application/problem+json"), ("/price/AAPL", "application/json")]
    {
        let reply = server.get(path).await;
        assert_eq!((reply.status, reply.header("content-type")), (StatusCode::SERVICE_UNAVAILABLE, content_type));
        let detail = reply.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("Redis at 127.0.0.1:1: ") && !reply.text().contains("secret"), "{detail}");
    }
    let health = server.get("/health").await;
    assert_eq!(health.status, StatusCode::OK);
    let problem = health.json()["problems"][0].as_str().unwrap().to_owned();
    assert!(problem.starts_with("prices and candles cannot be read: Redis at 127.0.0.1:1: "), "{problem}");
    assert_eq!(server.get("/alerts").await.status, StatusCode::OK);
}
