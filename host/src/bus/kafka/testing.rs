//! A bus for tests, on the Kafka that `cargo xtask test` starts.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{KafkaBus, KafkaConfig};
use crate::bus::Bus;

/// A bus on a fresh topic of 8 partitions.
pub(crate) async fn fresh_topic() -> Bus {
    Bus::Kafka(KafkaBus::open(config()).await.unwrap())
}

/// A topic that nobody has used.
pub(crate) fn config() -> KafkaConfig {
    static TOPICS: AtomicU32 = AtomicU32::new(0);
    let brokers = std::env::var("TOCSIN_TEST_KAFKA_BROKERS")
        .expect("TOCSIN_TEST_KAFKA_BROKERS is not set: run `cargo xtask test`, which starts Kafka");
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let topic = format!("ticks-{}-{}-{}", since.as_millis(), std::process::id(), TOPICS.fetch_add(1, Relaxed));
    KafkaConfig { brokers, topic, partitions: 8, replication: None, options: Vec::new() }
}
