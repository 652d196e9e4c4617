//! The bus: a partitioned log of ticks, in Kafka's own terms (key, partition, offset, retention, earliest, end, group,
//! commit). The key is the symbol, so that the order of a symbol's ticks holds.
//!
//! [`Bus`] is a closed set of members; only `roles` chooses one. Appending is asynchronous, since the callers are feeds;
//! reading is synchronous, since the readers are threads of their own (shards, the projector) that mix it with work.

#[cfg(test)]
mod conformance;
pub mod disk;
mod embedded;
mod embedded_db;
mod kafka;
mod lock_holder;
mod membership;
mod partitioner;
#[cfg(any(test, feature = "testing"))]
pub mod simulated;
mod stock_tick;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tocsin_engine::domain::{Position, Symbol, Tick};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::disk::DiskFull;

#[cfg(any(test, feature = "testing"))]
pub use kafka::testing::{append, forget_all, fresh_topic, remake_topic, remake_topic_with};

pub use embedded::{
    EmbeddedBus, EmbeddedMembership, EmbeddedReader, EmbeddedWaker, LogConfig, MAX_GROUP_BYTES, MAX_PARTITIONS,
    Retention,
};
pub use embedded_db::{EmbeddedDb, EmbeddedDbError};
pub use kafka::{KafkaBus, KafkaConfig, KafkaMembership, KafkaReader, KafkaWaker};
pub use membership::{Assignment, Handover, Membership};

/// Says what time it is, Unix milliseconds. An argument, so that tests can hold time still.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The clock of the operating system. Before 1970 it says 0.
pub fn system_clock() -> Clock {
    Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64))
}

/// A partitioned log of ticks. Cloning is cheap.
#[derive(Clone)]
pub enum Bus {
    /// In this process, on its disk.
    Embedded(EmbeddedBus),
    /// On Kafka.
    Kafka(KafkaBus),
    /// In memory, each call of which waits for a simulator.
    #[cfg(any(test, feature = "testing"))]
    Simulated(simulated::SimulatedBus),
}

/// Reads some partitions of a [`Bus`] from given positions on. One thread's.
pub enum Reader {
    /// Of the embedded bus.
    Embedded(EmbeddedReader),
    /// Of a topic.
    Kafka(KafkaReader),
    /// Of a simulated log.
    #[cfg(any(test, feature = "testing"))]
    Simulated(simulated::SimulatedReader),
}

/// Makes a waiting [`Reader::poll`] return early.
#[derive(Clone)]
pub enum Waker {
    /// Of a reader of the embedded bus.
    Embedded(EmbeddedWaker),
    /// Of a reader of a topic.
    Kafka(KafkaWaker),
    /// Of a reader of a simulated log, which never waits.
    #[cfg(any(test, feature = "testing"))]
    Simulated,
}

/// A tick that was read, and where and when it was appended.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Where it is in the bus.
    pub position: Position,
    /// When it was published, that is appended to the bus: Unix milliseconds.
    pub published_ms: i64,
    /// The tick.
    pub tick: Tick,
}

/// How a bus is doing, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records appended by this process.
    pub appended_records: u64,
    /// Messages that this process's readers skipped because they are no ticks.
    pub skipped_messages: u64,
    /// Keys and values that retention has left, bytes: what `retention_bytes` limits. Brokers keep that to themselves.
    pub retained_bytes: Option<u64>,
    /// What the log takes on this machine's disk, bytes, journals included; None if it is elsewhere.
    pub disk_bytes: Option<u64>,
}

