//! The bus on Kafka: one topic, whose key is the symbol and whose values are `StockTick` messages.
//!
//! librdkafka keeps the connections. What is published goes through one idempotent producer, so that a retry neither doubles
//! nor reorders. Each reader (`reader`) is a client of its own with the partitions and offsets that it was given; which
//! partitions a process reads is decided elsewhere. Offsets out of range are errors, never a silent jump.

mod config;
mod membership;
mod promises;
mod reader;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod topic_id;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tocsin_engine::domain::{Position, Tick};

use super::{BusError, MAX_GROUP_BYTES, MAX_PARTITIONS, Stats, partitioner, stock_tick};

pub use self::config::KafkaConfig;
pub use self::membership::KafkaMembership;
pub use self::reader::{KafkaReader, KafkaWaker};

/// How long the broker may take to answer a question.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Wait before a partition's leader is asked for again.
const LEADER_WAIT: Duration = Duration::from_millis(100);

/// How long what was published may still take when the bus is dropped.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// Records of one call that may wait for the broker: then the call waits.
const MAX_IN_FLIGHT: usize = 10_000;

/// Wait before a record is offered again to a producer whose queue is full.
const FULL_WAIT: Duration = Duration::from_millis(2);

/// The bus on Kafka. Cloning is cheap.
#[derive(Clone)]
pub struct KafkaBus(Arc<Shared>);

struct Shared {
    config: KafkaConfig,
    partitions: u32,
    producer: FutureProducer<Logging>,
    /// For questions about the log.
    asker: BaseConsumer<Logging>,
    counters: Arc<Counters>,
}

/// What this process has done.
#[derive(Default)]
struct Counters {
    appended_records: AtomicU64,
    skipped_messages: AtomicU64,
}

/// Passes what librdkafka says on to the log.
#[derive(Clone, Copy, Default)]
struct Logging;

impl ClientContext for Logging {}

impl rdkafka::consumer::ConsumerContext for Logging {}

impl KafkaBus {
    /// Connects, and creates the topic if it is missing.
    pub async fn open(config: KafkaConfig) -> Result<Self, BusError> {
        if !(1..=MAX_PARTITIONS).contains(&config.partitions) {
            return Err(BusError::BadPartitionCount(config.partitions));
        }
        let partitions = config.ensure_topic().await?;
        let mut settings = config.client_with(&[("linger.ms", "2"), ("compression.type", "lz4")]);
        settings
            .set("enable.idempotence", "true")
            // A record waits for its broker as long as it takes: nothing is dropped, and nothing is sent twice.
            .set("message.timeout.ms", "0");
        let producer = settings.create_with_context(Logging).map_err(failed("create a producer"))?;
        let asker = reader::settings(&config).create_with_context(Logging).map_err(failed("create a consumer"))?;
        Ok(Self(Arc::new(Shared { config, partitions, producer, asker, counters: Arc::default() })))
    }

    pub(super) fn partitions(&self) -> u32 {
        self.0.partitions
    }

    pub(super) async fn identity(&self) -> Result<String, BusError> {
        self.ask(|shared| {
            let topic = &shared.config.topic;
            let id = topic_id::topic_id(shared.asker.client(), topic, REQUEST_TIMEOUT)
                .map_err(|reason| BusError::Kafka(format!("the brokers did not give the id of the topic: {reason}")))?;
            // Brokers without ids of topics: at least another cluster is noticed.
            let cluster = || shared.asker.client().fetch_cluster_id(REQUEST_TIMEOUT).unwrap_or_default();
            Ok(id.map_or_else(|| format!("kafka:{}/{topic}", cluster()), |id| format!("kafka:{id}")))
        })
        .await
    }

    pub(super) async fn missing_promises(&self) -> Result<Vec<String>, BusError> {
        promises::missing(&self.0.config).await
    }

    pub(super) async fn publish(&self, ticks: Vec<Tick>) -> Result<(), BusError> {
        let mut in_flight = VecDeque::new();
        let mut message = Vec::new();
        for tick in &ticks {
            message.clear();
            stock_tick::from_tick(tick, &mut message);
            if in_flight.len() == MAX_IN_FLIGHT
                && let Some(oldest) = in_flight.pop_front()
            {
                delivered(oldest).await?;
            }
            in_flight.push_back(self.send(tick, &message).await?);
        }
        for delivery in join_all(in_flight.into_iter().map(delivered)).await {
            delivery?;
        }
        self.0.counters.appended_records.fetch_add(ticks.len() as u64, Relaxed);
        Ok(())
    }

