//! The embedded bus: a partitioned log on this machine's disk, kept by fjall.
//!
//! Callers put commands on a bounded queue; one writer thread (`writer`) takes as many as there are and commits them as
//! one batch, so the cost of a write is shared. Readers (`reader`) read the database themselves. What is retained goes by
//! segments (`segment`), as Kafka's does.

mod log;
mod membership;
mod reader;
mod reserved;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use tocsin_engine::domain::{Position, Tick};
use tokio::sync::{Semaphore, oneshot};

use self::log::Log;
use self::writer::{Command, MAX_BATCH_RECORDS, Writer};
use super::{BusError, Clock, EmbeddedDb, EmbeddedDbError, Stats};

pub use membership::EmbeddedMembership;
pub use reader::{EmbeddedReader, EmbeddedWaker};

/// The most partitions of a log. Each costs memory in every segment and reader; Kafka topics of this kind have 1 to 100.
pub const MAX_PARTITIONS: u32 = 1024;

/// The longest name of a consumer group, bytes. Kafka's own names of topics end at 249.
pub const MAX_GROUP_BYTES: usize = 255;

/// Ticks that may wait for the writer, over all callers (about 10 MiB); then `publish` waits.
const MAX_QUEUED_TICKS: usize = 65_536;

/// Why locking a mutex of ours cannot fail.
const NO_PANIC: &str = "nothing that can panic runs under this lock";

/// How the embedded log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Fixed when the log is created: 1 to [`MAX_PARTITIONS`].
    pub partitions: u32,
    /// What is kept.
    pub retention: Retention,
    /// Ticks are refused while the file system has fewer bytes free.
    pub min_free_bytes: u64,
}

/// What the log keeps. Records go by segments, a sixteenth of these sizes and ages at most, so a little more is kept than
/// is asked for, never less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Keys and values over all partitions, bytes. `None` for no limit.
    pub retention_bytes: Option<u64>,
    /// Age of a record since it was published, milliseconds. `None` for no limit.
    pub retention_ms: Option<u64>,
}

impl Default for LogConfig {
    /// 8 partitions, 1 GiB, 7 days; nothing is kept free.
    fn default() -> Self {
        const DAY_MS: u64 = 24 * 60 * 60 * 1000;
        let retention = Retention { retention_bytes: Some(1 << 30), retention_ms: Some(7 * DAY_MS) };
        Self { partitions: 8, retention, min_free_bytes: 0 }
    }
}

/// The embedded bus. Cloning is cheap; the last clone's drop waits until what was queued is written.
#[derive(Clone)]
pub struct EmbeddedBus(Arc<Shared>);

struct Shared {
    log: Arc<Log>,
    /// Room in the queue: a permit for each tick, and for each other command.
    room: Arc<Semaphore>,
    /// `None` only while dropping.
    commands: Option<mpsc::Sender<Command>>,
    writer: Option<JoinHandle<()>>,
}

impl EmbeddedBus {
    /// Opens the log in `db`, or creates it, and starts its writer. `clock` says when records are published and how old
    /// they are.
    pub fn open(db: &EmbeddedDb, config: LogConfig, clock: Clock) -> Result<Self, BusError> {
        if !(1..=MAX_PARTITIONS).contains(&config.partitions) {
            return Err(BusError::BadPartitionCount(config.partitions));
        }
        let log = Arc::new(Log::open(db, config.partitions)?);
        repair_ends(&log)?;
        let (commands, queue) = mpsc::channel();
        let writer = Writer::new(log.clone(), queue, config, clock);
        let writer = std::thread::Builder::new()
            .name("bus-writer".into())
            .spawn(move || writer.run())
            .map_err(|source| EmbeddedDbError::failed("start its writer")(source.into()))?;
        let room = Arc::new(Semaphore::new(MAX_QUEUED_TICKS));
        Ok(Self(Arc::new(Shared { log, room, commands: Some(commands), writer: Some(writer) })))
    }

    pub(super) fn partitions(&self) -> u32 {
        self.0.log.partitions
    }

    pub(super) fn identity(&self) -> &str {
        &self.0.log.identity
    }

    pub(super) async fn publish(&self, mut ticks: Vec<Tick>) -> Result<(), BusError> {
        // A part at a time, so that no call is larger than the queue or a batch.
        while !ticks.is_empty() {
            let rest = ticks.split_off(ticks.len().min(MAX_BATCH_RECORDS));
            let permits = ticks.len() as u32;
            self.command(permits, |done| Command::Append { ticks, done }).await?;
            ticks = rest;
        }
        Ok(())
    }

    pub(super) fn end(&self, partition: u32) -> Result<u64, BusError> {
        self.0.log.end(partition)
    }

