//! The standard health service: all services are as ready as the process.

use std::time::Duration;

use tocsin_health::Health;
use tocsin_proto::alert::alert_service_server::SERVICE_NAME as PRICE_ALERTS;
use tocsin_proto::tocsin::v1::alert_service_server::SERVICE_NAME as ALERTS;
use tocsin_proto::tocsin::v1::rule_service_server::SERVICE_NAME as RULES;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// How often readiness is checked.
const CHECK_EVERY: Duration = Duration::from_secs(3);

/// Every service, and the empty name, which stands for the server.
pub(super) const SERVICES: [&str; 4] = ["", PRICE_ALERTS, ALERTS, RULES];

/// Publishes readiness until stopped, and then that no service is served any more.
pub(super) async fn watch(health: &Health, reporter: &HealthReporter, stop: &CancellationToken) {
    let follow = async {
        loop {
            publish(reporter, health.report().await.ready).await;
            tokio::time::sleep(CHECK_EVERY).await;
        }
    };
    stop.run_until_cancelled(follow).await;
    publish(reporter, false).await;
}

/// Sets the status of all services, for checks and for watches.
pub(super) async fn publish(reporter: &HealthReporter, ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}
