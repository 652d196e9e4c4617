//! A client of the real server, over real backends.

mod alerts;
mod faults;
mod firings;
mod price_alerts;
mod rules;
mod server;

use std::net::SocketAddr;

use tocsin_proto::alert::alert_service_client::AlertServiceClient as PriceAlertServiceClient;
use tocsin_proto::tocsin::v1::alert_service_client::AlertServiceClient;
use tocsin_proto::tocsin::v1::rule_service_client::RuleServiceClient;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::serve;
use crate::api::fixture::{Backends, NOW_MS, backends};

struct Server {
    address: SocketAddr,
    channel: Channel,
    backends: Backends,
    stop: CancellationToken,
    served: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let backends = backends().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, backends.api.clone(), stop.clone()));
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { address, channel, backends, stop, served }
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
