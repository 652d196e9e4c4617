//! Faults, their bundles, release from quarantine, impure rules and caps.

use serde_json::json;
use tocsin_engine::domain::Digest;
use tocsin_engine::{Fault, FaultBundle};
use tocsin_store::NewFault;

use super::*;

impl Fixture {
    /// Records that the first binding of an alert faulted on the tick at an offset and is quarantined for it.
    async fn fault(&self, alert: i64, offset: u64) {
        let Backends { api, store, .. } = &self.backends;
        let alert = store.alert(&api.tenant, AlertId(alert)).await.unwrap().unwrap();
        let binding = &alert.bindings[0];
        let position = Position { partition: binding.counts_from.unwrap().partition, offset };
        let bundle = FaultBundle {
            rule: alert.rule.clone(),
            tick: tick(binding.symbol.as_str(), 151.5),
            position,
            params: alert.params.packed.clone(),
            state: vec![0, 255],
            fuel: 100_000,
            fault: Fault::BadCode(-3),
        };
        let fault = NewFault { alert: alert.id, binding: binding.id, quarantined: true, bundle: Box::new(bundle) };
        self.commit(position.partition, Commit { faults: vec![fault], ..Commit::default() }).await;
    }

    async fn commit(&self, partition: u32, commit: Commit) {
        let claim = self.backends.store.claim(partition).await.unwrap();
        self.backends.store.commit(&[claim], &commit).await.unwrap();
    }

    async fn release(&self, id: &str, body: &Value) -> Reply {
        self.post_json(&format!("/api/v1/alerts/{id}/release"), body).await
    }
}

fn above(symbols: &[&str]) -> Value {
    json!({"user_id": 1, "symbols": symbols, "rule": "above", "params": {"target": 150.0}})
}

#[tokio::test]
async fn faults_are_listed_and_one_gives_its_bundle() {
    let server = fixture().await;
    server.post_json("/api/v1/alerts", &above(&["AAPL", "MSFT"])).await;
    for offset in 3..6 {
        server.fault(1, offset).await;
    }
    let first = server.get("/api/v1/alerts/1/faults?limit=2").await.json();
    let next = first["next"].as_str().unwrap();
    let second = server.get(&format!("/api/v1/alerts/1/faults?limit=2&after={next}")).await.json();
    assert_eq!((first["faults"].as_array().unwrap().len(), &second["next"]), (2, &json!(null)));
    let fault = &second["faults"][0];
    let rule = server.get("/api/v1/rules/above").await.json();
    let expect = json!({
        "id": fault["id"], "alert_id": 1, "kind": "bad_code", "quarantined": true, "symbol": "AAPL", "price": 151.5,
        "fault": "it answered with code -3, which means nothing", "volume": 0.5, "timestamp": 1_723_161_256_322_i64,
        "partition": fault["partition"], "offset": 5, "rule": "above", "version": rule["version"],
        "digest": rule["digest"],
    });
    assert_eq!(*fault, expect);

    let bundle = server.get(&format!("/api/v1/faults/{}/bundle", fault["id"].as_str().unwrap())).await;
    assert_eq!(bundle.status, StatusCode::OK);
    let mut bundle = bundle.json();
    let module = bundle["rule"]["module"].take();
    assert!(module.as_str().unwrap().starts_with("AGFzb"), "base64 of a module: {module}");
    let expect = json!({
        "format": 1, "alert_id": 1, "fuel": 100_000, "partition": fault["partition"], "offset": 5, "state": "00ff",
        "rule": {
            "name": "above", "version": rule["version"], "module": null,
            "digest": Digest::of(tocsin_engine::builtin::ABOVE).to_string(),
        },
        "params": "0000000000c06240", "params_json": {"target": 150.0},
        "tick": {
            "symbol": "AAPL", "price": 151.5, "volume": 0.5, "timestamp": 1_723_161_256_322_i64, "conditions": 0,
        },
        "fault": {"kind": "bad_code", "detail": "-3", "text": "it answered with code -3, which means nothing"},
    });
    assert_eq!(bundle, expect);
}