/// What can go wrong with a bus.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BusError {
    /// A position outside what the log holds: retention has removed it, or the log has lost its end.
    #[error(
        "partition {} has the offsets {earliest} to {end} (exclusive), so {} is out of range: start from one of these",
        position.partition, position.offset
    )]
    OffsetOutOfRange {
        /// What was asked for.
        position: Position,
        /// The first offset that is retained.
        earliest: u64,
        /// The next offset to be written.
        end: u64,
    },
    /// No such partition.
    #[error("there is no partition {partition}: the bus has {partitions}, counted from 0")]
    UnknownPartition {
        /// What was asked for.
        partition: u32,
        /// How many there are.
        partitions: u32,
    },
    /// A reader takes each partition once.
    #[error("partition {0} is given twice: a reader takes each partition once")]
    DuplicatePartition(u32),
    /// The number of partitions is fixed when the log is created.
    #[error(
        "the log was created with {stored} partitions and cannot be opened with {asked}: configure {stored}, \
         or give another data folder with --data-dir to begin a new log"
    )]
    PartitionCount {
        /// What the log has.
        stored: u32,
        /// What was configured.
        asked: u32,
    },
    /// A number of partitions that no log can have.
    #[error("{0} partitions are not possible: configure 1 to {max}", max = MAX_PARTITIONS)]
    BadPartitionCount(u32),
    /// A consumer group's name that cannot be stored.
    #[error("{0:?} is no name of a consumer group: use 1 to {max} bytes without NUL", max = MAX_GROUP_BYTES)]
    BadGroup(String),
    /// The bus has been closed, or its writer has died.
    #[error("the bus has stopped and takes nothing more: see the log for the reason, then start again")]
    Stopped,
    /// The embedded database failed.
    #[error(transparent)]
    Embedded(#[from] EmbeddedDbError),
    /// The embedded log's disk has too little room.
    #[error(transparent)]
    DiskFull(#[from] DiskFull),
    /// Kafka failed; says at what.
    #[error("{0}")]
    Kafka(String),
}

impl BusError {
    /// Whether the same call may succeed later: brokers that are away come back, and disks get room.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Kafka(_) | Self::DiskFull(_))
    }
}

impl Bus {
    /// How many partitions there are.
    pub fn partitions(&self) -> u32 {
        match self {
            Self::Embedded(bus) => bus.partitions(),
            Self::Kafka(bus) => bus.partitions(),
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(bus) => bus.partitions(),
        }
    }

    /// What this log has and no other one of the same name, however alike they are: offsets mean something only together
    /// with it. On Kafka the brokers are asked each time, since a topic can be made anew at any time.
    pub async fn identity(&self) -> Result<String, BusError> {
        match self {
            Self::Embedded(bus) => Ok(bus.identity().to_owned()),
            Self::Kafka(bus) => bus.identity().await,
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(bus) => bus.identity().await,
        }
    }

    /// What the log does not promise that exactly-once firings rest on, for people; empty if it promises all of it.
    pub async fn missing_promises(&self) -> Result<Vec<String>, BusError> {
        match self {
            // Only one process writes it, so no other can cut it.
            Self::Embedded(_) => Ok(Vec::new()),
            Self::Kafka(bus) => bus.missing_promises().await,
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(_) => Ok(Vec::new()),
        }
    }

    /// The partition to which this process appends a symbol's ticks.
    pub fn partition_of(&self, symbol: &Symbol) -> u32 {
        partitioner::partition_of(symbol.as_str().as_bytes(), self.partitions())
    }

    /// The partition of a symbol's ticks, if none can be appended elsewhere. On Kafka, producers have partitioners of
    /// their own.
    pub fn home_of(&self, symbol: &Symbol) -> Option<u32> {
        match self {
            Self::Embedded(_) => Some(self.partition_of(symbol)),
            Self::Kafka(_) => None,
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(_) => None,
        }
    }

    /// Appends ticks, in their order. When it returns they are in the hands of the operating system: a killed process
    /// loses none of them. A symbol's order is that of the calls. Waits while the queue to the writer is full.
    pub async fn publish(&self, ticks: Vec<Tick>) -> Result<(), BusError> {
        match self {
            Self::Embedded(bus) => bus.publish(ticks).await,
            Self::Kafka(bus) => bus.publish(ticks).await,
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(_) => unreachable!("a simulator appends to its log itself"),
        }
    }

    /// The next offset to be written to a partition.
    pub async fn end(&self, partition: u32) -> Result<u64, BusError> {
        match self {
            Self::Embedded(bus) => bus.end(partition),
            Self::Kafka(bus) => bus.end(partition).await,
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(bus) => bus.end(partition).await,
        }
    }

    /// The next offset to be written to each partition.
    pub async fn ends(&self) -> Result<Vec<u64>, BusError> {
        match self {
            Self::Embedded(bus) => Ok(bus.ends()),
            Self::Kafka(bus) => bus.ends().await,
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(bus) => bus.ends().await,
        }
    }

    /// The first offset that a partition retains; its end if it is empty.
    pub async fn earliest(&self, partition: u32) -> Result<u64, BusError> {
        match self {
            Self::Embedded(bus) => bus.earliest(partition),
            Self::Kafka(bus) => bus.earliest(partition).await,
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(bus) => bus.earliest(partition).await,
        }
    }

    /// Reads the given partitions, each from its position on. May wait for a backend.
    pub fn reader(&self, from: Vec<Position>) -> Result<Reader, BusError> {
        match self {
            Self::Embedded(bus) => bus.reader(from).map(Reader::Embedded),
            Self::Kafka(bus) => bus.reader(from).map(Reader::Kafka),
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(bus) => bus.reader(from).map(Reader::Simulated),
        }
    }

