//! The deliver role: firings from the outbox of the store to a Kafka topic.
//!
//! Firings are leased, published, and taken out of the outbox once the brokers have acknowledged them. So a firing is
//! published at least once, and again where a deliverer dies in between, always with the same id. An alert's firings are
//! published in their order: an alert belongs to one deliverer at a time, by the clock of the database, which publishes its
//! firings in turn through an idempotent producer; what is published again begins with the oldest that was not acknowledged.
//! Several deliverers share the work.
//!
//! Limits: one batch at a time, and nothing of the outbox is kept in memory but that. The content of a record is not
//! decided here: `roles` gives the body.

mod cloud_event;
mod deliverer;
mod kafka;
#[cfg(test)]
mod tests;

use tocsin_bus::{BusError, KafkaConfig};
use tocsin_engine::domain::Firing;
use tocsin_health::Component;
use tocsin_store::{Store, StoreError};
use tokio_util::sync::CancellationToken;

use self::deliverer::Deliverer;

/// Writes a firing as it is published: JSON.
pub type Body = fn(Firing) -> String;

/// What a deliverer needs: its store, where it publishes, and how.
#[derive(Clone)]
pub struct DeliveryConfig {
    /// A name that no other deliverer has.
    pub owner: String,
    /// The topic.
    pub kafka: KafkaConfig,
    /// What is published.
    pub body: Body,
}

/// Why a batch was not published. It is tried again.
#[derive(Debug, thiserror::Error)]
enum DeliveryError {
    #[error("firings wait for the store: {0}")]
    Store(#[from] StoreError),
    #[error("firings wait for Kafka: {0}")]
    Bus(#[from] BusError),
    #[error("firings wait for Kafka: {0}")]
    Kafka(#[from] rdkafka::error::KafkaError),
    #[error("the store did not renew the leases in time, and others deliver these firings")]
    LeaseLost,
    #[error("firings are published at the next start: Kafka does not take them within {} s", deliverer::FINISH_TIMEOUT.as_secs())]
    Unfinished,
}

/// Delivers until `stop` is cancelled; then what is leased is published or given back. Backends that are away are waited
/// for, and reported by `component`.
pub async fn run(store: Store, config: DeliveryConfig, component: Component, stop: CancellationToken) {
    Deliverer::new(store, config, component, stop).run().await;
}
