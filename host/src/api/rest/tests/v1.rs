//! `/api/v1`, where all goes well.

use serde_json::json;
use tocsin_engine::domain::Digest;

use super::*;

#[tokio::test]
async fn a_rule_is_uploaded_once_and_read_back() {
    let server = fixture().await;
    let first = module("mine", "1.0.0", "first");
    let digest = Digest::of(&first).to_string();
    let reply = server.call("POST", "/api/v1/rules", WASM, first.clone()).await;
    let stored = json!({
        "name": "mine", "version": "1.0.0", "digest": digest, "created_at": "2023-11-14T22:13:20.123Z",
        "manifest": {"abi": 1, "name": "mine", "version": "1.0.0", "description": "first"},
    });
    assert_eq!((reply.status, reply.json()), (StatusCode::CREATED, stored.clone()));
    assert_eq!(reply.header("location"), "/api/v1/rules/mine/versions/1.0.0");
    let as_bytes = [("content-type", "application/octet-stream; x=y")];
    let again = server.call("POST", "/api/v1/rules", &as_bytes, first.clone()).await;
    assert_eq!((again.status, again.json()), (StatusCode::OK, stored.clone()));
    let other = server.call("POST", "/api/v1/rules", WASM, module("mine", "1.0.0", "other")).await;
    assert_eq!(
        (other.status, other.json()["type"].clone()),
        (StatusCode::CONFLICT, json!("urn:tocsin:problem:conflict"))
    );
    let newer = server.call("POST", "/api/v1/rules", WASM, module("mine", "1.10.0", "newer")).await;
    assert_eq!(newer.status, StatusCode::CREATED);
    let beta = server.call("POST", "/api/v1/rules", WASM, module("mine", "2.0.0-beta", "to be tried")).await;
    assert_eq!(beta.status, StatusCode::CREATED);

    assert_eq!(server.get("/api/v1/rules/mine/versions/1.0.0").await.json(), stored);
    let newest = server.get("/api/v1/rules/mine").await.json();
    assert_eq!(newest["version"], "1.10.0");
    let versions: Vec<_> = newest["versions"].as_array().unwrap().iter().map(|v| v["version"].clone()).collect();
    assert_eq!(versions, ["1.0.0", "1.10.0", "2.0.0-beta"]);
    let bytes = server.get("/api/v1/rules/mine/versions/1.0.0/module").await;
    assert_eq!((bytes.header("content-type"), bytes.header("etag")), ("application/wasm", &*format!("{digest:?}")));
    assert_eq!(bytes.body, first);
}