    pub(super) fn ends(&self) -> Vec<u64> {
        self.0.log.ends()
    }

    pub(super) fn earliest(&self, partition: u32) -> Result<u64, BusError> {
        self.0.log.earliest(partition)
    }

    pub(super) fn reader(&self, from: Vec<Position>) -> Result<EmbeddedReader, BusError> {
        EmbeddedReader::new(self.0.log.clone(), from)
    }

    pub(super) fn committed(&self, group: &str) -> Result<Vec<Position>, BusError> {
        check_group(group)?;
        let prefix = group_key(group);
        let entries = self.0.log.groups.prefix(&prefix);
        entries.map(|entry| stored_commit(entry).map(|(_, position)| position)).collect()
    }

    pub(super) fn join(&self, group: &str) -> Result<EmbeddedMembership, BusError> {
        check_group(group)?;
        Ok(EmbeddedMembership::new(self.clone(), group.to_owned()))
    }

    async fn commit(&self, group: &str, positions: &[Position]) -> Result<(), BusError> {
        for position in positions {
            self.0.log.check_partition(position.partition)?;
        }
        let entries = positions
            .iter()
            .map(|position| ([group_key(group), position.partition.to_be_bytes().to_vec()].concat(), position.offset));
        let entries = entries.collect();
        self.command(1, |done| Command::Commit { entries, done }).await
    }

    pub(super) async fn ensure_end(&self, position: Position) -> Result<(), BusError> {
        self.0.log.check_partition(position.partition)?;
        self.command(1, |done| Command::EnsureEnd { position, done }).await
    }

    /// Applies retention at once, rather than when it is next due.
    pub async fn apply_retention(&self) -> Result<(), BusError> {
        self.command(1, |done| Command::Retain { done }).await
    }

    pub(super) fn stats(&self) -> Result<Stats, BusError> {
        let log = &self.0.log;
        Ok(Stats {
            appended_records: log.appended_records.load(Relaxed),
            skipped_messages: log.skipped_messages.load(Relaxed),
            retained_bytes: Some(log.retained_bytes()),
            disk_bytes: Some(log.db.disk_bytes()?),
        })
    }

    /// Waits for room in the queue, sends the command, and waits for its answer.
    async fn command(&self, permits: u32, make: impl FnOnce(writer::Done) -> Command) -> Result<(), BusError> {
        let permit = self.0.room.clone().acquire_many_owned(permits).await.map_err(|_| BusError::Stopped)?;
        let (answer, done) = oneshot::channel();
        let commands = self.0.commands.as_ref().ok_or(BusError::Stopped)?;
        commands.send(make(writer::Done { answer, _permit: permit })).map_err(|_| BusError::Stopped)?;
        done.await.map_err(|_| BusError::Stopped)?
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the bus's writer had panicked");
        }
    }
}

/// After a power loss the log may have lost its end while a group's offset past it was kept. Such offsets were used, so
/// they are not used again.
fn repair_ends(log: &Log) -> Result<(), BusError> {
    let mut ends = log.ends();
    let mut raised = false;
    for entry in log.groups.iter() {
        let (key, Position { partition, offset }) = stored_commit(entry)?;
        if let Some(end) = ends.get_mut(partition as usize)
            && *end < offset
        {
            let group = String::from_utf8_lossy(&key[..key.len().saturating_sub(5)]);
            tracing::warn!(partition, end = *end, committed = offset, %group, "the log has lost its end");
            *end = offset;
            raised = true;
        }
    }
    if raised {
        log.raise_ends(ends)?;
    }
    Ok(())
}

fn check_group(group: &str) -> Result<(), BusError> {
    let good = (1..=MAX_GROUP_BYTES).contains(&group.len()) && !group.contains('\0');
    if good { Ok(()) } else { Err(BusError::BadGroup(group.chars().take(MAX_GROUP_BYTES).collect())) }
}

/// What a group's keys begin with; the partition follows. NUL ends the name, so that no name is another one's prefix.
fn group_key(group: &str) -> Vec<u8> {
    [group.as_bytes(), &[0]].concat()
}

/// A committed position as it is stored, with its key.
fn stored_commit(entry: fjall::Guard) -> Result<(fjall::UserKey, Position), BusError> {
    let (key, value) = entry.into_inner().map_err(EmbeddedDbError::failed("read committed offsets"))?;
    let partition = key.last_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let offset = value[..].try_into().map(u64::from_be_bytes);
    match (partition, offset) {
        (Some(partition), Ok(offset)) => Ok((key, Position { partition, offset })),
        _ => Err(EmbeddedDbError::Damaged("a committed offset cannot be read".into()).into()),
    }
}
