//! A client of the real server, over the real store and bus, in a folder of its own.

mod alerts;
mod firings;
mod price_alerts;
mod rules;
mod server;

use std::net::SocketAddr;
use std::sync::Arc;

use tempfile::TempDir;
use tocsin_engine::Engine;
use tocsin_engine::domain::Tenant;
use tocsin_proto::alert::alert_service_client::AlertServiceClient as PriceAlertServiceClient;
use tocsin_proto::tocsin::v1::alert_service_client::AlertServiceClient;
use tocsin_proto::tocsin::v1::rule_service_client::RuleServiceClient;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Error};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::serve;
use crate::api::Api;
use crate::bus::{Bus, Clock, EmbeddedBus, EmbeddedDb, LogConfig};
use crate::control::Control;
use crate::health::Health;
use crate::library::Library;
use crate::prices::{EmbeddedPrices, Prices};
use crate::store::Store;

/// When everything in these tests happens: 2023-11-14T22:13:20.123Z.
const NOW_MS: i64 = 1_700_000_000_123;

struct Server {
    address: SocketAddr,
    channel: Channel,
    store: Store,
    health: Health,
    stop: CancellationToken,
    served: JoinHandle<Result<(), Error>>,
    _dir: TempDir,
}

impl Server {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock: Clock = Arc::new(|| NOW_MS);
        let db = EmbeddedDb::open(dir.path()).unwrap();
        let bus = Bus::Embedded(EmbeddedBus::open(&db, LogConfig::default(), clock.clone()).unwrap());
        let prices = Prices::Embedded(EmbeddedPrices::open(&db).unwrap());
        let store = Store::open_sqlite(dir.path()).await.unwrap();
        let library = Library::new(Engine::new().unwrap(), store.clone());
        let control = Control::new(store.clone(), bus.clone(), library, clock);
        let tenant = Tenant::standard();
        control.install_builtins(&tenant).await.unwrap();
        let health = Health::new(store.clone(), None);
        let api = Api { control, prices, bus, health: health.clone(), tickers: Arc::from([]), tenant };

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, api, stop.clone()));
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { address, channel, store, health, stop, served, _dir: dir }
    }

    fn price_alerts(&self) -> PriceAlertServiceClient<Channel> {
        PriceAlertServiceClient::new(self.channel.clone())
    }

    fn alerts(&self) -> AlertServiceClient<Channel> {
        AlertServiceClient::new(self.channel.clone())
    }

    fn rules(&self) -> RuleServiceClient<Channel> {
        RuleServiceClient::new(self.channel.clone())
    }
}

/// The fields that a refusal names.
#[track_caller]
fn violations(status: &Status) -> Vec<(String, String)> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let violations = status.get_details_bad_request().expect("details that name the fields").field_violations;
    violations.into_iter().map(|violation| (violation.field, violation.description)).collect()
}

#[track_caller]
fn fields(status: &Status) -> Vec<String> {
    violations(status).into_iter().map(|(field, _)| field).collect()
}

/// A rule with a param of each kind, that never fires.
fn module(name: &str, version: &str) -> Vec<u8> {
    let manifest = serde_json::json!({
        "abi": 1, "name": name, "version": version, "description": "Holds.", "author": "A test",
        "params": {
            "schema": {
                "type": "object", "additionalProperties": false, "required": ["direction"],
                "properties": {
                    "percent": { "type": "number", "minimum": 0.01, "maximum": 1000, "default": 5 },
                    "window_ms": { "type": "integer", "minimum": 1000, "maximum": 86_400_000, "default": 300_000 },
                    "direction": { "type": "string", "enum": ["up", "down"] },
                },
            },
            "layout": [
                { "name": "percent", "type": "f64", "offset": 0 },
                { "name": "window_ms", "type": "u32", "offset": 8 },
                { "name": "direction", "type": "enum", "offset": 12 },
            ],
            "size": 16,
        },
        "state": { "size": 8 }, "evidence": ["change"], "sleeps": false,
    });
    let manifest = manifest.to_string().replace('\\', "\\\\").replace('"', "\\\"");
    let text = format!(
        "(module (memory (export \"memory\") 0)
           (func (export \"evaluate\") (param i32 i32 i32 i32) (result i32) (i32.const 0))
           (@custom \"tocsin.manifest\" \"{manifest}\"))"
    );
    wat::parse_str(text).unwrap()
}
