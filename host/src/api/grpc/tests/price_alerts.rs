//! GoStocks' service.

use tocsin_proto::alert::{Alert, AlertCondition, CreateAlertRequest, GetAlertsRequest};

use super::{NOW_MS, Server, fields};

fn good() -> CreateAlertRequest {
    CreateAlertRequest { user_id: 1, symbol: "aapl".into(), target_price: 150.0, condition: 1 }
}

#[tokio::test]
async fn a_created_alert_is_listed_as_gostocks_lists_it() {
    let server = Server::start().await;
    let mut client = server.price_alerts();
    let created = client.create_alert(good()).await.unwrap().into_inner();
    assert_eq!((created.alert_id, created.message.as_str()), (1, "Alert created: AAPL ABOVE $150.00"));
    let below = CreateAlertRequest { user_id: 2, symbol: "IC Markets:1".into(), target_price: 1.005, condition: 2 };
    let created = client.create_alert(below).await.unwrap().into_inner();
    assert_eq!((created.alert_id, created.message.as_str()), (2, "Alert created: IC MARKETS:1 BELOW $1.00"));

    let first = Alert {
        id: 1,
        user_id: 1,
        symbol: "AAPL".into(),
        target_price: 150.0,
        condition: AlertCondition::Above.into(),
        triggered: false,
        created_at: NOW_MS / 1_000,
    };
    let second = Alert {
        id: 2,
        user_id: 2,
        symbol: "IC MARKETS:1".into(),
        target_price: 1.005,
        condition: AlertCondition::Below.into(),
        ..first.clone()
    };
    for (user_id, expect) in
        [(0, vec![first.clone(), second.clone()]), (1, vec![first.clone()]), (2, vec![second]), (3, Vec::new())]
    {
        let listed = client.get_alerts(GetAlertsRequest { user_id, active_only: true }).await.unwrap();
        assert_eq!(listed.into_inner().alerts, expect, "user {user_id}");
    }
}

#[tokio::test]
async fn a_bad_field_is_named() {
    let server = Server::start().await;
    let with = |change: fn(&mut CreateAlertRequest)| {
        let mut request = good();
        change(&mut request);
        request
    };
    for (request, expect) in [
        (with(|r| r.user_id = 0), "user_id"),
        (with(|r| r.user_id = -1), "user_id"),
        (with(|r| r.user_id = i32::MIN), "user_id"),
        (with(|r| r.symbol = String::new()), "symbol"),
        (with(|r| r.symbol = "  ".into()), "symbol"),
        (with(|r| r.symbol = "🚀".into()), "symbol"),
        (with(|r| r.symbol = "X".repeat(1_000_000)), "symbol"),
        (with(|r| r.target_price = 0.0), "target_price"),
        (with(|r| r.target_price = -0.0), "target_price"),
        (with(|r| r.target_price = -1.0), "target_price"),
        (with(|r| r.target_price = f64::NAN), "target_price"),
        (with(|r| r.target_price = f64::INFINITY), "target_price"),
        (with(|r| r.target_price = f64::NEG_INFINITY), "target_price"),
        (with(|r| r.condition = 0), "condition"),
        (with(|r| r.condition = 3), "condition"),
        (with(|r| r.condition = -1), "condition"),
    ] {
        let status = server.price_alerts().create_alert(request.clone()).await.unwrap_err();
        assert_eq!(fields(&status), [expect], "{request:?}");
    }
    let status = server.price_alerts().create_alert(CreateAlertRequest::default()).await.unwrap_err();
    assert_eq!(fields(&status), ["condition", "user_id", "symbol", "target_price"]);
    for user_id in [-1, i32::MIN] {
        let request = GetAlertsRequest { user_id, active_only: false };
        assert_eq!(fields(&server.price_alerts().get_alerts(request).await.unwrap_err()), ["user_id"]);
    }
    let all = server.price_alerts().get_alerts(GetAlertsRequest::default()).await.unwrap();
    assert_eq!(all.into_inner().alerts, [], "a refused request leaves nothing behind");
}

#[tokio::test]
async fn the_largest_numbers_are_good() {
    let server = Server::start().await;
    let request = CreateAlertRequest { user_id: i32::MAX, target_price: f64::MAX, ..good() };
    server.price_alerts().create_alert(request).await.unwrap();
    let all = server.price_alerts().get_alerts(GetAlertsRequest::default()).await.unwrap().into_inner().alerts;
    assert_eq!((all[0].user_id, all[0].target_price), (i32::MAX, f64::MAX));
}
