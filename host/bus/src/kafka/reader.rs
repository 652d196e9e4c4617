//! A reader of some partitions of the topic: one thread's.
//!
//! Each partition has a queue of its own in librdkafka, so that a busy one does not hold up the others. A thread that
//! waits does so here, on a bell that new messages and [`KafkaWaker`] ring.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, Timestamp};
use tocsin_engine::domain::Position;
use tracing::warn;

use super::{Counters, KafkaConfig, Logging, failed, watermarks};
use crate::{BusError, Record, stock_tick};

/// Name of the group that readers would belong to if they had one: librdkafka wants a name. It commits nothing.
const NO_GROUP: &str = "tocsin-reader";

/// Messages that are no ticks and are logged, for each reader; more are only counted.
const MAX_LOGGED: u64 = 10;

/// Reads partitions of the topic.
pub struct KafkaReader {
    consumer: Arc<BaseConsumer<Logging>>,
    topic: String,
    lanes: Vec<Lane>,
    /// The lane whose turn it is.
    turn: usize,
    bell: Arc<Bell>,
    counters: Arc<Counters>,
    logged: u64,
    /// A partition whose next offset is not there, by what the brokers answered: looked up once what was read before it is
    /// taken.
    out_of_range: Option<u32>,
}

struct Lane {
    partition: u32,
    queue: PartitionQueue<Logging>,
    next_offset: u64,
    /// Where the partition ended when it was taken. The log may end in offsets without messages, as of transactions: once the
    /// end is reached, all before this is read.
    end_when_taken: u64,
}

/// Makes a waiting reader return early.
#[derive(Clone)]
pub struct KafkaWaker(Arc<Bell>);

/// What a reader waits for.
#[derive(Default)]
struct Bell {
    state: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Default)]
struct Rung {
    /// There may be messages.
    messages: bool,
    /// The poll is to return.
    woken: bool,
}

impl Bell {
    fn ring(&self, change: impl FnOnce(&mut Rung)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Waits until it has rung or `deadline` has passed; true if the poll is to return.
    fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut rung = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !rung.messages && !rung.woken {
            rung = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return true,
                Some(left) => self.changed.wait_timeout(rung, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(rung).unwrap_or_else(PoisonError::into_inner),
            };
        }
        rung.messages = false;
        std::mem::take(&mut rung.woken)
    }
}

/// Settings of a client that reads.
pub(super) fn settings(config: &KafkaConfig) -> ClientConfig {
    let mut settings = config.client();
    settings
        .set("group.id", NO_GROUP)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        // What waits here is in memory, for each reader.
        .set("queued.max.messages.kbytes", "16384")
        // A reader that has caught up with a full queue must not wait a second, which is the default, for more.
        .set("fetch.queue.backoff.ms", "5");
    settings
}

impl KafkaReader {
    pub(super) fn new(config: &KafkaConfig, from: Vec<Position>, counters: Arc<Counters>) -> Result<Self, BusError> {
        let consumer: BaseConsumer<Logging> = settings(config)
            .set("enable.partition.eof", "true")
            .create_with_context(Logging)
            .map_err(failed("create a consumer"))?;
        let topic = config.topic.clone();
        let bell = Arc::new(Bell::default());
        let mut reader = Self {
            consumer: Arc::new(consumer),
            topic,
            lanes: Vec::new(),
            turn: 0,
            bell,
            counters,
            logged: 0,
            out_of_range: None,
        };
        reader.add(from)?;
        Ok(reader)
    }

    /// Reads these partitions as well.
    pub(crate) fn add(&mut self, from: Vec<Position>) -> Result<(), BusError> {
        let mut positions = BTreeMap::new();
        for position in from {
            let twice = positions.insert(position.partition, position).is_some();
            if twice || self.lanes.iter().any(|lane| lane.partition == position.partition) {
                return Err(BusError::DuplicatePartition(position.partition));
            }
        }
        let mut lanes = Vec::new();
        for position in positions.values().copied() {
            let Position { partition, offset } = position;
            let (earliest, end) = watermarks(&self.consumer, &self.topic, partition)?;
            if offset < earliest || offset > end {
                return Err(BusError::OffsetOutOfRange { position, earliest, end });
            }
            let queue = self.consumer.split_partition_queue(&self.topic, partition.cast_signed());
            let mut queue = queue.ok_or(BusError::Kafka(format!("partition {partition} has no queue")))?;
            let bell = self.bell.clone();
            queue.set_nonempty_callback(move || bell.ring(|rung| rung.messages = true));
            lanes.push(Lane { partition, queue, next_offset: offset, end_when_taken: end });
        }
        self.assign(positions.into_values())?;
        self.lanes.append(&mut lanes);
        Ok(())
    }

    fn assign(&self, from: impl IntoIterator<Item = Position>) -> Result<(), BusError> {
        let mut assigned = TopicPartitionList::new();
        for Position { partition, offset } in from {
            let at = Offset::Offset(offset.cast_signed());
            let added = assigned.add_partition_offset(&self.topic, partition.cast_signed(), at);
            added.map_err(failed("take an offset"))?;
        }
        self.consumer.incremental_assign(&assigned).map_err(failed("assign partitions"))
    }

