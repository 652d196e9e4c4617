//! The deliver role. It stops last, and so delivers what the evaluator of its process finds until its end.

use super::{Process, owner};
use crate::delivery::{self, DeliveryConfig};
use crate::wire::firing_json;

/// Starts to deliver firings, where there is a Kafka to deliver them to.
pub(super) async fn start(process: &mut Process<'_>) -> anyhow::Result<()> {
    let Some(kafka) = &process.settings.kafka else { return Ok(()) };
    let store = process.backends.store().await?;
    let config = DeliveryConfig { owner: owner::name(), kafka: kafka.firings.clone(), body: firing_json };
    let component = process.status.health.component("deliver");
    let stop = process.tasks.delivery.stop.clone();
    process.tasks.delivery.spawn(async move {
        delivery::run(store, config, component, stop).await;
        Ok(())
    });
    Ok(())
}
