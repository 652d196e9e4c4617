//! `tocsin.v1.AlertService`: reading and watching firings.

use serde_json::json;
use tocsin_engine::domain::{
    AlertId, BindingId, Conditions, Firing, FiringId, Position, Repeat as RepeatTerms, Symbol, Tenant, Tick,
};
use tocsin_proto::tocsin::v1::{
    CreateAlertRequest, DeleteAlertRequest, Firing as FiringMessage, Lifecycle, ListFiringsRequest, Repeat,
    WatchFiringsRequest,
};
use tocsin_store::{Claim, Commit};
use tonic::{Code, Streaming};

use super::{NOW_MS, Server, fields};
use crate::api::fixture::MAX_STREAMS;
use crate::api::grpc::structs;

/// The partition that these firings are made on, whatever their symbol's is.
const PARTITION: u32 = 3;

/// A server, an alert on it that fires every time, and the right to record its firings.
struct Firings {
    server: Server,
    claim: Claim,
}

impl Firings {
    async fn start() -> Self {
        let server = Server::start().await;
        for _ in 0..2 {
            let request = CreateAlertRequest {
                user_id: 1,
                symbols: vec!["AAPL".into()],
                rule: "above".into(),
                params: Some(structs::from_json(&json!({ "target": 150 }))),
                lifecycle: Some(Lifecycle { repeat: Repeat::Every.into() }),
                ..Default::default()
            };
            server.alerts().create_alert(request).await.unwrap();
        }
        let claim = server.backends.store.claim(PARTITION).await.unwrap();
        Self { server, claim }
    }

    /// Records a firing of an alert at an offset, as an evaluator does; returns its id.
    async fn fire(&self, alert: i64, offset: u64) -> String {
        let tenant = Tenant::standard();
        let alert = self.server.backends.store.alert(&tenant, AlertId(alert)).await.unwrap().unwrap();
        assert_eq!(alert.lifecycle.repeat, RepeatTerms::Every);
        let binding: BindingId = alert.bindings[0].id;
        let position = Position { partition: PARTITION, offset };
        let symbol = Symbol::parse("AAPL").unwrap();
        let firing = Firing {
            id: FiringId::derive(binding, position),
            tenant,
            alert: alert.id,
            binding,
            tick: Tick::new(symbol, 151.25, 100.0, NOW_MS, Conditions::default()).unwrap(),
            position,
            rule: alert.rule,
            evidence: vec![("target".into(), 150.0)],
        };
        let id = firing.id.to_string();
        let commit = Commit { firings: vec![(firing, false)], ..Default::default() };
        assert_eq!(self.server.backends.store.commit(std::slice::from_ref(&self.claim), &commit).await.unwrap(), 1);
        id
    }

    async fn watch(&self, alert_id: i64, after: &str) -> Streaming<FiringMessage> {
        let request = WatchFiringsRequest { alert_id, after: after.into() };
        self.server.alerts().watch_firings(request).await.unwrap().into_inner()
    }
}

async fn next(watch: &mut Streaming<FiringMessage>) -> String {
    watch.message().await.unwrap().expect("the watch goes on").id
}

