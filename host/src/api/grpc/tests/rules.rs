//! `tocsin.v1.RuleService`.

use prost_types::Timestamp;
use serde_json::json;
use tocsin_engine::builtin;
use tocsin_engine::domain::Digest;
use tocsin_engine::limits::MAX_MODULE_BYTES;
use tocsin_proto::tocsin::v1::{
    CancelPromotionRequest, CreateAlertRequest, GetRuleRequest, ListRulesRequest, PromoteRuleRequest, UploadRuleRequest,
};
use tonic::Code;

use super::{NOW_MS, Server, fields, module, violations};
use crate::api::grpc::structs;

fn upload(module: impl Into<Vec<u8>>) -> UploadRuleRequest {
    UploadRuleRequest { module: module.into() }
}

fn named(name: &str, version: &str) -> GetRuleRequest {
    GetRuleRequest { name: name.into(), version: version.into() }
}

#[tokio::test]
async fn an_uploaded_rule_is_returned_in_full() {
    let server = Server::start().await;
    let mut client = server.rules();
    let bytes = module("moves", "1.2.0");
    let uploaded = client.upload_rule(upload(bytes.clone())).await.unwrap().into_inner();
    assert!(uploaded.created);
    let rule = uploaded.rule.unwrap();
    assert_eq!((rule.name.as_str(), rule.version.as_str()), ("moves", "1.2.0"));
    assert_eq!(rule.digest, Digest::of(&bytes).to_string());
    assert_eq!((rule.description.as_str(), rule.author.as_str()), ("Holds.", "A test"));
    assert_eq!((rule.params_size, rule.state_size, rule.sleeps), (16, 8, false));
    assert_eq!(rule.evidence, ["change"]);
    let schema = structs::to_json("", rule.params_schema.clone().unwrap()).unwrap();
    assert_eq!(schema["properties"]["window_ms"]["default"], json!(300_000));
    let created_at = Timestamp { seconds: NOW_MS / 1_000, nanos: 123_000_000 };
    assert_eq!(rule.created_at, Some(created_at));

    let again = client.upload_rule(upload(bytes)).await.unwrap().into_inner();
    assert_eq!((again.created, again.rule.as_ref()), (false, Some(&rule)));
    for version in ["", "1.2.0"] {
        assert_eq!(client.get_rule(named("moves", version)).await.unwrap().into_inner(), rule);
    }
}

#[tokio::test]
async fn versions_never_change_and_the_newest_is_listed() {
    let server = Server::start().await;
    let mut client = server.rules();
    for version in ["1.9.0", "1.10.0", "1.2.0"] {
        client.upload_rule(upload(module("moves", version))).await.unwrap();
    }
    let mut other = module("moves", "1.9.0");
    // An empty custom section named `x`: other bytes, the same rule.
    other.extend([0, 2, 1, b'x']);
    let status = client.upload_rule(upload(other)).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status:?}");

    let (mut names, mut token) = (Vec::new(), String::new());
    loop {
        let request = ListRulesRequest { page_size: 2, page_token: token };
        let page = client.list_rules(request).await.unwrap().into_inner();
        names.extend(page.rules.into_iter().map(|rule| format!("{} {}", rule.name, rule.version)));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["above 1.0.0", "below 1.0.0", "moves 1.10.0"]);
}

#[tokio::test]
async fn what_is_no_rule_is_refused_with_every_reason() {
    let server = Server::start().await;
    let good = module("moves", "1.0.0");
    let too_large = [builtin::ABOVE, &vec![0; MAX_MODULE_BYTES]].concat();
    for (bytes, expect) in [
        (Vec::new(), "[format]"),
        (b"hello".to_vec(), "[format]"),
        (good[..good.len() / 2].to_vec(), "[format]"),
        (too_large, "[limit]"),
        (vec![0; 3 * MAX_MODULE_BYTES], "[limit] the module is larger than the 1048576 bytes"),
        (wat::parse_str("(module)").unwrap(), "[export]"),
    ] {
        let reported = violations(&server.rules().upload_rule(upload(bytes)).await.unwrap_err());
        assert!(reported.iter().all(|(field, _)| field == "module"), "{reported:?}");
        assert!(reported.iter().any(|(_, text)| text.starts_with(expect)), "{expect}: {reported:?}");
    }
}

#[tokio::test]
async fn a_bad_field_is_named() {
    let server = Server::start().await;
    for (request, expect) in [
        (named("", ""), "name"),
        (named("Above", ""), "name"),
        (named(&"a".repeat(500_000), ""), "name"),
        (named("above", "one"), "version"),
        (named("above", &"1".repeat(500_000)), "version"),
    ] {
        assert_eq!(fields(&server.rules().get_rule(request).await.unwrap_err()), [expect]);
    }
    for (page_size, page_token, expect) in
        [(-1, "", "page_size"), (501, "", "page_size"), (i32::MIN, "", "page_size"), (0, "A B", "page_token")]
    {
        let request = ListRulesRequest { page_size, page_token: page_token.into() };
        assert_eq!(fields(&server.rules().list_rules(request).await.unwrap_err()), [expect]);
    }
    for missing in [named("absent", ""), named("above", "9.9.9")] {
        let status = server.rules().get_rule(missing).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        assert!(!status.message().contains('/'), "a path of REST means nothing here: {}", status.message());
    }
}

#[tokio::test]
async fn a_promotion_that_waits_is_cancelled() {
    let server = Server::start().await;
    for version in ["1.0.0", "2.0.0"] {
        server.rules().upload_rule(upload(module("moves", version))).await.unwrap();
    }
    let alert = CreateAlertRequest {
        user_id: 1,
        symbols: vec!["BTCUSDT".into()],
        rule: "moves".into(),
        version: "1.0.0".into(),
        params: Some(structs::from_json(&json!({ "direction": "up" }))),
        lifecycle: None,
    };
    server.alerts().create_alert(alert).await.unwrap();
    let cancel = || CancelPromotionRequest { name: "moves".into(), version: "2.0.0".into() };
    let none = server.rules().cancel_promotion(cancel()).await.unwrap_err();
    assert_eq!((none.code(), none.message()), (Code::NotFound, "no promotion of moves to 2.0.0 is under way"));
    let nothing = CancelPromotionRequest { name: "moves".into(), version: "two".into() };
    assert_eq!(fields(&server.rules().cancel_promotion(nothing).await.unwrap_err()), ["version"]);
    // No evaluator is there to hand anything over.
    let cancel_once_it_waits = async {
        while server.backends.store.unfinished_promotion().await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        server.rules().cancel_promotion(cancel()).await
    };
    let promote =
        PromoteRuleRequest { name: "moves".into(), version: "2.0.0".into(), from: String::new(), reset_state: true };
    let (mut promoting, cancelling) = (server.rules(), cancel_once_it_waits);
    let (promoted, cancelled) = tokio::join!(promoting.promote_rule(promote), cancelling);
    assert_eq!(cancelled.unwrap().into_inner().given_back, 0);
    let aborted = promoted.unwrap_err();
    assert!(aborted.code() == Code::Aborted && aborted.message().contains("cancelled"), "{aborted:?}");
}
