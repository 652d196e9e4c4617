//! The routes over real backends.

mod bad_input;
mod candles;
mod faults;
mod gostocks;
mod live;
mod status;
mod v1;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use serde_json::Value;
use tocsin_engine::domain::{AlertId, Conditions, Firing, FiringId, Position, Symbol, Tick};
use tocsin_store::Commit;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{Served, router};
use crate::api::fixture::{Backends, backends};

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
const WASM: &[(&str, &str)] = &[("content-type", "application/wasm")];

struct Fixture {
    backends: Backends,
    router: Router,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.text()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn fixture() -> Fixture {
    let backends = backends().await;
    let router = router(Served::new(backends.api.clone(), CancellationToken::new()));
    Fixture { backends, router }
}

impl Fixture {
    async fn call(&self, method: &str, uri: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Reply {
        let request = Request::builder().method(method).uri(uri).header("host", "localhost");
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let response = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Reply { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&self, uri: &str) -> Reply {
        self.call("GET", uri, &[], "").await
    }

    async fn post_json(&self, uri: &str, body: &Value) -> Reply {
        self.call("POST", uri, JSON, body.to_string()).await
    }

    /// Records that the first binding of an alert fired on the tick at an offset, as an evaluator does.
    async fn fire(&self, alert: i64, offset: u64) -> Firing {
        let Backends { api, store, .. } = &self.backends;
        let alert = store.alert(&api.tenant, AlertId(alert)).await.unwrap().unwrap();
        let binding = &alert.bindings[0];
        let position = Position { partition: binding.counts_from.unwrap().partition, offset };
        let firing = Firing {
            id: FiringId::derive(binding.id, position),
            tenant: alert.tenant.clone(),
            alert: alert.id,
            binding: binding.id,
            tick: tick(binding.symbol.as_str(), 151.5),
            position,
            rule: alert.rule.clone(),
            evidence: vec![("target".into(), 150.0)],
        };
        let claim = store.claim(position.partition).await.unwrap();
        let last = alert.lifecycle.repeat == tocsin_engine::domain::Repeat::Once;
        let commit = Commit { firings: vec![(firing.clone(), last)], ..Commit::default() };
        assert_eq!(store.commit(&[claim], &commit).await.unwrap(), 1);
        firing
    }
}

fn symbol(text: &str) -> Symbol {
    Symbol::parse(text).unwrap()
}

fn tick(name: &str, price: f64) -> Tick {
    Tick::new(symbol(name), price, 0.5, 1_723_161_256_322, Conditions::default()).unwrap()
}

/// A module like `above` with other words in its manifest.
fn module(name: &str, version: &str, description: &str) -> Vec<u8> {
    let manifest =
        format!(r#"{{\"abi\":1,\"name\":\"{name}\",\"version\":\"{version}\",\"description\":\"{description}\"}}"#);
    let source = format!(
        r#"(module (@custom "tocsin.manifest" "{manifest}") (memory (export "memory") 1)
            (func (export "evaluate") (param i32 i32 i32 i32) (result i32) (i32.const 0)))"#
    );
    wat::parse_str(source).unwrap()
}
