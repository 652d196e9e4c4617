//! GoStocks' and the trading app's routes, as their clients see them.

use serde_json::json;
use tocsin_prices::samples::record;

use super::*;
use crate::api::fixture::{MAX_CONNECTIONS, MAX_STREAMS};

#[tokio::test]
async fn health_has_the_members_of_gostocks_and_more() {
    let server = fixture().await;
    let expect = json!({
        "status": "ok", "service": "gateway", "roles": ["api"], "backends": {},
        "feed": "none", "feed_connected": false, "feed_rejected": {},
        "connections": {"open": 0, "max": MAX_CONNECTIONS, "evicted": 0, "refused": 0, "accept_failures": 0},
        "streams": {"open": 0, "max": MAX_STREAMS, "refused": 0},
    });
    let reply = server.get("/health").await;
    assert_eq!((reply.status, reply.json()), (StatusCode::OK, expect));
    assert_eq!(server.get("/ready").await.json(), json!({"ready": true, "problems": []}));

    server.backends.api.status.health.component("evaluate").fail("evaluation has stopped");
    let reply = server.get("/health").await;
    assert_eq!((reply.status, reply.json()["status"].clone()), (StatusCode::SERVICE_UNAVAILABLE, json!("unavailable")));
    assert_eq!(reply.json()["problems"], json!(["evaluation has stopped"]));
    assert_eq!(server.get("/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_price_is_found_by_any_spelling_of_its_symbol() {
    let server = fixture().await;
    let ticks = ["AAPL", "IC MARKETS:1"].map(|name| record(name, 0, 0, 150.25, 1.0, 1_700_000_000_000));
    server.backends.api.prices.apply(&ticks).await.unwrap();
    for (path, name) in
        [("aapl", "AAPL"), ("AAPL", "AAPL"), ("IC%20MARKETS:1", "IC MARKETS:1"), ("ic%20markets%3A1", "IC MARKETS:1")]
    {
        let reply = server.get(&format!("/price/{path}")).await;
        let expect = json!({"symbol": name, "price": 150.25, "timestamp": 1_700_000_000_000_i64});
        assert_eq!((reply.status, reply.json()), (StatusCode::OK, expect));
    }
}

#[tokio::test]
async fn a_missing_price_is_404_whatever_the_symbol() {
    let server = fixture().await;
    let long = "X".repeat(4096);
    for (path, name) in
        [("x", "X"), ("%F0%9F%9A%80", "🚀"), (&long, &long), ("%20", " "), ("%FF", "%FF"), ("a%2Fb", "A/B")]
    {
        let reply = server.get(&format!("/price/{path}")).await;
        let expect = json!({"error": "symbol not found", "symbol": name});
        assert_eq!((reply.status, reply.json()), (StatusCode::NOT_FOUND, expect));
    }
}

#[tokio::test]
async fn price_alerts_are_created_and_listed_as_gostocks_does() {
    let server = fixture().await;
    let wanted =
        json!({"user_id": 1, "symbol": "aapl", "target_price": 150.00, "condition": "ABOVE", "note": "ignored"});
    // GoStocks' clients need not say what they send.
    let reply = server.call("POST", "/alerts", &[], wanted.to_string()).await;
    let expect = json!({"alert_id": 1, "message": "Alert created: AAPL ABOVE $150.00"});
    assert_eq!((reply.status, reply.json()), (StatusCode::CREATED, expect));
    let other = json!({"user_id": 2, "symbol": "X", "target_price": 0.005, "condition": "BELOW"});
    assert_eq!(server.post_json("/alerts", &other).await.json()["message"], "Alert created: X BELOW $0.01");
    server.fire(1, 7).await;

    let alert = |id, user, symbol, target: f64, condition, triggered| {
        json!({"id": id, "user_id": user, "symbol": symbol, "target_price": target, "condition": condition,
               "triggered": triggered, "created_at": 1_700_000_000})
    };
    let fired = alert(1, 1, "AAPL", 150.0, "ABOVE", true);
    let armed = alert(2, 2, "X", 0.005, "BELOW", false);
    for (query, expect) in [
        ("", vec![&fired, &armed]),
        ("?user_id=1", vec![&fired]),
        ("?user_id=", vec![&fired, &armed]),
        ("?user_id=1&active_only=true", vec![]),
        ("?active_only=1", vec![&armed]),
        ("?active_only=no&more=ignored", vec![&fired, &armed]),
    ] {
        let reply = server.get(&format!("/alerts{query}")).await;
        assert_eq!((reply.status, reply.json()), (StatusCode::OK, json!({"alerts": expect, "count": expect.len()})));
    }
}

#[tokio::test]
async fn a_bad_user_is_refused_in_gostocks_words() {
    let server = fixture().await;
    for user in ["x", "0", "-1", "1.5", "2147483648", "NaN", "null", "%FF", "9".repeat(100).as_str()] {
        let reply = server.get(&format!("/alerts?user_id={user}")).await;
        assert_eq!((reply.status, reply.text().as_str()), (StatusCode::BAD_REQUEST, r#"{"error":"invalid user_id"}"#));
    }
}

#[tokio::test]
async fn tickers_are_lower_case_and_trades_need_an_upgrade() {
    let server = fixture().await;
    assert_eq!(server.get("/api/v1/tickers").await.json(), json!(["btcusdt", "ic markets:1"]));
    for ticker in ["btcusdt", "unknown", "%FF"] {
        let reply = server.get(&format!("/ws/trades/{ticker}")).await;
        let expect = r#"{"error":"WebSocket upgrade required"}"#;
        assert_eq!((reply.status, reply.text().as_str()), (StatusCode::BAD_REQUEST, expect));
    }
}

#[tokio::test]
async fn any_origin_may_call_this_machine_and_no_other() {
    let server = fixture().await;
    let ask = [("origin", "https://example.org"), ("access-control-request-method", "PATCH")];
    let reply = server.call("OPTIONS", "/alerts", &ask, "").await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (StatusCode::OK, "*"));
    assert_eq!(reply.header("access-control-allow-methods"), "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS");
    assert_eq!(reply.header("access-control-allow-headers"), "*");
    let request = Request::get("/health").header("host", "evil.example").body(Body::empty()).unwrap();
    assert_eq!(server.router.clone().oneshot(request).await.unwrap().status(), StatusCode::FORBIDDEN);
}