    /// Reads these no more.
    pub(crate) fn remove(&mut self, partitions: &[u32]) {
        let is_removed = |lane: &mut Lane| partitions.contains(&lane.partition);
        let removed: Vec<u32> = self.lanes.extract_if(.., is_removed).map(|lane| lane.partition).collect();
        self.out_of_range.take_if(|partition| partitions.contains(partition));
        if !removed.is_empty() {
            self.unassign(&removed);
        }
    }

    fn unassign(&self, partitions: &[u32]) {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.topic, partition.cast_signed());
        }
        if let Err(error) = self.consumer.incremental_unassign(&list) {
            warn!(%error, ?partitions, "partitions could not be given up");
        }
    }

    pub(crate) fn poll(
        &mut self,
        batch: &mut Vec<Record>,
        max_records: usize,
        timeout: Duration,
    ) -> Result<(), BusError> {
        batch.clear();
        let deadline = Instant::now().checked_add(timeout);
        loop {
            self.serve_events()?;
            self.take(batch, max_records)?;
            if let (true, Some(partition)) = (batch.is_empty(), self.out_of_range) {
                self.look_up(partition)?;
            }
            if !batch.is_empty() || self.bell.wait(deadline) {
                return Ok(());
            }
        }
    }

    pub(crate) fn position(&self, partition: u32) -> u64 {
        let lane = self.lanes.iter().find(|lane| lane.partition == partition);
        lane.expect("the reader was given that partition").next_offset
    }

    pub(crate) fn waker(&self) -> KafkaWaker {
        KafkaWaker(self.bell.clone())
    }

    /// As the brokers do where the next offset of a partition is not there.
    #[cfg(test)]
    pub(super) fn report_out_of_range(&mut self, partition: u32) {
        self.out_of_range = Some(partition);
    }

    /// What concerns the whole client and no partition.
    fn serve_events(&self) -> Result<(), BusError> {
        match self.consumer.poll(Duration::ZERO) {
            None => Ok(()),
            Some(Err(error)) => self.on_error(error),
            Some(Ok(message)) => Err(BusError::Kafka(format!(
                "a message of partition {} came around its queue: this is a defect",
                message.partition()
            ))),
        }
    }

    /// Fills the batch with what is there, the partitions taking turns.
    fn take(&mut self, batch: &mut Vec<Record>, max_records: usize) -> Result<(), BusError> {
        let mut empty = 0;
        while batch.len() < max_records && empty < self.lanes.len() {
            self.turn = (self.turn + 1) % self.lanes.len();
            let lane = &mut self.lanes[self.turn];
            let error = match lane.queue.poll(Duration::ZERO) {
                None => {
                    empty += 1;
                    continue;
                }
                Some(Ok(message)) => {
                    empty = 0;
                    let position = Position { partition: lane.partition, offset: message.offset().cast_unsigned() };
                    lane.next_offset = position.offset + 1;
                    match record(&message, position) {
                        Ok(record) => batch.push(record),
                        Err(reason) => {
                            self.counters.skipped_messages.fetch_add(1, Relaxed);
                            if self.logged < MAX_LOGGED {
                                self.logged += 1;
                                let Position { partition, offset } = position;
                                warn!(partition, offset, %reason, "a message is no tick and is passed over");
                            }
                        }
                    }
                    continue;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    lane.next_offset = lane.next_offset.max(lane.end_when_taken);
                    continue;
                }
                Some(Err(error)) => error,
            };
            if out_of_range(&error) {
                self.out_of_range = Some(lane.partition);
                return Ok(());
            }
            self.on_error(error)?;
        }
        Ok(())
    }

    /// Looks whether the next offset of a partition is there; an error if not. If it is, the answer that said otherwise was
    /// about another position: one from before the partition was given up and taken again. librdkafka reads no further after
    /// such an answer, so the partition is taken once more.
    fn look_up(&mut self, partition: u32) -> Result<(), BusError> {
        let position = Position { partition, offset: self.position(partition) };
        let (earliest, end) = watermarks(&self.consumer, &self.topic, partition)?;
        if !(earliest..=end).contains(&position.offset) {
            return Err(BusError::OffsetOutOfRange { position, earliest, end });
        }
        let offset = position.offset;
        warn!(partition, offset, earliest, end, "the brokers refused an offset that is there: it is read anew");
        // If this fails it is done again: the partition stays one of this reader's.
        self.unassign(&[partition]);
        self.assign([position])?;
        self.out_of_range = None;
        Ok(())
    }

    /// Brokers that are away come back: librdkafka tries, and says so in the log.
    fn on_error(&self, error: KafkaError) -> Result<(), BusError> {
        match error {
            KafkaError::MessageConsumptionFatal(_) => Err(failed("give messages")(error)),
            other => {
                warn!(error = %other, "reading waits for the brokers");
                Ok(())
            }
        }
    }
}

impl KafkaWaker {
    pub(crate) fn wake(&self) {
        self.0.ring(|rung| rung.woken = true);
    }
}

fn out_of_range(error: &KafkaError) -> bool {
    matches!(
        error,
        KafkaError::MessageConsumption(RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset)
    )
}

fn record(message: &BorrowedMessage<'_>, position: Position) -> Result<Record, String> {
    let published_ms = match message.timestamp() {
        Timestamp::CreateTime(ms) | Timestamp::LogAppendTime(ms) => ms,
        Timestamp::NotAvailable => 0,
    };
    let bytes = message.payload().unwrap_or_default();
    let tick = stock_tick::into_tick(bytes).map_err(|error| error.to_string())?;
    Ok(Record { position, published_ms, tick })
}