    /// The positions that a consumer group has committed, ordered by partition. Partitions without one are left out.
    pub async fn committed(&self, group: &str) -> Result<Vec<Position>, BusError> {
        match self {
            Self::Embedded(bus) => bus.committed(group),
            Self::Kafka(bus) => bus.committed(group).await,
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(_) => Ok(Vec::new()),
        }
    }

    /// Takes part in a consumer group: its members share the partitions out among themselves.
    pub fn join(&self, group: &str) -> Result<Membership, BusError> {
        match self {
            Self::Embedded(bus) => bus.join(group).map(Membership::Embedded),
            Self::Kafka(bus) => bus.join(group).map(Membership::Kafka),
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(bus) => Ok(Membership::Simulated(bus.join())),
        }
    }

    /// Makes sure that no offset before `position` is given to a record that is published from now on. To be called at
    /// start with what has been checkpointed elsewhere: after a power loss the log may end before it, and an offset must
    /// never be used twice. The embedded log moves its end forward and says so; readers pass over the gap. On Kafka it is
    /// an error: the topic was made anew, or its brokers have lost records.
    pub async fn ensure_end(&self, position: Position) -> Result<(), BusError> {
        match self {
            Self::Embedded(bus) => bus.ensure_end(position).await,
            Self::Kafka(bus) => bus.ensure_end(position).await,
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(bus) => bus.ensure_end(position).await,
        }
    }

    /// How the bus is doing.
    pub fn stats(&self) -> Result<Stats, BusError> {
        match self {
            Self::Embedded(bus) => bus.stats(),
            Self::Kafka(bus) => Ok(bus.stats()),
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(_) => Ok(Stats::default()),
        }
    }
}

impl Reader {
    /// Clears `batch` and fills it with up to `max_records` (at least 1) records, taking turns between the partitions;
    /// order holds within each. If there is nothing, waits for `timeout` or until woken; the batch may stay empty.
    ///
    /// Messages that are no ticks are passed over, counted and logged. After an error the positions are as before.
    pub fn poll(&mut self, batch: &mut Vec<Record>, max_records: usize, timeout: Duration) -> Result<(), BusError> {
        match self {
            Self::Embedded(reader) => reader.poll(batch, max_records, timeout),
            Self::Kafka(reader) => reader.poll(batch, max_records, timeout),
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(reader) => reader.poll(batch, max_records),
        }
    }

    /// Reads these partitions as well, each from its position on. May wait for a backend.
    pub fn add(&mut self, from: Vec<Position>) -> Result<(), BusError> {
        match self {
            Self::Embedded(reader) => reader.add(from),
            Self::Kafka(reader) => reader.add(from),
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(reader) => reader.add(from),
        }
    }

    /// Reads these partitions no more. Those that it does not read are passed over.
    pub fn remove(&mut self, partitions: &[u32]) {
        match self {
            Self::Embedded(reader) => reader.remove(partitions),
            Self::Kafka(reader) => reader.remove(partitions),
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(reader) => reader.remove(partitions),
        }
    }

    /// The next offset that will be read from a partition, past messages that are no ticks.
    ///
    /// # Panics
    /// If the reader was not given that partition.
    pub fn position(&self, partition: u32) -> u64 {
        match self {
            Self::Embedded(reader) => reader.position(partition),
            Self::Kafka(reader) => reader.position(partition),
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(reader) => reader.position(partition),
        }
    }

    /// What wakes this reader.
    pub fn waker(&self) -> Waker {
        match self {
            Self::Embedded(reader) => Waker::Embedded(reader.waker()),
            Self::Kafka(reader) => Waker::Kafka(reader.waker()),
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated(_) => Waker::Simulated,
        }
    }
}

impl Waker {
    /// Makes the reader's poll return early: the one that waits now, or else the next one.
    pub fn wake(&self) {
        match self {
            Self::Embedded(waker) => waker.wake(),
            Self::Kafka(waker) => waker.wake(),
            #[cfg(any(test, feature = "testing"))]
            Self::Simulated => {}
        }
    }

    /// Wakes the reader once `stop` is cancelled, for as long as what it returns is kept.
    pub fn wake_when_cancelled(self, runtime: &Handle, stop: &CancellationToken) -> AbortOnDropHandle<()> {
        let stop = stop.clone();
        AbortOnDropHandle::new(runtime.spawn(async move {
            stop.cancelled().await;
            self.wake();
        }))
    }
}
