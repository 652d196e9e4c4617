//! Bad input, field by field: each is a 4xx whose body names the field, and never a 500.

use serde_json::json;

use super::*;

/// Checks that a request is refused and that the answer names `field` among its violations.
#[track_caller]
fn check_named(reply: &Reply, what: &str, field: &str) {
    let body = reply.json();
    assert!(reply.status.is_client_error(), "{what}: {} {body}", reply.status);
    let violations = body["violations"].as_array().cloned().unwrap_or_default();
    assert!(violations.iter().any(|violation| violation["field"] == field), "{what}: no {field} in {body}");
    assert!(body["error"].as_str().is_some_and(|error| error.contains(field)), "{what}: {body}");
    assert_eq!(body["status"], reply.status.as_u16());
}

/// JSON texts for one member. `{}` in the template is where they go.
async fn check_member(server: &Fixture, uri: &str, template: &str, field: &str, texts: &[&str]) {
    for text in texts {
        let body = template.replace("{}", text);
        let reply = server.call("POST", uri, JSON, body.clone()).await;
        check_named(&reply, &body, field);
    }
}

const NO_INTEGER: &[&str] = &[
    "null",
    "0",
    "-1",
    "1.5",
    "\"1\"",
    "\"\"",
    "NaN",
    "Infinity",
    "-Infinity",
    "true",
    "[]",
    "{}",
    "[1]",
    "1e400",
    "2147483648",
    "99999999999999999999999",
];
const NO_TEXT: &[&str] =
    &["null", "0", "1.5", "NaN", "true", "[]", "{}", "\"\"", "\"  \"", "\"\\ud800\"", "\"a\\u0000\""];