#[tokio::test]
async fn the_name_of_a_built_in_rule_is_refused() {
    let server = fixture().await;
    for (name, version) in [("above", "1.0.1"), ("below", "2.0.0")] {
        let reply = server.call("POST", "/api/v1/rules", WASM, module(name, version, "fires always")).await;
        assert_eq!(reply.status, StatusCode::CONFLICT, "{name}");
        let detail = reply.json()["detail"].to_string();
        assert!(detail.contains(&format!("the rule {name} is built in")), "{detail}");
    }
    let own = tocsin_engine::builtin::ABOVE.to_vec();
    assert_eq!(server.call("POST", "/api/v1/rules", WASM, own).await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_a_client_has_already_is_not_sent_again() {
    let server = fixture().await;
    for uri in ["/api/v1/rules/above/versions/1.0.0/module", "/api/v1/openapi.json"] {
        let whole = server.get(uri).await;
        let tag = whole.header("etag").to_owned();
        assert!(tag.starts_with("\"sha256:") && tag.ends_with('"'), "{uri}: {tag}");
        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
            let reply = server.call("GET", uri, &[("if-none-match", &known)], "").await;
            assert_eq!((reply.status, reply.header("etag")), (StatusCode::NOT_MODIFIED, &*tag), "{uri} {known}");
            assert!(reply.body.is_empty());
        }
        for unknown in ["\"other\"", "", "nonsense", tag.trim_matches('"')] {
            let reply = server.call("GET", uri, &[("if-none-match", unknown)], "").await;
            assert_eq!((reply.status, &reply.body), (StatusCode::OK, &whole.body), "{uri} {unknown}");
        }
    }
}

#[tokio::test]
async fn rules_are_listed_in_pages() {
    let server = fixture().await;
    let names = |reply: &Reply| -> Vec<String> {
        let rules = reply.json()["rules"].as_array().unwrap().clone();
        rules.iter().map(|rule| rule["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = server.get("/api/v1/rules?limit=1").await;
    assert_eq!((names(&first), first.json()["next"].clone()), (vec!["above".to_owned()], json!("above")));
    let second = server.get("/api/v1/rules?limit=1&after=above").await;
    assert_eq!((names(&second), second.json()["next"].clone()), (vec!["below".to_owned()], json!(null)));
}

#[tokio::test]
async fn a_module_is_refused_with_every_violation() {
    let server = fixture().await;
    let source = r#"(module (import "env" "clock" (func)) (memory (export "memory") 1) (export "clock" (func 0)))"#;
    let reply = server.call("POST", "/api/v1/rules", WASM, wat::parse_str(source).unwrap()).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(reply.header("content-type"), "application/problem+json");
    let body = reply.json();
    let codes: Vec<_> = body["violations"].as_array().unwrap().iter().map(|v| v["code"].clone()).collect();
    for code in ["import", "manifest"] {
        assert!(codes.contains(&json!(code)), "{body}");
    }
    assert_eq!(body["error"], body["detail"]);
    for bytes in [&b""[..], b"\0asm", b"\x7fELF", b"(module)"] {
        assert_eq!(server.call("POST", "/api/v1/rules", WASM, bytes).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    }
}

fn above(symbols: &[&str]) -> Value {
    json!({"user_id": 1, "symbols": symbols, "rule": "above", "params": {"target": 150.0}})
}

#[tokio::test]
async fn an_alert_lives_from_creation_to_deletion() {
    let server = fixture().await;
    let reply = server.post_json("/api/v1/alerts", &above(&["aapl", "BINANCE:BTCUSDT"])).await;
    assert_eq!((reply.status, reply.header("location")), (StatusCode::CREATED, "/api/v1/alerts/1"));
    let mut alert = reply.json();
    let digest = Digest::of(tocsin_engine::builtin::ABOVE).to_string();
    let version = alert["version"].clone();
    let expect = json!({
        "id": 1, "user_id": 1, "rule": "above", "version": version, "digest": digest, "params": {"target": 150.0},
        "lifecycle": {"repeat": "once"}, "created_at": "2023-11-14T22:13:20.123Z",
        "bindings": [{"symbol": "AAPL", "status": "active"}, {"symbol": "BINANCE:BTCUSDT", "status": "active"}],
        "unserved": ["AAPL", "BINANCE:BTCUSDT"],
    });
    assert_eq!(alert, expect);
    alert.as_object_mut().unwrap().remove("unserved");
    server.fire(1, 3).await;
    alert["bindings"][0]["status"] = json!("triggered");
    assert_eq!(server.get("/api/v1/alerts/1").await.json(), alert);
    assert_eq!(server.get("/api/v1/alerts?active_only=true&user_id=1").await.json()["alerts"], json!([alert]));
    assert_eq!(server.call("DELETE", "/api/v1/alerts/1", &[], "").await.status, StatusCode::NO_CONTENT);
    for method in ["GET", "DELETE"] {
        assert_eq!(server.call(method, "/api/v1/alerts/1", &[], "").await.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn alerts_are_listed_in_pages_by_their_cursor() {
    let server = fixture().await;
    let mut every = above(&["X"]);
    every["lifecycle"] = json!({"repeat": "every"});
    for _ in 0..3 {
        assert_eq!(server.post_json("/api/v1/alerts", &every).await.json()["lifecycle"], every["lifecycle"]);
    }
    let mut cursor = String::new();
    let mut seen = Vec::new();
    loop {
        let page = server.get(&format!("/api/v1/alerts?limit=2&after={cursor}")).await.json();
        seen.extend(page["alerts"].as_array().unwrap().iter().map(|alert| alert["id"].as_i64().unwrap()));
        let Some(next) = page["next"].as_str() else { break };
        cursor = next.to_owned();
    }
    assert_eq!(seen, [1, 2, 3]);
}

#[tokio::test]
async fn a_request_with_the_same_key_creates_one_alert() {
    let server = fixture().await;
    let headers = [JSON[0], ("idempotency-key", "key 1")];
    let body = above(&["X"]);
    let first = server.call("POST", "/api/v1/alerts", &headers, body.to_string()).await;
    let again = server.call("POST", "/api/v1/alerts", &headers, body.to_string()).await;
    assert_eq!((first.status, again.status), (StatusCode::CREATED, StatusCode::OK));
    assert_eq!((first.json(), first.header("location")), (again.json(), again.header("location")));
    let other = server.call("POST", "/api/v1/alerts", &headers, above(&["Y"]).to_string()).await;
    assert_eq!(other.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn firings_are_listed_for_all_and_for_one_alert() {
    let server = fixture().await;
    for name in ["X", "Y"] {
        server.post_json("/api/v1/alerts", &above(&[name])).await;
    }
    let (x, y) = (server.fire(1, 5).await, server.fire(2, 6).await);
    let body = |firing: &Firing| {
        json!({
            "id": firing.id.to_string(), "alert_id": firing.alert.0, "symbol": firing.tick.symbol.as_str(),
            "price": 151.5, "volume": 0.5, "timestamp": 1_723_161_256_322_i64,
            "partition": firing.position.partition, "offset": firing.position.offset, "rule": "above",
            "version": firing.rule.version.to_string(), "digest": firing.rule.digest.to_string(),
            "evidence": {"target": 150.0},
        })
    };
    let all = server.get("/api/v1/firings").await.json();
    assert_eq!(all, json!({"firings": [body(&x), body(&y)], "next": null}));
    let first = server.get("/api/v1/firings?limit=1").await.json();
    assert_eq!(first, json!({"firings": [body(&x)], "next": x.id.to_string()}));
    let second = server.get(&format!("/api/v1/firings?after={}", x.id)).await.json();
    assert_eq!(second, json!({"firings": [body(&y)], "next": null}));
    let of_y = server.get("/api/v1/alerts/2/firings").await.json();
    assert_eq!(of_y, json!({"firings": [body(&y)], "next": null}));
    assert_eq!(server.call("DELETE", "/api/v1/alerts/2", &[], "").await.status, StatusCode::NO_CONTENT);
    let outlived = server.get("/api/v1/alerts/2/firings").await;
    assert_eq!((outlived.status, outlived.json()), (StatusCode::OK, of_y), "firings outlive their alert");
    assert_eq!(server.get("/api/v1/alerts/3/firings").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_alert_on_symbols_that_are_not_served_lists_them() {
    let server = fixture().await;
    let created = server.post_json("/api/v1/alerts", &above(&["btcusdt", "TYPO", "IC MARKETS:1"])).await;
    assert_eq!((created.status, &created.json()["unserved"]), (StatusCode::CREATED, &json!(["TYPO"])));
    let served = server.post_json("/api/v1/alerts", &above(&["BTCUSDT"])).await.json();
    assert_eq!(
        (&served["unserved"], &server.get("/api/v1/alerts/1").await.json()["unserved"]),
        (&json!(null), &json!(null))
    );
}

#[tokio::test]
async fn a_promotion_that_waits_is_cancelled() {
    let server = fixture().await;
    for version in ["1.0.0", "2.0.0"] {
        server.call("POST", "/api/v1/rules", WASM, module("steps", version, "")).await;
        let alert = json!({ "user_id": 1, "symbols": ["BTCUSDT"], "rule": "steps", "version": "1.0.0" });
        assert_eq!(server.post_json("/api/v1/alerts", &alert).await.status, StatusCode::CREATED);
    }
    let uri = "/api/v1/rules/steps/versions/2.0.0/promote";
    let cancel = async || server.call("DELETE", uri, &[], "").await;
    let reply = cancel().await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert_eq!(reply.json()["detail"], "no promotion of steps to 2.0.0 is under way");
    // No evaluator is there to hand anything over.
    let cancel_once_it_waits = async {
        while server.backends.store.unfinished_promotion().await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        cancel().await
    };
    let body = json!({ "reset_state": true });
    let (promoted, cancelled) = tokio::join!(server.post_json(uri, &body), cancel_once_it_waits);
    assert_eq!(cancelled.json(), json!({ "name": "steps", "version": "2.0.0", "given_back": 0 }));
    assert_eq!(promoted.status, StatusCode::CONFLICT, "{}", promoted.text());
    assert!(promoted.json()["detail"].as_str().unwrap().contains("cancelled"), "{}", promoted.text());
    assert_eq!(server.get("/api/v1/alerts/1").await.json()["version"], "1.0.0");
}

#[tokio::test]
async fn the_description_names_every_route() {
    let server = fixture().await;
    let description = server.get("/api/v1/openapi.json").await.json();
    assert_eq!(description["openapi"], "3.1.0");
    let mut routes: Vec<String> = Vec::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            assert!(operation["summary"].is_string() || operation["description"].is_string(), "{method} {path}");
            routes.push(format!("{} {path}", method.to_uppercase()));
        }
    }
    routes.sort();
    let expect = [
        "DELETE /api/v1/alerts/{id}",
        "DELETE /api/v1/rules/{name}/versions/{version}/promote",
        "GET /alerts",
        "GET /api/v1/alerts",
        "GET /api/v1/alerts/{id}",
        "GET /api/v1/alerts/{id}/faults",
        "GET /api/v1/alerts/{id}/firings",
        "GET /api/v1/candles/{symbol}",
        "GET /api/v1/faults/{id}/bundle",
        "GET /api/v1/firings",
        "GET /api/v1/firings/stream",
        "GET /api/v1/log",
        "GET /api/v1/rules",
        "GET /api/v1/rules/{name}",
        "GET /api/v1/rules/{name}/versions/{version}",
        "GET /api/v1/rules/{name}/versions/{version}/module",
        "GET /api/v1/tickers",
        "GET /health",
        "GET /price/{symbol}",
        "GET /ready",
        "GET /ws/trades/{ticker}",
        "POST /alerts",
        "POST /api/v1/alerts",
        "POST /api/v1/alerts/{id}/release",
        "POST /api/v1/log/accept",
        "POST /api/v1/rules",
        "POST /api/v1/rules/{name}/versions/{version}/promote",
    ];
    assert_eq!(routes, expect);
}

/// The document as clients have it. Where a change is meant, save `GET /api/v1/openapi.json` as `tests/openapi.json`.
#[tokio::test]
async fn the_description_is_the_committed_one() {
    let server = fixture().await;
    let description = server.get("/api/v1/openapi.json").await.json();
    let committed: Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
    for (path, methods) in description["paths"].as_object().unwrap() {
        assert_eq!(*methods, committed["paths"][path], "{path}");
    }
    for (name, schema) in description["components"]["schemas"].as_object().unwrap() {
        assert_eq!(*schema, committed["components"]["schemas"][name], "{name}");
    }
    assert_eq!(description, committed);
}

#[tokio::test]
async fn the_description_has_what_openapi_asks_for() {
    let server = fixture().await;
    let description = server.get("/api/v1/openapi.json").await.json();
    let is_text = |value: &Value| value.as_str().is_some_and(|text| !text.trim().is_empty());
    assert!(is_text(&description["info"]["title"]) && is_text(&description["info"]["version"]));
    let tags: Vec<_> = description["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    let mut ids = std::collections::BTreeSet::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let what = format!("{method} {path}");
            let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{what} has no operationId"));
            assert!(ids.insert(id.to_owned()), "{what}: {id} is another's");
            assert!(operation["tags"].as_array().unwrap().iter().all(|tag| tags.contains(&tag)), "{what}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(!responses.is_empty(), "{what}");
            for (status, response) in responses {
                assert!(status.parse::<u16>().is_ok_and(|status| (100..600).contains(&status)), "{what} {status}");
                assert!(is_text(&response["description"]), "{what} {status} is not described");
            }
            let none = Vec::new();
            let parameters = operation["parameters"].as_array().unwrap_or(&none);
            let placed = |place: &str| -> Vec<_> {
                let of_place = parameters.iter().filter(|parameter| parameter["in"] == place);
                of_place.map(|parameter| parameter["name"].as_str().unwrap()).collect()
            };
            let in_path: Vec<_> = path.split('{').skip(1).map(|rest| rest.split('}').next().unwrap()).collect();
            assert_eq!(placed("path"), in_path, "{what}");
            for parameter in parameters {
                let required = parameter["in"] != "path" || parameter["required"] == true;
                assert!(required && parameter["schema"].is_object() && is_text(&parameter["description"]), "{what}");
            }
        }
    }
    let mut references = 0;
    check_references(&description, &description, &mut references);
    assert!(references > 50, "{references} references were seen");
}

/// Every `$ref` leads somewhere.
fn check_references(document: &Value, value: &Value, seen: &mut usize) {
    match value {
        Value::Object(members) => {
            if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').expect("references are to this document");
                assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
                *seen += 1;
            }
            members.values().for_each(|value| check_references(document, value, seen));
        }
        Value::Array(items) => items.iter().for_each(|value| check_references(document, value, seen)),
        _ => {}
    }
}
