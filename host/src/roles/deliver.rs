//! The deliver role. It stops last, and so tells what the evaluator of its process has found out at its end.

use super::owner;
use super::stages::Stages;
use crate::api::rest::firing_json;
use crate::bus::KafkaConfig;
use crate::delivery::{self, DeliveryConfig};
use crate::health::Health;
use crate::store::Store;

pub(super) fn start(kafka: &KafkaConfig, store: Store, health: &Health, stages: &mut Stages) {
    let config = DeliveryConfig { owner: owner::name(), kafka: kafka.clone(), body: firing_json };
    let (part, stop) = (health.part("deliver"), stages.senders.stop.clone());
    stages.senders.spawn(async move {
        delivery::run(store, config, part, stop).await;
        Ok(())
    });
}