    async fn send(&self, tick: &Tick, message: &[u8]) -> Result<DeliveryFuture, BusError> {
        let key = tick.symbol.as_str();
        let partition = partitioner::partition_of(key.as_bytes(), self.0.partitions);
        let mut record =
            FutureRecord::to(&self.0.config.topic).key(key).payload(message).partition(partition.cast_signed());
        loop {
            match self.0.producer.send_result(record) {
                Ok(delivery) => return Ok(delivery),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => record = back,
                Err((error, _)) => return Err(failed("take a record")(error)),
            }
            tokio::time::sleep(FULL_WAIT).await;
        }
    }

    pub(super) async fn end(&self, partition: u32) -> Result<u64, BusError> {
        self.watermarks(partition).await.map(|(_, end)| end)
    }

    /// One question to each broker.
    pub(super) async fn ends(&self) -> Result<Vec<u64>, BusError> {
        self.ask(|shared| {
            let mut asked = TopicPartitionList::new();
            for partition in 0..shared.partitions {
                let end = asked.add_partition_offset(&shared.config.topic, partition.cast_signed(), Offset::End);
                end.map_err(failed("take an offset"))?;
            }
            let ask = || {
                let answer = shared.asker.offsets_for_times(asked.clone(), REQUEST_TIMEOUT)?;
                answer.elements().iter().try_for_each(|element| element.error())?;
                Ok(answer)
            };
            let answer = once_led(ask).map_err(failed("tell where partitions end"))?;
            let mut ends = vec![None; shared.partitions as usize];
            for element in answer.elements() {
                if let Offset::Offset(end) = element.offset() {
                    ends[element.partition() as usize] = Some(end.cast_unsigned());
                }
            }
            let ends: Option<Vec<u64>> = ends.into_iter().collect();
            ends.ok_or_else(|| BusError::Kafka("the brokers did not tell the ends of all partitions".into()))
        })
        .await
    }

    pub(super) async fn earliest(&self, partition: u32) -> Result<u64, BusError> {
        self.watermarks(partition).await.map(|(earliest, _)| earliest)
    }

    async fn watermarks(&self, partition: u32) -> Result<(u64, u64), BusError> {
        self.check_partition(partition)?;
        self.ask(move |shared| watermarks(&shared.asker, &shared.config.topic, partition)).await
    }

    /// Asks the brokers something with what this bus has.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Shared) -> Result<T, BusError> + Send + 'static,
    ) -> Result<T, BusError> {
        let shared = self.0.clone();
        on_waiting_thread(move || question(&shared)).await
    }

    pub(super) fn reader(&self, from: Vec<Position>) -> Result<KafkaReader, BusError> {
        for position in &from {
            self.check_partition(position.partition)?;
        }
        KafkaReader::new(&self.0.config, from, self.0.counters.clone())
    }

    pub(super) async fn committed(&self, group: &str) -> Result<Vec<Position>, BusError> {
        check_group(group)?;
        let consumer = self.of_group(group)?;
        self.ask(move |shared| {
            let mut asked = TopicPartitionList::new();
            asked.add_partition_range(&shared.config.topic, 0, shared.partitions.cast_signed() - 1);
            let answer =
                consumer.committed_offsets(asked, REQUEST_TIMEOUT).map_err(failed("tell committed offsets"))?;
            let position = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset()
            {
                Offset::Offset(offset) => {
                    Some(Position { partition: element.partition().cast_unsigned(), offset: offset.cast_unsigned() })
                }
                _ => None,
            };
            let mut positions: Vec<Position> = answer.elements().iter().filter_map(position).collect();
            positions.sort_unstable_by_key(|position| position.partition);
            Ok(positions)
        })
        .await
    }

    pub(super) fn join(&self, group: &str) -> Result<KafkaMembership, BusError> {
        check_group(group)?;
        KafkaMembership::join(self.clone(), group)
    }

    /// A client that speaks for a group without being its member.
    fn of_group(&self, group: &str) -> Result<BaseConsumer<Logging>, BusError> {
        let mut settings = reader::settings(&self.0.config);
        settings.set("group.id", group);
        settings.create_with_context(Logging).map_err(failed("create a consumer"))
    }

    pub(super) async fn ensure_end(&self, position: Position) -> Result<(), BusError> {
        let (earliest, end) = self.watermarks(position.partition).await?;
        if position.offset > end {
            return Err(BusError::OffsetOutOfRange { position, earliest, end });
        }
        Ok(())
    }

    pub(super) fn stats(&self) -> Stats {
        let counters = &self.0.counters;
        Stats {
            appended_records: counters.appended_records.load(Relaxed),
            skipped_messages: counters.skipped_messages.load(Relaxed),
            retained_bytes: None,
            disk_bytes: None,
        }
    }

    fn config(&self) -> &KafkaConfig {
        &self.0.config
    }

    fn check_partition(&self, partition: u32) -> Result<(), BusError> {
        let partitions = self.0.partitions;
        if partition < partitions { Ok(()) } else { Err(BusError::UnknownPartition { partition, partitions }) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Err(error) = self.producer.flush(FLUSH_TIMEOUT) {
            tracing::error!(%error, "not all that was published has reached the brokers");
        }
    }
}

