//! Publishes events on a topic, with a client of its own.

use futures_util::future::try_join_all;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tocsin_bus::KafkaConfig;
use tracing::info;

use super::DeliveryError;
use super::cloud_event::Event;

/// A producer on a topic. What it has not sent when the last of its clones is dropped is forgotten.
#[derive(Clone)]
pub(super) struct Publisher {
    producer: FutureProducer,
    topic: String,
}

impl Publisher {
    /// Connects, and creates the topic if it is missing.
    pub(super) async fn open(config: &KafkaConfig) -> Result<Self, DeliveryError> {
        let partitions = config.ensure_topic().await?;
        let mut settings = config.client_with(&[("compression.type", "lz4")]);
        settings
            .set("enable.idempotence", "true")
            // Order is kept by waiting: a record that was given up would come behind those that followed it.
            .set("message.timeout.ms", "0");
        let producer = settings.create()?;
        info!(topic = config.topic, partitions, "firings are published on Kafka");
        Ok(Self { producer, topic: config.topic.clone() })
    }

    /// Publishes events in their order, at most as many as a batch has, and waits until the brokers have all of them.
    pub(super) async fn publish(&self, events: &[Event]) -> Result<(), DeliveryError> {
        let mut sent = Vec::with_capacity(events.len());
        for event in events {
            let headers = event
                .headers
                .iter()
                .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
            let record = FutureRecord::to(&self.topic).key(&event.key).payload(&event.value).headers(headers);
            sent.push(self.producer.send_result(record).map_err(|(error, _)| error)?);
        }
        let acknowledged = async |delivery| match delivery {
            Ok(Ok(_)) => Ok(()),
            Ok(Err((error, _))) => Err(error),
            Err(_) => Err(KafkaError::Canceled),
        };
        try_join_all(sent.into_iter().map(async |delivery| acknowledged(delivery.await).await)).await?;
        Ok(())
    }
}