#[tokio::test]
async fn every_member_of_a_price_alert() {
    let server = fixture().await;
    let member = |field: &'static str, template: &'static str, texts: &'static [&'static str]| {
        check_member(&server, "/alerts", template, field, texts)
    };
    member("user_id", r#"{"user_id":{},"symbol":"X","target_price":1,"condition":"ABOVE"}"#, NO_INTEGER).await;
    member("symbol", r#"{"user_id":1,"symbol":{},"target_price":1,"condition":"ABOVE"}"#, NO_TEXT).await;
    let no_price: &[&str] =
        &["null", "0", "-0.0", "-1", "\"1\"", "NaN", "Infinity", "true", "[]", "{}", "1e400", "-1e400", "1e"];
    member("target_price", r#"{"user_id":1,"symbol":"X","target_price":{},"condition":"ABOVE"}"#, no_price).await;
    let template = r#"{"user_id":1,"symbol":"X","target_price":1,"condition":{}}"#;
    member("condition", template, NO_TEXT).await;
    member("condition", template, &["\"above\"", "\"CONDITION_UNSPECIFIED\"", "\"EQUAL\""]).await;

    let nothing = server.call("POST", "/alerts", JSON, "{}").await;
    for field in ["user_id", "symbol", "target_price", "condition"] {
        check_named(&nothing, "{}", field);
    }
    assert_eq!(nothing.header("content-type"), "application/json");
    assert_eq!(server.get("/alerts").await.json()["count"], 0);
}

#[tokio::test]
async fn a_member_that_is_given_twice_is_refused_wherever_it_is() {
    let server = fixture().await;
    for (uri, body, field) in [
        ("/alerts", r#"{"user_id":1,"user_id":1,"symbol":"X","target_price":1,"condition":"ABOVE"}"#, "user_id"),
        ("/alerts", r#"{"user_id":1,"symbol":"X","target_price":1,"condition":"ABOVE","x":1,"x":1}"#, "x"),
        ("/alerts", r#"{"user_id":1,"symbol":"X","target_price":1,"condition":"ABOVE","x":[{"y":1,"y":1}]}"#, "x[0].y"),
        ("/api/v1/alerts", r#"{"user_id":1,"user_id":2,"symbols":["X"],"rule":"above"}"#, "user_id"),
        (
            "/api/v1/alerts",
            r#"{"user_id":1,"symbols":["X"],"rule":"above","params":{"target":1,"target":2}}"#,
            "params.target",
        ),
        (
            "/api/v1/alerts",
            r#"{"user_id":1,"symbols":["X"],"rule":"above","params":{"target":1},"params":{"target":2}}"#,
            "params",
        ),
        (
            "/api/v1/alerts",
            r#"{"user_id":1,"symbols":["X"],"rule":"above","params":{"a":[0,{"b":{"c`":1,"c`":1}}]}}"#,
            "params.a[1].b.c`",
        ),
        (
            "/api/v1/alerts",
            r#"{"user_id":1,"symbols":["X"],"rule":"above","params":{"target":1},"lifecycle":{"repeat":"once","repeat":"every"}}"#,
            "lifecycle.repeat",
        ),
    ] {
        check_named(&server.call("POST", uri, JSON, body).await, body, field);
    }
    assert_eq!(server.get("/api/v1/alerts").await.json()["alerts"], json!([]));
}

#[tokio::test]
async fn every_member_of_an_alert() {
    let server = fixture().await;
    let with = |field: &str| {
        let mut body = json!({"user_id": 1, "symbols": ["X"], "rule": "above", "params": {"target": 1}});
        body[field] = json!("%");
        body.to_string().replace("\"%\"", "{}")
    };
    let uri = "/api/v1/alerts";
    check_member(&server, uri, &with("user_id"), "user_id", NO_INTEGER).await;
    let no_list = ["null", "0", "NaN", "\"X\"", "true", "{}", "[]"];
    check_member(&server, uri, &with("symbols"), "symbols", &no_list).await;
    let many = json!((0..101).map(|i| format!("S{i}")).collect::<Vec<_>>()).to_string();
    check_member(&server, uri, &with("symbols"), "symbols", &[&many]).await;
    let long = format!("[\"X\",\"{}\"]", "Y".repeat(65));
    let second = [r#"["X",null]"#, r#"["X",1]"#, r#"["X",""]"#, r#"["X","x"]"#, r#"["X","🚀"]"#, r#"["X",NaN]"#, &long];
    check_member(&server, uri, &with("symbols"), "symbols[1]", &second).await;
    check_member(&server, uri, &with("rule"), "rule", NO_TEXT).await;
    check_member(&server, uri, &with("rule"), "rule", &["\"Above\"", "\"../x\"", "\"\\u202eabove\""]).await;
    let no_version =
        ["0", "1.5", "true", "[]", "{}", "\"\"", "\"1\"", "\"1.0\"", "\"v1.0.0\"", "\"-1.0.0\"", "\"1.0.0+b\"", "NaN"];
    check_member(&server, uri, &with("version"), "version", &no_version).await;
    check_member(&server, uri, &with("params"), "params", &["0", "\"\"", "true", "[]", "NaN"]).await;
    let no_target = ["null", "\"1\"", "[]", "{}", "true", "NaN", "1e400", "-Infinity"];
    let template = with("params").replace(":{}", r#":{"target":{}}"#);
    check_member(&server, uri, &template, "params.target", &no_target).await;
    let no_lifecycle = ["0", "\"once\"", "true", "NaN", "[]", r#"["once"]"#];
    check_member(&server, uri, &with("lifecycle"), "lifecycle", &no_lifecycle).await;
    let no_repeat = ["\"never\"", "1", "\"ONCE\"", "NaN", "[]", "{}", r#"{"once":null}"#, r#"["once"]"#];
    let no_repeat = no_repeat.map(|text| format!(r#"{{"repeat":{text}}}"#));
    let no_repeat: Vec<&str> = no_repeat.iter().map(String::as_str).collect();
    check_member(&server, uri, &with("lifecycle"), "lifecycle.repeat", &no_repeat).await;
    check_member(&server, uri, &with("lifecycle"), "lifecycle.cooldown", &[r#"{"cooldown":1}"#]).await;
    check_member(&server, uri, &with("unknown"), "unknown", &["1", "null"]).await;

    let nothing = server.call("POST", uri, JSON, "{}").await;
    for field in ["user_id", "symbols", "rule"] {
        check_named(&nothing, "{}", field);
    }
    let no_rule = json!({"user_id": 1, "symbols": ["X"], "rule": "no-such-rule"});
    let reply = server.post_json(uri, &no_rule).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert!(reply.text().contains("rule no-such-rule"), "{}", reply.text());
    assert_eq!(server.get(uri).await.json()["alerts"], json!([]));
}

#[tokio::test]
async fn all_violations_are_reported_together() {
    let server = fixture().await;
    let fields = |reply: &Reply| -> Vec<String> {
        let violations = reply.json()["violations"].as_array().unwrap().clone();
        violations.iter().map(|violation| violation["field"].as_str().unwrap().to_owned()).collect()
    };
    let body = r#"{"user_id":0,"symbols":["","A"],"rule":"above","version":"one","params":{"target":"x"},
        "lifecycle":{"repeat":"x","until":1},"colour":"red"}"#;
    let reply = server.call("POST", "/api/v1/alerts", JSON, body).await;
    let expect = ["lifecycle.repeat", "lifecycle.until", "colour", "user_id", "symbols[0]", "version"];
    assert_eq!(fields(&reply), expect, "{}", reply.text());
    let body = r#"{"user_id":1.0,"symbols":["A","A"],"rule":"above","params":{"target":"x","y":1}}"#;
    let reply = server.call("POST", "/api/v1/alerts", JSON, body).await;
    assert_eq!(fields(&reply), ["user_id", "symbols[1]", "params.target", "params.y"], "{}", reply.text());
    let body = r#"{"user_id":"1","symbol":"","target_price":-1e308,"condition":"above"}"#;
    let reply = server.call("POST", "/alerts", JSON, body).await;
    assert_eq!(fields(&reply), ["user_id", "condition", "symbol", "target_price"], "{}", reply.text());
    assert!(reply.text().contains("-1e308 is not a finite number greater than 0"), "{}", reply.text());
}

#[tokio::test]
async fn violations_are_reported_in_plain_words() {
    let server = fixture().await;
    for (body, expect) in [
        (r#"{"user_id":1.0,"symbols":["X"],"rule":"above"}"#, "user_id: 1.0 is not a whole number"),
        (
            r#"{"user_id":1,"symbols":["X"],"rule":"above","params":{"target":1},"lifecycle":{"repeat":"never"}}"#,
            r#"lifecycle.repeat: "never" is not "once" or "every""#,
        ),
        (r#"{"user_id":1,"user_id":2}"#, "user_id: is given more than once"),
        // Only what is no JSON has a place.
        (r#"{"user_id":1,}"#, "body: trailing comma at line 1 column 14"),
    ] {
        let problem = server.call("POST", "/api/v1/alerts", JSON, body).await.json();
        assert!(problem["detail"].as_str().unwrap().starts_with(expect), "{expect}: {problem}");
        assert_eq!(problem["detail"].as_str().unwrap().contains(" line "), expect.contains(" line "), "{problem}");
    }
}

#[tokio::test]
async fn a_huge_target_is_not_written_in_full() {
    let server = fixture().await;
    let body = json!({"user_id": 1, "symbol": "X", "target_price": 1e308, "condition": "ABOVE"});
    let created = server.post_json("/alerts", &body).await.json();
    assert_eq!(created["message"], "Alert created: X ABOVE $1e308");
}

#[tokio::test]
async fn every_member_of_an_accepted_log() {
    let server = fixture().await;
    let uri = "/api/v1/log/accept";
    let found = server.get("/api/v1/log").await.json()["found"].clone();
    let no_text: Vec<&str> = NO_TEXT.iter().copied().filter(|text| !text.starts_with('"')).collect();
    check_member(&server, uri, r#"{"log":{},"from":"end"}"#, "log", &no_text).await;
    let no_start = ["0", "true", "[]", "{}", "null", "\"\"", "\"End\"", "\"latest\""];
    check_member(&server, uri, &format!(r#"{{"log":{found},"from":{{}}}}"#), "from", &no_start).await;
    check_member(&server, uri, &format!(r#"{{"log":{found},"from":"end","x":{{}}}}"#), "x", &["1", "null"]).await;
    check_named(&server.call("POST", uri, &[("content-type", "text/plain")], "{}").await, "text", "Content-Type");
    for uri in ["/api/v1/log?x=1", "/api/v1/log/accept?x=1"] {
        let method = if uri.contains("accept") { "POST" } else { "GET" };
        check_named(&server.call(method, uri, JSON, "{}").await, uri, "x");
    }
    let other = server.post_json(uri, &json!({"log": "another", "from": "end"})).await;
    assert_eq!(other.status, StatusCode::CONFLICT, "{}", other.text());
}

#[tokio::test]
async fn every_member_of_a_release() {
    let server = fixture().await;
    let alert = json!({"user_id": 1, "symbols": ["X"], "rule": "above", "params": {"target": 1}});
    assert_eq!(server.post_json("/api/v1/alerts", &alert).await.status, StatusCode::CREATED);
    let uri = "/api/v1/alerts/1/release";
    // Without a symbol, all that are quarantined are meant.
    let no_symbol: Vec<&str> = NO_TEXT.iter().copied().filter(|text| *text != "null").collect();
    check_member(&server, uri, r#"{"symbol":{}}"#, "symbol", &no_symbol).await;
    check_member(&server, uri, r#"{"symbol":"X","unknown":{}}"#, "unknown", &["1", "null"]).await;
    check_member(&server, uri, r#"{"symbol":"X","symbol":{}}"#, "symbol", &["\"X\""]).await;
    check_named(&server.call("POST", uri, JSON, r#"{"symbol":"Y"}"#).await, "not watched", "symbol");
    for body in ["null", "[]", "[\"X\"]", "\"X\"", "{", "{}{}"] {
        check_named(&server.call("POST", uri, JSON, body).await, body, "body");
    }
    check_named(&server.call("POST", uri, &[("content-type", "text/plain")], "{}").await, "text", "Content-Type");
    check_named(&server.call("POST", &format!("{uri}?x=1"), JSON, "{}").await, "?x=1", "x");
}

#[tokio::test]
async fn every_member_of_a_promotion() {
    let server = fixture().await;
    let rule = server.get("/api/v1/rules/above").await.json();
    let version = rule["version"].as_str().unwrap();
    let uri = &format!("/api/v1/rules/above/versions/{version}/promote");
    // Without a version to leave, all others are meant.
    let no_text: Vec<&str> = NO_TEXT.iter().copied().filter(|text| *text != "null").collect();
    check_member(&server, uri, r#"{"from":{}}"#, "from", &no_text).await;
    check_member(&server, uri, r#"{"from":{}}"#, "from", &["\"one\"", "\"0.9.0+b\"", &format!("{version:?}")]).await;
    check_member(&server, uri, r#"{"reset_state":{}}"#, "reset_state", &["null", "1", "\"true\"", "[]"]).await;
    check_member(&server, uri, r#"{"unknown":{}}"#, "unknown", &["1", "null"]).await;
    for body in ["null", "[]", "\"1.0.0\"", "{"] {
        check_named(&server.call("POST", uri, JSON, body).await, body, "body");
    }
    check_named(&server.call("POST", uri, &[("content-type", "text/plain")], "{}").await, "text", "Content-Type");
    check_named(&server.call("POST", &format!("{uri}?x=1"), JSON, "{}").await, "?x=1", "x");
    let absent = server.post_json(uri, &json!({"from": "99.0.0"})).await;
    assert_eq!(absent.status, StatusCode::NOT_FOUND, "{}", absent.text());
    let nothing_to_do = server.call("POST", uri, &[], "").await;
    let expect = json!({"name": "above", "version": version, "digest": rule["digest"], "alerts": 0, "bindings": 0});
    assert_eq!((nothing_to_do.status, nothing_to_do.json()), (StatusCode::OK, expect));
}

#[tokio::test]
async fn bodies_that_are_no_objects() {
    let server = fixture().await;
    let deep = format!("{}1{}", "[".repeat(20_000), "]".repeat(20_000));
    let bodies: [&[u8]; 9] =
        [b"", b"null", b"[]", b"[1,\"X\",1,\"ABOVE\"]", b"\"\"", b"{", b"{}{}", b"\xff\xfe", deep.as_bytes()];
    for uri in ["/alerts", "/api/v1/alerts"] {
        for body in bodies {
            let reply = server.call("POST", uri, JSON, body.to_vec()).await;
            let what = String::from_utf8_lossy(&body[..body.len().min(20)]).into_owned();
            assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{what}");
            check_named(&reply, &what, "body");
        }
        let deep = format!(r#"{{"params":{}1{}}}"#, r#"{"a":"#.repeat(5000), "}".repeat(5000));
        let reply = server.call("POST", uri, JSON, deep).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert!(reply.body.len() < 4096, "{} bytes are sent back", reply.body.len());
        let reply = server.call("POST", uri, JSON, vec![b' '; 64 * 1024 + 1]).await;
        assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
        check_named(&reply, "too large", "body");
        assert!(reply.text().contains("larger than the 65536 bytes"), "{}", reply.text());
    }
}

#[tokio::test]
async fn headers() {
    let server = fixture().await;
    let body = json!({"user_id": 1, "symbols": ["X"], "rule": "above", "params": {"target": 1}}).to_string();
    let long = "k".repeat(256);
    for key in ["", "ü", &long] {
        let reply = server.call("POST", "/api/v1/alerts", &[JSON[0], ("idempotency-key", key)], body.clone()).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        check_named(&reply, key, "Idempotency-Key");
    }
    for (uri, types) in [
        ("/api/v1/alerts", ["text/plain", "", "application/wasm"]),
        ("/api/v1/rules", ["text/plain", "", "application/json"]),
    ] {
        for content_type in types {
            let reply = server.call("POST", uri, &[("content-type", content_type)], body.clone()).await;
            assert_eq!(reply.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
            check_named(&reply, content_type, "Content-Type");
        }
    }
    for id in ["x", "ü", "00000000-0000-0000-0000-000000000000"] {
        let reply = server.call("GET", "/api/v1/firings/stream", &[("last-event-id", id)], "").await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        check_named(&reply, id, "Last-Event-ID");
    }
    let reply = server.call("POST", "/api/v1/rules", WASM, vec![0; 1024 * 1024 + 1]).await;
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (StatusCode::PAYLOAD_TOO_LARGE, "application/problem+json")
    );
    check_named(&reply, "1 MiB and a byte", "body");
    assert!(reply.json()["detail"].as_str().unwrap().contains("larger than the 1048576 bytes"), "{}", reply.text());
    let reply = server.call("POST", "/api/v1/rules", WASM, vec![0; 1024 * 1024]).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn every_parameter_of_a_query() {
    let server = fixture().await;
    let whole = ["", "x", "0", "-1", "1.5", "NaN", "null", "99999999999999999999999", "%00", "%FF", "1&="];
    for uri in ["/api/v1/rules", "/api/v1/alerts", "/api/v1/firings"] {
        for value in whole.into_iter().chain(["501"]) {
            let uri = format!("{uri}?limit={value}");
            let field = if value == "1&=" { "" } else { "limit" };
            check_named(&server.get(&uri).await, &uri, field);
        }
        let unknown = format!("{uri}?colour=red");
        check_named(&server.get(&unknown).await, &unknown, "colour");
        let twice = format!("{uri}?limit=1&limit=2");
        check_named(&server.get(&twice).await, &twice, "limit");
        for value in ["-1", "%F0%9F%9A%80", "1.5", "NULL", "%00", &"9".repeat(5000)] {
            let uri = format!("{uri}?after={value}");
            check_named(&server.get(&uri).await, &uri, "after");
        }
    }
    for value in whole.into_iter().filter(|value| *value != "1&=") {
        let uri = format!("/api/v1/alerts?user_id={value}");
        check_named(&server.get(&uri).await, &uri, "user_id");
        let uri = format!("/api/v1/firings/stream?alert_id={value}");
        check_named(&server.get(&uri).await, &uri, "alert_id");
    }
    for value in ["", "yes", "2", "TRUE", "null"] {
        let uri = format!("/api/v1/alerts?active_only={value}");
        check_named(&server.get(&uri).await, &uri, "active_only");
    }
    for uri in ["/api/v1/firings/stream?after=x", "/api/v1/firings?after=00000000-0000-0000-0000-000000000000"] {
        check_named(&server.get(uri).await, uri, "after");
    }
    let alert = json!({"user_id": 1, "symbols": ["X"], "rule": "above", "params": {"target": 1}});
    assert_eq!(server.post_json("/api/v1/alerts", &alert).await.status, StatusCode::CREATED);
    for value in ["x", "-1", "1.5", "%00", "00000000-0000-0000-0000-000000000000", "99999999999999999999"] {
        let uri = format!("/api/v1/alerts/1/faults?after={value}");
        check_named(&server.get(&uri).await, &uri, "after");
    }
    for value in ["", "x", "0", "501"] {
        let uri = format!("/api/v1/alerts/1/faults?limit={value}");
        check_named(&server.get(&uri).await, &uri, "limit");
    }
    for uri in ["/api/v1/rules/above?x=1", "/api/v1/rules/above/versions/1.0.0?x=1", "/api/v1/alerts/1?x=1"] {
        check_named(&server.get(uri).await, uri, "x");
    }
    assert_eq!(server.get("/api/v1/firings/stream?alert_id=2").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn every_parameter_of_a_path() {
    let server = fixture().await;
    for id in ["x", "0", "-1", "1.5", "NaN", "null", "9223372036854775808", "%00", "%FF", "%F0%9F%9A%80", "%20"] {
        let routes =
            [("GET", "{}"), ("DELETE", "{}"), ("GET", "{}/firings"), ("GET", "{}/faults"), ("POST", "{}/release")];
        for (method, uri) in routes {
            let uri = format!("/api/v1/alerts/{}", uri.replace("{}", id));
            check_named(&server.call(method, &uri, &[], "").await, &uri, "id");
        }
    }
    for id in ["x", "0", "-1", "%00", "%FF", "%F0%9F%9A%80", "00000000-0000-0000-0000", &"0".repeat(5000)] {
        let uri = format!("/api/v1/faults/{id}/bundle");
        check_named(&server.get(&uri).await, &uri, "id");
    }
    for name in ["X", "0", "-1", "%00", "%FF", "%F0%9F%9A%80", "a--b", &"a".repeat(65), &"a".repeat(5000)] {
        for rest in ["", "/versions/1.0.0", "/versions/1.0.0/module"] {
            let uri = format!("/api/v1/rules/{name}{rest}");
            check_named(&server.get(&uri).await, &uri, "name");
        }
        let uri = format!("/api/v1/rules/{name}/versions/1.0.0/promote");
        check_named(&server.call("POST", &uri, &[], "").await, &uri, "name");
        check_named(&server.call("DELETE", &uri, &[], "").await, &uri, "name");
    }
    for version in ["x", "0", "1.0", "-1", "%00", "%FF", "99999999999999999999.0.0", "1.0.0+b", &"1".repeat(5000)] {
        for rest in ["", "/module"] {
            let uri = format!("/api/v1/rules/above/versions/{version}{rest}");
            check_named(&server.get(&uri).await, &uri, "version");
        }
        let uri = format!("/api/v1/rules/above/versions/{version}/promote");
        check_named(&server.call("POST", &uri, &[], "").await, &uri, "version");
        check_named(&server.call("DELETE", &uri, &[], "").await, &uri, "version");
    }
    for uri in [
        "/api/v1/alerts/9223372036854775807",
        "/api/v1/alerts/1/firings",
        "/api/v1/alerts/1/faults",
        "/api/v1/faults/00000000-0000-0000-0000-000000000000/bundle",
        "/api/v1/rules/no-such-rule",
        "/api/v1/rules/above/versions/99.0.0",
        "/api/v1/rules/above/versions/99.0.0/module",
        "/api/v1/no-such-route",
        "/api/v2",
        "/",
    ] {
        let reply = server.get(uri).await;
        assert_eq!((reply.status, reply.header("content-type")), (StatusCode::NOT_FOUND, "application/problem+json"));
        assert_eq!(reply.json()["error"], reply.json()["detail"]);
    }
}

#[tokio::test]
async fn a_wrong_method_gets_the_allowed_ones() {
    let server = fixture().await;
    for (method, uri, allow) in [
        ("PUT", "/api/v1/alerts", "GET,HEAD,POST"),
        ("POST", "/api/v1/alerts/1", "GET,HEAD,DELETE"),
        ("GET", "/api/v1/alerts/1/release", "POST"),
        ("DELETE", "/api/v1/alerts/1/faults", "GET,HEAD"),
        ("GET", "/api/v1/rules/above/versions/1.0.0/promote", "DELETE,POST"),
        ("DELETE", "/api/v1/rules", "GET,HEAD,POST"),
        ("POST", "/api/v1/firings", "GET,HEAD"),
        ("POST", "/health", "GET,HEAD"),
    ] {
        let reply = server.call(method, uri, &[], "").await;
        assert_eq!(
            (reply.status, reply.header("content-type")),
            (StatusCode::METHOD_NOT_ALLOWED, "application/problem+json")
        );
        let mut allowed: Vec<_> = reply.header("allow").split(',').collect();
        let mut expect: Vec<_> = allow.split(',').collect();
        allowed.sort_unstable();
        expect.sort_unstable();
        assert_eq!(allowed, expect, "{method} {uri}");
    }
}
