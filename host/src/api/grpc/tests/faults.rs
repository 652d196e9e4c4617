//! `tocsin.v1`: faults, release from quarantine, impure rules and caps.

use serde_json::json;
use tocsin_engine::domain::{AlertId, Conditions, Position, Tenant, Tick};
use tocsin_engine::{Fault as EngineFault, FaultBundle};
use tocsin_proto::tocsin::v1::{
    Binding, BindingStatus, CreateAlertRequest, Fault, GetRuleRequest, ListFaultsRequest, ReleaseAlertRequest,
};
use tocsin_store::{Commit, NewFault};
use tonic::Code;

use super::{NOW_MS, Server, fields};
use crate::api::grpc::structs;

fn above(symbols: &[String]) -> CreateAlertRequest {
    CreateAlertRequest {
        user_id: 1,
        symbols: symbols.to_vec(),
        rule: "above".into(),
        params: Some(structs::from_json(&json!({ "target": 150 }))),
        ..Default::default()
    }
}

async fn commit(server: &Server, commit: Commit) {
    let claim = server.backends.store.claim(0).await.unwrap();
    server.backends.store.commit(&[claim], &commit).await.unwrap();
}

/// Records that the first binding of alert 1 faulted at an offset and is quarantined for it.
async fn fault(server: &Server, offset: u64) {
    let alert = server.backends.store.alert(&Tenant::standard(), AlertId(1)).await.unwrap().unwrap();
    let binding = &alert.bindings[0];
    let bundle = FaultBundle {
        tick: Tick::new(binding.symbol.clone(), 151.25, 100.0, NOW_MS, Conditions::default()).unwrap(),
        rule: alert.rule.clone(),
        position: Position { partition: 0, offset },
        params: alert.params.packed.clone(),
        state: Vec::new(),
        fuel: 100_000,
        fault: EngineFault::OutOfFuel,
    };
    let fault = NewFault { alert: alert.id, binding: binding.id, quarantined: true, bundle: Box::new(bundle) };
    commit(server, Commit { faults: vec![fault], ..Commit::default() }).await;
}

#[tokio::test]
async fn faults_are_listed_and_their_alert_is_released() {
    let server = Server::start().await;
    let alert = server.alerts().create_alert(above(&["AAPL".into(), "MSFT".into()])).await.unwrap().into_inner();
    for offset in [3, 4] {
        fault(&server, offset).await;
    }
    let list =
        |page_size, page_token: &str| ListFaultsRequest { alert_id: 1, page_size, page_token: page_token.into() };
    let first = server.alerts().list_faults(list(1, "")).await.unwrap().into_inner();
    let second = server.alerts().list_faults(list(1, &first.next_page_token)).await.unwrap().into_inner();
    let expect = Fault {
        id: second.faults[0].id.clone(),
        alert_id: 1,
        kind: "out_of_fuel".into(),
        fault: "one evaluation burnt more than 100000 fuel".into(),
        quarantined: true,
        symbol: "AAPL".into(),
        price: 151.25,
        volume: 100.0,
        timestamp: NOW_MS,
        partition: 0,
        offset: 4,
        rule: "above".into(),
        version: alert.version,
        digest: alert.digest,
    };
    assert_eq!((second.faults, second.next_page_token), (vec![expect], String::new()));

    let release = |symbol: &str| ReleaseAlertRequest { id: 1, symbol: symbol.into() };
    let untouched = server.alerts().release_alert(release("MSFT")).await.unwrap_err();
    assert_eq!(untouched.code(), Code::FailedPrecondition, "{untouched}");
    let released = server.alerts().release_alert(release("")).await.unwrap().into_inner();
    let active =
        Binding { symbol: "AAPL".into(), status: BindingStatus::Active.into(), reason: String::new(), suppressed: 0 };
    assert_eq!(released.bindings[0], active);
    let again = server.alerts().release_alert(release("AAPL")).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition, "{again}");
}

#[tokio::test]
async fn bad_requests_are_named_by_their_field() {
    let server = Server::start().await;
    server.alerts().create_alert(above(&["AAPL".into()])).await.unwrap();
    for (id, symbol, expect) in [(0, "", "id"), (-1, "", "id"), (1, "🚀", "symbol"), (1, "MSFT", "symbol")] {
        let request = ReleaseAlertRequest { id, symbol: symbol.into() };
        assert_eq!(fields(&server.alerts().release_alert(request).await.unwrap_err()), [expect]);
    }
    for (alert_id, page_size, page_token, expect) in
        [(0, 0, "", "alert_id"), (1, -1, "", "page_size"), (1, 501, "", "page_size"), (1, 0, "x", "page_token")]
    {
        let request = ListFaultsRequest { alert_id, page_size, page_token: page_token.into() };
        assert_eq!(fields(&server.alerts().list_faults(request).await.unwrap_err()), [expect]);
    }
    let absent = ReleaseAlertRequest { id: 9, symbol: String::new() };
    assert_eq!(server.alerts().release_alert(absent).await.unwrap_err().code(), Code::NotFound);
    let absent = ListFaultsRequest { alert_id: 9, ..Default::default() };
    assert_eq!(server.alerts().list_faults(absent).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn an_impure_rule_and_a_full_one_take_no_alert() {
    let server = Server::start().await;
    let symbols: Vec<String> = (0..100).map(|i| format!("S{i}")).collect();
    for _ in 0..6 {
        server.alerts().create_alert(above(&symbols)).await.unwrap();
    }
    let full = server.alerts().create_alert(above(&symbols[..1])).await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted);
    assert!(full.message().contains("of at most 600"), "{full}");

    let rule = server.backends.api.control.rule(&Tenant::standard(), "above", None).await.unwrap().reference;
    commit(&server, Commit { impure_rules: vec![(rule, "code 0, then 1".into())], ..Commit::default() }).await;
    let refused = server.alerts().create_alert(above(&symbols[..1])).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let request = GetRuleRequest { name: "above".into(), version: String::new() };
    let rule = server.rules().get_rule(request).await.unwrap().into_inner();
    assert_eq!(rule.quarantine.map(|quarantine| quarantine.reason).as_deref(), Some("code 0, then 1"));
}