/// The first offset that is retained, and the next one to be written.
fn watermarks(consumer: &BaseConsumer<Logging>, topic: &str, partition: u32) -> Result<(u64, u64), BusError> {
    let ask = || consumer.fetch_watermarks(topic, partition.cast_signed(), REQUEST_TIMEOUT);
    let (earliest, end) = once_led(ask).map_err(failed("tell where a partition ends"))?;
    Ok((earliest.cast_unsigned(), end.cast_unsigned()))
}

/// Asks again for as long as a partition has no leader: at its creation, and when its broker goes away.
fn once_led<T>(mut ask: impl FnMut() -> Result<T, KafkaError>) -> Result<T, KafkaError> {
    let until = Instant::now() + REQUEST_TIMEOUT;
    loop {
        match ask() {
            Err(error) if is_leaderless(&error) && Instant::now() < until => std::thread::sleep(LEADER_WAIT),
            answer => return answer,
        }
    }
}

fn is_leaderless(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::FencedLeaderEpoch
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::ReplicaNotAvailable
                | RDKafkaErrorCode::UnknownLeaderEpoch
                | RDKafkaErrorCode::UnknownTopicOrPartition
        )
    )
}

async fn delivered(delivery: DeliveryFuture) -> Result<(), BusError> {
    match delivery.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err((error, _))) => Err(failed("take a record")(error)),
        Err(_) => Err(BusError::Stopped),
    }
}

fn check_group(group: &str) -> Result<(), BusError> {
    let good = (1..=MAX_GROUP_BYTES).contains(&group.len()) && !group.contains('\0');
    if good { Ok(()) } else { Err(BusError::BadGroup(group.chars().take(MAX_GROUP_BYTES).collect())) }
}

/// Positions as librdkafka takes them.
fn offsets(bus: &KafkaBus, positions: &[Position]) -> Result<TopicPartitionList, BusError> {
    let mut offsets = TopicPartitionList::new();
    for position in positions {
        bus.check_partition(position.partition)?;
        let (partition, offset) = (position.partition.cast_signed(), position.offset.cast_signed());
        let added = offsets.add_partition_offset(&bus.config().topic, partition, Offset::Offset(offset));
        added.map_err(failed("take an offset"))?;
    }
    Ok(offsets)
}

/// Asks the brokers something on a thread that may wait.
async fn on_waiting_thread<T: Send + 'static>(
    question: impl FnOnce() -> Result<T, BusError> + Send + 'static,
) -> Result<T, BusError> {
    let answer = tokio::task::spawn_blocking(question).await;
    answer.unwrap_or_else(|error| Err(BusError::Kafka(format!("asking the brokers failed: {error}"))))
}

/// Says what the brokers did not do.
fn failed(what: &'static str) -> impl Fn(KafkaError) -> BusError {
    move |error| BusError::Kafka(format!("the brokers did not {what}: {error}"))
}
