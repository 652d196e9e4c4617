//! `tocsin.v1.AlertService`: creating, reading and deleting alerts.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Timestamp, Value as ProtoValue};
use serde_json::{Value, json};
use tocsin_proto::tocsin::v1::{
    Alert, Binding, BindingStatus, CreateAlertRequest, DeleteAlertRequest, GetAlertRequest, Lifecycle,
    ListAlertsRequest, Repeat, UploadRuleRequest,
};
use tonic::Code;

use super::{NOW_MS, Server, fields, module, violations};
use crate::api::grpc::structs;

fn above(user_id: i32, symbols: &[&str]) -> CreateAlertRequest {
    CreateAlertRequest {
        user_id,
        symbols: symbols.iter().map(|symbol| (*symbol).to_owned()).collect(),
        rule: "above".into(),
        params: Some(structs::from_json(&json!({ "target": 150 }))),
        ..Default::default()
    }
}

fn moves(params: &Value) -> CreateAlertRequest {
    CreateAlertRequest { rule: "moves".into(), params: Some(structs::from_json(params)), ..above(1, &["AAPL"]) }
}

/// A Struct of one number that JSON has no word for, or of a member without a value.
fn odd(name: &str, kind: Option<Kind>) -> CreateAlertRequest {
    let mut request = moves(&json!({ "direction": "up" }));
    request.params.as_mut().unwrap().fields.insert(name.into(), ProtoValue { kind });
    request
}

async fn start() -> Server {
    let server = Server::start().await;
    let upload = UploadRuleRequest { module: module("moves", "1.0.0") };
    server.rules().upload_rule(upload).await.unwrap();
    server
}

