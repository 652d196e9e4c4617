//! A member of a consumer group that Kafka's brokers coordinate.
//!
//! A consumer of its own takes part in the group, on a thread of its own, and reads nothing: its partitions are paused. So
//! a slow shard never looks like a dead member, and rebalances are handled in one place, once, whatever the readers are
//! doing.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientConfig, ClientContext};
use tocsin_engine::domain::Position;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::{info, warn};

use super::{KafkaBus, KafkaConfig, failed, offsets, reader};
use crate::{Assignment, BusError, Handover};

/// How long a member that the brokers do not hear of keeps its partitions, milliseconds. Brokers allow 6,000 at least.
const SESSION_TIMEOUT_MS: &str = "10000";

/// How often a member is heard of, and hears: partitions of one that died move so long after its session's end. Kafka's
/// documentation advises a third of the session at most.
const HEARTBEAT_INTERVAL_MS: &str = "1000";

/// How long revoked partitions are kept at most, so that what belongs to them is written. Who takes longer is fenced off
/// by the store.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the thread waits for an event before it looks whether the member has left.
const POLL_TIMEOUT: Duration = Duration::from_millis(100);

/// A member of a group.
pub struct KafkaMembership {
    bus: KafkaBus,
    group: Arc<Group>,
    events: UnboundedReceiver<Assignment>,
    thread: Option<JoinHandle<()>>,
}

struct Group {
    consumer: BaseConsumer<Rebalances>,
    left: AtomicBool,
}

/// Reports rebalances.
struct Rebalances(UnboundedSender<Assignment>);

impl ClientContext for Rebalances {}

impl ConsumerContext for Rebalances {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<u32> = list.elements().iter().map(|element| element.partition().cast_unsigned()).collect();
        let done = if what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            info!(?partitions, "partitions are assigned");
            assign(consumer, list).map(|()| self.announce(Assignment::Assigned(partitions)))
        } else {
            self.give_up(consumer, partitions);
            consumer.incremental_unassign(list)
        };
        if let Err(error) = done {
            warn!(%error, "a rebalance could not be followed: the group tries again");
        }
    }
}

/// Takes partitions without reading them.
fn assign(consumer: &BaseConsumer<Rebalances>, list: &mut TopicPartitionList) -> Result<(), KafkaError> {
    list.set_all_offsets(Offset::End)?;
    consumer.incremental_assign(list)?;
    consumer.pause(list)
}

impl Rebalances {
    fn announce(&self, change: Assignment) {
        // The receiver is gone once the member has left.
        let _ = self.0.send(change);
    }

    fn give_up(&self, consumer: &BaseConsumer<Self>, partitions: Vec<u32>) {
        if consumer.assignment_lost() {
            warn!(?partitions, "partitions are lost: the brokers did not hear of this process in time");
            return self.announce(Assignment::Lost(partitions));
        }
        info!(?partitions, "partitions are revoked");
        let (handover, done) = Handover::new();
        self.announce(Assignment::Revoked(partitions, handover));
        if done.recv_timeout(HANDOVER_TIMEOUT) == Err(mpsc::RecvTimeoutError::Timeout) {
            warn!(timeout = ?HANDOVER_TIMEOUT, "revoked partitions go before all is written: another member evaluates it again");
        }
    }
}

fn settings(config: &KafkaConfig, group: &str) -> ClientConfig {
    let mut settings = reader::settings(config);
    settings
        .set("group.id", group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", SESSION_TIMEOUT_MS)
        .set("heartbeat.interval.ms", HEARTBEAT_INTERVAL_MS);
    settings
}

impl KafkaMembership {
    pub(super) fn join(bus: KafkaBus, group: &str) -> Result<Self, BusError> {
        let (changes, events) = unbounded_channel();
        let (config, topic) = (settings(bus.config(), group), bus.config().topic.clone());
        let consumer: BaseConsumer<Rebalances> =
            config.create_with_context(Rebalances(changes)).map_err(failed("create a consumer"))?;
        consumer.subscribe(&[&topic]).map_err(failed("take part in a group"))?;
        let group = Arc::new(Group { consumer, left: AtomicBool::new(false) });
        let member = group.clone();
        let thread = std::thread::Builder::new().name("kafka-member".into()).spawn(move || member.take_part());
        let thread = thread.map_err(|error| BusError::Kafka(format!("no thread for a member: {error}")))?;
        Ok(Self { bus, group, events, thread: Some(thread) })
    }

    pub(crate) async fn changed(&mut self) -> Result<Assignment, BusError> {
        self.events.recv().await.ok_or(BusError::Stopped)
    }

    pub(crate) async fn commit(&self, positions: &[Position]) -> Result<(), BusError> {
        let (group, offsets) = (self.group.clone(), offsets(&self.bus, positions)?);
        let committed =
            move |_: &_| group.consumer.commit(&offsets, CommitMode::Sync).map_err(failed("commit offsets"));
        self.bus.ask(committed).await
    }

    pub(crate) async fn leave(mut self) {
        self.group.left.store(true, Relaxed);
        self.events.close();
        if let Some(thread) = self.thread.take() {
            // It ends by itself; a panic there has been logged.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

impl Drop for KafkaMembership {
    fn drop(&mut self) {
        self.group.left.store(true, Relaxed);
    }
}

impl Group {
    /// Serves rebalances until the member leaves the group.
    fn take_part(&self) {
        while !self.left.load(Relaxed) {
            // A message can come only between an assignment and its pause: it is the readers' to read.
            if let Some(Err(error)) = self.consumer.poll(POLL_TIMEOUT) {
                warn!(%error, "the group waits for the brokers");
            }
        }
        self.consumer.unsubscribe();
        let until = std::time::Instant::now() + HANDOVER_TIMEOUT;
        while self.consumer.assignment().is_ok_and(|list| list.count() > 0) && std::time::Instant::now() < until {
            drop(self.consumer.poll(POLL_TIMEOUT));
        }
    }
}