#[tokio::test]
async fn what_is_quarantined_is_released_and_nothing_else() {
    let server = fixture().await;
    server.post_json("/api/v1/alerts", &above(&["AAPL", "MSFT"])).await;
    for body in [json!({}), json!({"symbol": "AAPL"})] {
        let reply = server.release("1", &body).await;
        assert_eq!(reply.status, StatusCode::CONFLICT, "{}", reply.text());
        assert!(reply.text().contains("is not quarantined"), "{}", reply.text());
    }
    for body in [json!({}), json!({"symbol": "aapl"}), json!({"symbol": null})] {
        server.fault(1, 3).await;
        assert_eq!(server.get("/api/v1/alerts/1").await.json()["bindings"][0]["status"], "quarantined");
        assert_eq!(server.release("1", &json!({"symbol": "MSFT"})).await.status, StatusCode::CONFLICT);
        let reply = server.release("1", &body).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        assert_eq!(reply.json(), server.get("/api/v1/alerts/1").await.json());
        assert_eq!(reply.json()["bindings"][0], json!({"symbol": "AAPL", "status": "active"}));
    }
    server.fault(1, 3).await;
    let without_body = server.call("POST", "/api/v1/alerts/1/release", &[], "").await;
    assert_eq!(without_body.status, StatusCode::OK);
    assert_eq!(server.release("2", &json!({})).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_impure_rule_is_shown_and_takes_no_new_alert() {
    let server = fixture().await;
    server.call("POST", "/api/v1/rules", WASM, module("mine", "1.0.0", "first")).await;
    let alert = json!({"user_id": 1, "symbols": ["AAPL"], "rule": "mine"});
    assert_eq!(server.post_json("/api/v1/alerts", &alert).await.status, StatusCode::CREATED);
    let rule = server.backends.api.control.rule(&server.backends.api.tenant, "mine", None).await.unwrap().reference;
    let commit = Commit { impure_rules: vec![(rule, "code 0, then 1".into())], at_ms: 5, ..Commit::default() };
    server.commit(0, commit).await;

    let quarantine = json!({"reason": "code 0, then 1", "at": "1970-01-01T00:00:00.005Z"});
    for uri in ["/api/v1/rules/mine", "/api/v1/rules/mine/versions/1.0.0"] {
        assert_eq!(server.get(uri).await.json()["quarantine"], quarantine, "{uri}");
    }
    assert_eq!(server.get("/api/v1/rules/mine").await.json()["versions"][0]["quarantined"], true);
    assert_eq!(server.get("/api/v1/rules").await.json()["rules"][2]["quarantine"], quarantine);
    let again = server.call("POST", "/api/v1/rules", WASM, module("mine", "1.0.0", "first")).await;
    assert_eq!((again.status, &again.json()["quarantine"]), (StatusCode::OK, &quarantine));
    let refused = server.post_json("/api/v1/alerts", &alert).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.text().contains("mine 1.0.0 is impure"), "{}", refused.text());
    assert_eq!(server.release("1", &json!({})).await.status, StatusCode::CONFLICT);
    let binding = server.get("/api/v1/alerts/1").await.json()["bindings"][0].clone();
    assert_eq!(
        (&binding["status"], &binding["reason"]),
        (&json!("quarantined"), &json!("its rule is impure: code 0, then 1"))
    );

    for uri in ["/health", "/ready"] {
        let health = server.get(uri).await;
        assert_eq!(health.status, StatusCode::OK, "every other rule is evaluated");
        assert!(health.text().contains("mine 1.0.0 is impure"), "{}", health.text());
    }
    server.call("DELETE", "/api/v1/alerts/1", &[], "").await;
    assert!(!server.get("/health").await.text().contains("impure"), "nothing waits for an operator");
}

#[tokio::test]
async fn more_bindings_than_may_be_are_refused_with_what_to_do() {
    let server = fixture().await;
    let symbols: Vec<String> = (0..100).map(|i| format!("S{i}")).collect();
    let alert = |rule: &str, count: usize| json!({"user_id": 1, "symbols": symbols[..count], "rule": rule, "params": {"target": 1}});
    for _ in 0..6 {
        assert_eq!(server.post_json("/api/v1/alerts", &alert("above", 100)).await.status, StatusCode::CREATED);
    }
    let refused = server.post_json("/api/v1/alerts", &alert("above", 1)).await;
    assert_eq!(
        (refused.status, &refused.json()["type"]),
        (StatusCode::FORBIDDEN, &json!("urn:tocsin:problem:cap-reached"))
    );
    for part in ["the rule above 1.0.0", "600 live bindings", "at most 600", "needs 1 more", "--max-bindings-per-rule"]
    {
        assert!(refused.text().contains(part), "{part}: {}", refused.text());
    }
    for _ in 0..4 {
        assert_eq!(server.post_json("/api/v1/alerts", &alert("below", 100)).await.status, StatusCode::CREATED);
    }
    let refused = server.post_json("/api/v1/alerts", &alert("below", 1)).await;
    assert!(refused.text().contains("the tenant default has 1000 live bindings"), "{}", refused.text());
    let price_alert = json!({"user_id": 1, "symbol": "X", "target_price": 1, "condition": "BELOW"});
    assert_eq!(server.post_json("/alerts", &price_alert).await.status, StatusCode::FORBIDDEN);
    // A binding that has ended makes room.
    server.fire(1, 3).await;
    assert_eq!(server.post_json("/api/v1/alerts", &alert("above", 1)).await.status, StatusCode::CREATED);
    assert_eq!(server.post_json("/api/v1/alerts", &alert("above", 1)).await.status, StatusCode::FORBIDDEN);
}