#[tokio::test]
async fn an_alert_is_created_read_and_deleted() {
    let server = start().await;
    let mut client = server.alerts();
    let params = json!({ "direction": "down", "window_ms": 60_000 });
    let request = CreateAlertRequest {
        symbols: vec!["aapl".into(), "MSFT".into()],
        version: "1.0.0".into(),
        lifecycle: Some(Lifecycle { repeat: Repeat::Every.into() }),
        ..moves(&params)
    };
    let alert = client.create_alert(request).await.unwrap().into_inner();
    let binding = |symbol: &str| Binding {
        symbol: symbol.into(),
        status: BindingStatus::Active.into(),
        reason: String::new(),
        suppressed: 0,
    };
    let full = json!({ "direction": "down", "window_ms": 60_000, "percent": 5 });
    let expect = Alert {
        id: 1,
        user_id: 1,
        rule: "moves".into(),
        version: "1.0.0".into(),
        digest: alert.digest.clone(),
        params: Some(structs::from_json(&full)),
        lifecycle: Some(Lifecycle { repeat: Repeat::Every.into() }),
        bindings: vec![binding("AAPL"), binding("MSFT")],
        created_at: Some(Timestamp { seconds: NOW_MS / 1_000, nanos: 123_000_000 }),
        unserved: Vec::new(),
    };
    assert_eq!(alert, Alert { unserved: vec!["AAPL".into(), "MSFT".into()], ..expect.clone() });
    assert_eq!(client.get_alert(GetAlertRequest { id: 1 }).await.unwrap().into_inner(), expect);
    client.delete_alert(DeleteAlertRequest { id: 1 }).await.unwrap();
    assert_eq!(client.get_alert(GetAlertRequest { id: 1 }).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(client.delete_alert(DeleteAlertRequest { id: 1 }).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn lists_have_pages_and_filters() {
    let server = start().await;
    for user in [1, 2, 1, 1] {
        server.alerts().create_alert(above(user, &["AAPL"])).await.unwrap();
    }
    let (mut ids, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let request = ListAlertsRequest { user_id: 1, active_only: true, page_size: 2, page_token: token };
        let page = server.alerts().list_alerts(request).await.unwrap().into_inner();
        ids.extend(page.alerts.iter().map(|alert| alert.id));
        (token, pages) = (page.next_page_token, pages + 1);
        if token.is_empty() {
            break;
        }
    }
    assert_eq!((ids, pages), (vec![1, 3, 4], 2));
    let all = server.alerts().list_alerts(ListAlertsRequest::default()).await.unwrap().into_inner();
    assert_eq!(all.alerts.len(), 4);
}

#[tokio::test]
async fn a_bad_field_of_an_alert_is_named() {
    let server = start().await;
    let up = json!({ "direction": "up" });
    let with = |change: fn(&mut CreateAlertRequest)| {
        let mut request = moves(&json!({ "direction": "up" }));
        change(&mut request);
        request
    };
    let number = |number: f64| Some(Kind::NumberValue(number));
    let nested = Kind::ListValue(ListValue { values: vec![ProtoValue { kind: number(f64::NAN) }] });
    let inner = Struct { fields: [("x".to_owned(), ProtoValue { kind: number(f64::INFINITY) })].into() };
    let deep = (0..20).fold(json!(1), |inner, _| json!([inner]));
    for (request, expect) in [
        (with(|r| r.user_id = 0), "user_id"),
        (with(|r| r.user_id = -7), "user_id"),
        (with(|r| r.symbols.clear()), "symbols"),
        (with(|r| r.symbols = (0..101).map(|i| format!("S{i}")).collect()), "symbols"),
        (with(|r| r.symbols.push("aapl".into())), "symbols[1]"),
        (with(|r| r.symbols[0] = String::new()), "symbols[0]"),
        (with(|r| r.symbols[0] = "A\0".into()), "symbols[0]"),
        (with(|r| r.symbols[0] = "X".repeat(500_000)), "symbols[0]"),
        (with(|r| r.rule = String::new()), "rule"),
        (with(|r| r.rule = "No Such".into()), "rule"),
        (with(|r| r.version = "newest".into()), "version"),
        (with(|r| r.version = "9".repeat(500_000)), "version"),
        (with(|r| r.version = "1.0.0+b".into()), "version"),
        (with(|r| r.params = None), "params.direction"),
        (with(|r| r.lifecycle = Some(Lifecycle { repeat: 3 })), "lifecycle.repeat"),
        (with(|r| r.lifecycle = Some(Lifecycle { repeat: -1 })), "lifecycle.repeat"),
        (moves(&json!({ "direction": "sideways" })), "params.direction"),
        (moves(&json!({ "direction": 1 })), "params.direction"),
        (moves(&json!({ "direction": "up", "percent": 0 })), "params.percent"),
        (moves(&json!({ "direction": "up", "percent": -2.5 })), "params.percent"),
        (moves(&json!({ "direction": "up", "percent": 1e300 })), "params.percent"),
        (moves(&json!({ "direction": "up", "percent": "2.5" })), "params.percent"),
        (moves(&json!({ "direction": "up", "percent": null })), "params.percent"),
        (moves(&json!({ "direction": "up", "percent": deep })), "params.percent"),
        (moves(&json!({ "direction": "up", "window_ms": 1000.5 })), "params.window_ms"),
        (moves(&json!({ "direction": "up", "window_ms": 9_007_199_254_740_993_i64 })), "params.window_ms"),
        (moves(&json!({ "direction": "up", "window_ms": 1e308 })), "params.window_ms"),
        (moves(&json!({ "direction": "up", "limit": 1 })), "params.limit"),
        (odd("percent", number(f64::NAN)), "params.percent"),
        (odd("percent", number(f64::INFINITY)), "params.percent"),
        (odd("window_ms", number(f64::NEG_INFINITY)), "params.window_ms"),
        (odd("percent", None), "params.percent"),
        (odd("percent", Some(nested)), "params.percent[0]"),
        (odd("percent", Some(Kind::StructValue(inner))), "params.percent.x"),
    ] {
        // A value may break more than one rule of its schema.
        let reported = violations(&server.alerts().create_alert(request).await.unwrap_err());
        assert!(
            reported.iter().all(|(field, message)| field == expect && !message.is_empty()),
            "{expect}: {reported:?}"
        );
    }
    let everything = CreateAlertRequest {
        user_id: -1,
        symbols: vec!["🚀".into(), "A".into()],
        lifecycle: Some(Lifecycle { repeat: 3 }),
        ..moves(&json!({}))
    };
    let status = server.alerts().create_alert(everything).await.unwrap_err();
    assert_eq!(fields(&status), ["lifecycle.repeat", "user_id", "symbols[0]", "params.direction"]);
    for missing in [
        CreateAlertRequest { rule: "absent".into(), ..moves(&up) },
        CreateAlertRequest { version: "9.9.9".into(), ..moves(&up) },
    ] {
        assert_eq!(server.alerts().create_alert(missing).await.unwrap_err().code(), Code::NotFound);
    }
    let all = server.alerts().list_alerts(ListAlertsRequest::default()).await.unwrap().into_inner();
    assert_eq!(all.alerts, [], "a refused request leaves nothing behind");
}

#[tokio::test]
async fn a_bad_field_of_a_question_is_named() {
    let server = start().await;
    for id in [0, -1, i64::MIN] {
        assert_eq!(fields(&server.alerts().get_alert(GetAlertRequest { id }).await.unwrap_err()), ["id"]);
        assert_eq!(fields(&server.alerts().delete_alert(DeleteAlertRequest { id }).await.unwrap_err()), ["id"]);
    }
    let absent = server.alerts().get_alert(GetAlertRequest { id: i64::MAX }).await.unwrap_err();
    assert_eq!(absent.code(), Code::NotFound);
    let list = |user_id, page_size, page_token: &str| ListAlertsRequest {
        user_id,
        active_only: false,
        page_size,
        page_token: page_token.into(),
    };
    for (request, expect) in [
        (list(-1, 0, ""), "user_id"),
        (list(0, -1, ""), "page_size"),
        (list(0, 501, ""), "page_size"),
        (list(0, i32::MAX, ""), "page_size"),
        (list(0, 0, "x"), "page_token"),
        (list(0, 0, "-1"), "page_token"),
        (list(0, 0, "99999999999999999999"), "page_token"),
    ] {
        assert_eq!(fields(&server.alerts().list_alerts(request).await.unwrap_err()), [expect]);
    }
}
