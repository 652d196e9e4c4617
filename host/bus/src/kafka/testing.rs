//! A bus for tests, on the Kafka that `cargo xtask test` starts.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test that calls it")]

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
#[cfg(test)]
use rdkafka::producer::Producer as _;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tocsin_engine::domain::Tick;

use super::{KafkaBus, KafkaConfig};
use crate::{Bus, stock_tick};

/// A bus on a fresh topic of 8 partitions.
pub async fn fresh_topic() -> Bus {
    Bus::Kafka(KafkaBus::open(config()).await.unwrap())
}

/// A topic that is new.
pub(crate) fn config() -> KafkaConfig {
    static TOPICS: AtomicU32 = AtomicU32::new(0);
    let brokers = std::env::var("TOCSIN_TEST_KAFKA_BROKERS")
        .expect("TOCSIN_TEST_KAFKA_BROKERS is not set: run `cargo xtask test`, which starts Kafka");
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let topic = format!("ticks-{}-{}-{}", since.as_millis(), std::process::id(), TOPICS.fetch_add(1, Relaxed));
    KafkaConfig { brokers, topic, partitions: 8, replication: None, options: Vec::new() }
}

/// Appends ticks to one partition, whatever their symbols: as a producer with another partitioner does.
pub async fn append(bus: &Bus, partition: u32, ticks: &[Tick]) {
    let Bus::Kafka(bus) = bus else { panic!("a topic has been opened") };
    let producer: FutureProducer = bus.config().client().create().unwrap();
    for tick in ticks {
        let mut message = Vec::new();
        stock_tick::from_tick(tick, &mut message);
        let record = FutureRecord::<str, _>::to(&bus.config().topic).payload(&message);
        producer.send_result(record.partition(partition.cast_signed())).unwrap().await.unwrap().unwrap();
    }
}

/// Appends ticks to one partition in one transaction.
#[cfg(test)]
pub(crate) async fn append_in_transaction(bus: &Bus, partition: u32, ticks: &[Tick]) {
    const TIMEOUT: Duration = Duration::from_secs(30);
    let Bus::Kafka(kafka) = bus else { panic!("a topic has been opened") };
    let id = format!("transaction-{}", kafka.config().topic);
    let producer: FutureProducer = kafka.config().client().set("transactional.id", id).create().unwrap();
    producer.init_transactions(TIMEOUT).unwrap();
    producer.begin_transaction().unwrap();
    for tick in ticks {
        let mut message = Vec::new();
        stock_tick::from_tick(tick, &mut message);
        let record = FutureRecord::<str, _>::to(&kafka.config().topic).payload(&message);
        producer.send_result(record.partition(partition.cast_signed())).unwrap().await.unwrap().unwrap();
    }
    producer.commit_transaction(TIMEOUT).unwrap();
}

/// Deletes a topic and makes one of the same name: the bus on it, as a process that is started then has it.
pub async fn remake_topic(bus: &Bus) -> Bus {
    remake_topic_with(bus, bus.partitions()).await
}

/// The same with another number of partitions.
pub async fn remake_topic_with(bus: &Bus, partitions: u32) -> Bus {
    let Bus::Kafka(bus) = bus else { panic!("a topic has been opened") };
    let config = KafkaConfig { partitions, ..bus.config().clone() };
    let admin: AdminClient<DefaultClientContext> = config.client().create().unwrap();
    let before = bus.identity().await.unwrap();
    let deleted = admin.delete_topics(&[&config.topic], &AdminOptions::new()).await.unwrap();
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    loop {
        // A topic is there for a moment after it is deleted.
        let bus = KafkaBus::open(config.clone()).await.unwrap();
        if bus.identity().await.is_ok_and(|now| now != before) {
            return Bus::Kafka(bus);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Has the brokers forget all that a partition holds, as retention does.
pub async fn forget_all(bus: &Bus, partition: u32) {
    let Bus::Kafka(bus) = bus else { panic!("a topic has been opened") };
    let admin: AdminClient<DefaultClientContext> = bus.config().client().create().unwrap();
    let mut until = TopicPartitionList::new();
    let (topic, partition) = (&bus.config().topic, partition.cast_signed());
    until.add_partition_offset(topic, partition, Offset::End).unwrap();
    admin.delete_records(&until, &AdminOptions::new()).await.unwrap();
}