#[tokio::test]
async fn firings_are_listed_whole_and_in_pages() {
    let firings = Firings::start().await;
    let (a, b, c) = (firings.fire(1, 10).await, firings.fire(2, 10).await, firings.fire(1, 11).await);
    let list = async |alert_id, page_size, token: &str| {
        let request = ListFiringsRequest { alert_id, page_size, page_token: token.into() };
        firings.server.alerts().list_firings(request).await.unwrap().into_inner()
    };
    let page = list(0, 2, "").await;
    assert_eq!(page.firings.iter().map(|firing| &firing.id).collect::<Vec<_>>(), [&a, &b]);
    let last = list(0, 2, &page.next_page_token).await;
    assert_eq!((last.firings[0].id.as_str(), last.next_page_token.as_str()), (c.as_str(), ""));
    let own = list(1, 0, "").await.firings;
    assert_eq!(own.iter().map(|firing| &firing.id).collect::<Vec<_>>(), [&a, &c]);
    let expect = FiringMessage {
        id: a,
        alert_id: 1,
        symbol: "AAPL".into(),
        price: 151.25,
        volume: 100.0,
        timestamp: NOW_MS,
        partition: PARTITION as i32,
        offset: 10,
        rule: "above".into(),
        version: "1.0.0".into(),
        digest: own[0].digest.clone(),
        evidence: [("target".to_owned(), 150.0)].into(),
    };
    assert_eq!(own[0], expect);
    firings.server.alerts().delete_alert(DeleteAlertRequest { id: 1 }).await.unwrap();
    assert_eq!(list(1, 0, "").await.firings, own, "firings outlive their alert");
    let never = ListFiringsRequest { alert_id: 99, ..Default::default() };
    assert_eq!(firings.server.alerts().list_firings(never).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_watch_resumes_after_the_last_firing_seen() {
    let firings = Firings::start().await;
    let old = firings.fire(1, 1).await;
    let mut watch = firings.watch(0, "").await;
    let mut own = firings.watch(1, "").await;
    let (a, b) = (firings.fire(1, 2).await, firings.fire(2, 2).await);
    assert_eq!([next(&mut watch).await, next(&mut watch).await], [a.clone(), b.clone()], "new ones only");
    assert_eq!(next(&mut own).await, a);
    drop(watch);

    let missed = firings.fire(1, 3).await;
    let mut watch = firings.watch(0, &a).await;
    assert_eq!([next(&mut watch).await, next(&mut watch).await], [b, missed.clone()]);
    assert_eq!(next(&mut own).await, missed, "another alert's firing is none of its business");
    let mut all = firings.watch(1, &old).await;
    assert_eq!([next(&mut all).await, next(&mut all).await], [a, missed]);
}

#[tokio::test]
async fn a_watch_that_is_cut_before_its_first_firing_resumes_without_a_gap() {
    let firings = Firings::start().await;
    for round in 1..3 {
        let request = WatchFiringsRequest { alert_id: 0, after: String::new() };
        let watch = firings.server.alerts().watch_firings(request).await.unwrap();
        let cursor = watch.metadata().get("tocsin-after").unwrap().to_str().unwrap().to_owned();
        drop(watch);
        let missed = firings.fire(1, round).await;
        assert_eq!(next(&mut firings.watch(0, &cursor).await).await, missed, "behind {cursor}");
    }
    let request = WatchFiringsRequest { alert_id: 0, after: "start".into() };
    let watch = firings.server.alerts().watch_firings(request).await.unwrap();
    assert_eq!(watch.metadata().get("tocsin-after").unwrap(), "start");
}

#[tokio::test]
async fn watches_are_so_many_and_one_that_ends_makes_room() {
    let firings = Firings::start().await;
    let request = || WatchFiringsRequest { alert_id: 0, after: String::new() };
    let mut watches = Vec::new();
    for _ in 0..MAX_STREAMS {
        watches.push(firings.watch(0, "").await);
    }
    let refused = firings.server.alerts().watch_firings(request()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("try again in 10 s") && refused.message().contains("--max-streams"));
    let a = firings.fire(1, 1).await;
    for watch in &mut watches {
        assert_eq!(next(watch).await, a, "those that are open go on");
    }
    watches.pop();
    // Its end is noticed in a moment.
    while firings.server.alerts().watch_firings(request()).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_stop_ends_watches() {
    let firings = Firings::start().await;
    let mut watch = firings.watch(0, "").await;
    firings.server.stop.cancel();
    assert!(watch.message().await.unwrap().is_none());
    firings.server.served.await.unwrap();
}

#[tokio::test]
async fn a_bad_field_is_named() {
    let firings = Firings::start().await;
    let mut client = firings.server.alerts();
    let list = |alert_id, page_size, page_token: &str| ListFiringsRequest {
        alert_id,
        page_size,
        page_token: page_token.into(),
    };
    let unknown = FiringId::from_bytes([7; 16]).to_string();
    for (request, expect) in [
        (list(-1, 0, ""), "alert_id"),
        (list(0, -1, ""), "page_size"),
        (list(0, 501, ""), "page_size"),
        (list(0, 0, "7"), "page_token"),
        (list(0, 0, &unknown), "page_token"),
    ] {
        assert_eq!(fields(&client.list_firings(request).await.unwrap_err()), [expect]);
    }
    for (alert_id, after, expect) in [(-1, "", "alert_id"), (0, "7", "after"), (0, unknown.as_str(), "after")] {
        let request = WatchFiringsRequest { alert_id, after: after.into() };
        assert_eq!(fields(&client.watch_firings(request).await.unwrap_err()), [expect]);
    }
    let absent = client.list_firings(list(99, 0, "")).await.unwrap_err();
    assert_eq!(absent.code(), Code::NotFound);
    let absent = client.watch_firings(WatchFiringsRequest { alert_id: 99, after: String::new() }).await.unwrap_err();
    assert_eq!(absent.code(), Code::NotFound);
}
