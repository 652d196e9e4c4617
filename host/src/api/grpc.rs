//! gRPC: the services of `proto/` over the use cases, with reflection and health.
//!
//! `from_proto` and `to_proto` convert, `status` is the one table of errors; a service's file only calls.

mod alerts;
mod body_deadline;
mod calls;
mod from_proto;
mod health;
mod http2;
mod preface;
mod price_alerts;
mod rules;
mod status;
mod structs;
#[cfg(test)]
mod tests;
mod to_proto;
mod watch;

use std::time::Duration;

use tocsin_engine::limits::MAX_MODULE_BYTES;
use tocsin_proto::FILE_DESCRIPTOR_SET;
use tocsin_proto::alert::alert_service_server::AlertServiceServer as PriceAlertServiceServer;
use tocsin_proto::tocsin::v1::alert_service_server::AlertServiceServer;
use tocsin_proto::tocsin::v1::rule_service_server::RuleServiceServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_reflection::server::Builder as Reflection;

use self::calls::Calls;
use super::Api;

/// The largest other request, in bytes: an alert has a few KiB.
const MAX_REQUEST_BYTES: usize = MAX_MODULE_BYTES + 64 * 1024;

/// The largest request to the rule service, in bytes: so much room that who uploads a module that is some times too large
/// still hears of it as of any other violation.
const MAX_UPLOAD_BYTES: usize = 4 * MAX_MODULE_BYTES;

/// How long calls may take to end after the stop. Streams of ours end at once; a client may hold a health or
/// reflection stream open for ever.
const GRACE: Duration = Duration::from_secs(5);

/// Serves until stopped. Watches then end, other calls may finish within [`GRACE`].
pub async fn serve(listener: TcpListener, api: Api, stop: CancellationToken) {
    let (reporter, health_service) = tonic_health::server::health_reporter();
    // Known to the health service from the first call on; ready once the first look says so.
    health::publish(&reporter, false).await;
    let reflection = || {
        Reflection::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let valid = "the descriptors were written by the compiler of the .proto files";
    let routes = Routes::new(reflection().build_v1().expect(valid))
        .add_service(reflection().build_v1alpha().expect(valid))
        .add_service(health_service)
        .add_service(
            PriceAlertServiceServer::new(price_alerts::Service(api.clone()))
                .max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(
            AlertServiceServer::new(alerts::Service { api: api.clone(), stop: stop.clone() })
                .max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(RuleServiceServer::new(rules::Service(api.clone())).max_decoding_message_size(MAX_UPLOAD_BYTES));
    let calls = Calls::new(routes, api.status.connections.streams().clone());
    tokio::join!(
        http2::serve(listener, calls, &api.status.connections, GRACE, stop.clone()),
        health::watch(&api.status.health, &reporter, &stop),
    );
}
