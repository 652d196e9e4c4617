//! The one thread that writes the embedded log: appends in groups, commits offsets, rolls segments, applies retention.
//!
//! A command is answered when what it wrote is in the hands of the operating system (fjall's journal is flushed with each
//! batch), and only then do readers see it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use fjall::OwnedWriteBatch;
use tocsin_engine::domain::{Position, Tick};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::log::Log;
use super::segment::{KEY_BYTES, Segment, Totals, record_key};
use super::{LogConfig, NO_PANIC, Retention};
use crate::disk;
use crate::{BusError, Clock, EmbeddedDbError, partitioner, stock_tick};

/// Records after which a group is committed, though more commands wait: bounds the batch's memory and its delay.
pub(super) const MAX_BATCH_RECORDS: usize = 8192;

/// How often retention is looked at, when nothing else calls for it.
const RETENTION_INTERVAL: Duration = Duration::from_secs(1);

/// A segment is this part of what is retained, by size and by age.
const SEGMENTS_RETAINED: u64 = 16;

/// Bounds of a segment's size, bytes: below, creating it costs more than its records; above, as Kafka's default.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 64 * 1024..=1 << 30;

/// What the writer is asked to do.
pub(super) enum Command {
    Append {
        ticks: Vec<Tick>,
        done: Done,
    },
    /// Keys and offsets for the keyspace of consumer groups.
    Commit {
        entries: Vec<(Vec<u8>, u64)>,
        done: Done,
    },
    EnsureEnd {
        position: Position,
        done: Done,
    },
    Retain {
        done: Done,
    },
}

/// Where a command's answer goes. Gives the command's room in the queue back when it is dropped.
pub(super) struct Done {
    pub(super) answer: oneshot::Sender<Result<(), BusError>>,
    pub(super) _permit: OwnedSemaphorePermit,
}

impl Done {
    fn answer(self, result: Result<(), BusError>) {
        // Whoever asked may have gone: that is no failure of the write.
        let _ = self.answer.send(result);
    }
}

/// The writer's state.
pub(super) struct Writer {
    log: Arc<Log>,
    queue: Receiver<Command>,
    retention: Retention,
    min_free_bytes: u64,
    clock: Clock,
    retention_due: Instant,
}

/// What is committed together.
struct Group {
    batch: OwnedWriteBatch,
    segment: Arc<Segment>,
    totals: Totals,
    ends: Vec<u64>,
    records: usize,
    waiting: Vec<Done>,
}

impl Writer {
    pub(super) fn new(log: Arc<Log>, queue: Receiver<Command>, config: LogConfig, clock: Clock) -> Self {
        let LogConfig { retention, min_free_bytes, .. } = config;
        Self { log, queue, retention, min_free_bytes, clock, retention_due: Instant::now() }
    }

    /// Works until the last sender of commands is gone and the queue is empty.
    pub(super) fn run(mut self) {
        loop {
            let wait = self.retention_due.saturating_duration_since(Instant::now());
            match self.queue.recv_timeout(wait) {
                Ok(command) => self.take_group(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if Instant::now() >= self.retention_due {
                self.retain_in_background();
            }
        }
        if let Err(error) = self.log.close() {
            tracing::error!(%error, "closing the log");
        }
    }

    /// Handles `first` and what else waits, in order, with as few commits as possible.
    fn take_group(&self, first: Command) {
        let room = disk::check(self.log.db.data_dir(), self.min_free_bytes);
        let mut group = self.begin();
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Append { ticks, done } => match &room {
                    Ok(()) => {
                        group.append(&ticks, (self.clock)());
                        group.waiting.push(done);
                    }
                    Err(full) => done.answer(Err(full.clone().into())),
                },
                Command::Commit { entries, done } => {
                    for (key, offset) in entries {
                        group.batch.insert(&self.log.groups, key, offset.to_be_bytes());
                    }
                    group.waiting.push(done);
                }
                // The others change the segments, so they end the group.
                Command::EnsureEnd { position, done } => {
                    self.commit(group);
                    return done.answer(self.ensure_end(position));
                }
                Command::Retain { done } => {
                    self.commit(group);
                    return done.answer(self.retain_all());
                }
            }
            next = if group.records < MAX_BATCH_RECORDS { self.queue.try_recv().ok() } else { None };
        }
        self.commit(group);
    }

    fn begin(&self) -> Group {
        let segment = self.log.newest();
        Group {
            batch: self.log.db.database().batch(),
            totals: segment.totals(),
            segment,
            ends: self.log.ends(),
            records: 0,
            waiting: Vec::new(),
        }
    }

    /// Writes a group, shows it to the readers and answers for it.
    fn commit(&self, mut group: Group) {
        if group.waiting.is_empty() {
            return;
        }
        if group.records > 0 {
            group.batch.insert(&self.log.meta, Log::totals_key(&group.segment), group.totals.to_bytes());
        }
        let reserved = self.log.reserve(&group.ends).map_err(BusError::from);
        let commit =
            |()| group.batch.commit().map_err(|error| BusError::from(EmbeddedDbError::failed("append")(error)));
        let written = reserved.and_then(commit);
        if written.is_ok() && group.records > 0 {
            *group.segment.totals.lock().expect(NO_PANIC) = group.totals;
            self.log.appended_records.fetch_add(group.records as u64, Relaxed);
            self.log.show_ends(group.ends);
        }
        for done in group.waiting {
            done.answer(written.clone());
        }
        if let Err(error) = written.and_then(|()| self.roll_if_full()) {
            // The callers know of a failed write; a failed roll is tried again after the next one.
            tracing::error!(%error, "writing the log");
        }
    }

    fn roll_if_full(&self) -> Result<(), BusError> {
        let totals = self.log.newest().totals();
        let full = totals.bytes >= self.segment_bytes();
        let share_ms = self.retention.retention_ms.map(|age_ms| age_ms / SEGMENTS_RETAINED);
        let old = share_ms.is_some_and(|share_ms| totals.records > 0 && self.is_older(totals.first_ms, share_ms));
        if full || old { Ok(self.log.roll(self.log.ends())?) } else { Ok(()) }
    }

    fn segment_bytes(&self) -> u64 {
        // Without a limit on size: the size that the default limit of 1 GiB gives.
        let limit = self.retention.retention_bytes.unwrap_or(1 << 30);
        (limit / SEGMENTS_RETAINED).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end())
    }

    fn is_older(&self, time_ms: i64, age_ms: u64) -> bool {
        let now_ms = (self.clock)();
        now_ms > time_ms && now_ms.abs_diff(time_ms) > age_ms
    }

    fn ensure_end(&self, position: Position) -> Result<(), BusError> {
        let mut ends = self.log.ends();
        let end = &mut ends[position.partition as usize];
        if *end >= position.offset {
            return Ok(());
        }
        tracing::warn!(
            partition = position.partition,
            end = *end,
            raised_to = position.offset,
            "the log ends before an offset that is in use; the offsets between are left unused"
        );
        *end = position.offset;
        self.log.raise_ends(ends)
    }

    /// One step of retention; the next is due at once if this one dropped something.
    fn retain_in_background(&mut self) {
        let dropped = self.retain_step().unwrap_or_else(|error| {
            tracing::error!(%error, "applying retention");
            false
        });
        self.retention_due = Instant::now() + if dropped { Duration::ZERO } else { RETENTION_INTERVAL };
    }

    fn retain_all(&self) -> Result<(), BusError> {
        while self.retain_step()? {}
        Ok(())
    }

    /// Drops the oldest segment if all of it is too old, or if what is left without it is still as much as is retained.
    /// Says whether it dropped one.
    fn retain_step(&self) -> Result<bool, BusError> {
        let too_old = |segment: &Segment| {
            let newest_ms = segment.totals().newest_ms;
            self.retention.retention_ms.is_some_and(|age_ms| self.is_older(newest_ms, age_ms))
        };
        let newest = self.log.newest();
        if newest.totals().records > 0 && too_old(&newest) {
            self.log.roll(self.log.ends())?;
        }
        if self.log.segment_count() < 2 {
            return Ok(false);
        }
        let oldest = self.log.oldest();
        let totals = oldest.totals();
        let left_bytes = self.log.retained_bytes() - totals.bytes;
        let too_much = self.retention.retention_bytes.is_some_and(|limit| left_bytes >= limit);
        if totals.records > 0 && !too_much && !too_old(&oldest) {
            return Ok(false);
        }
        self.log.drop_oldest()?;
        tracing::debug!(segment = oldest.id, totals.records, totals.bytes, "retention dropped a segment");
        Ok(true)
    }
}

impl Group {
    fn append(&mut self, ticks: &[Tick], published_ms: i64) {
        let partitions = self.ends.len() as u32;
        let mut value = Vec::new();
        for tick in ticks {
            let partition = partitioner::partition_of(tick.symbol.as_str().as_bytes(), partitions);
            let end = &mut self.ends[partition as usize];
            value.clear();
            value.extend_from_slice(&published_ms.to_be_bytes());
            stock_tick::from_tick(tick, &mut value);
            let key = record_key(Position { partition, offset: *end });
            self.batch.insert(&self.segment.records, key, &value[..]);
            self.totals.add(KEY_BYTES + value.len(), published_ms);
            *end += 1;
        }
        self.records += ticks.len();
    }
}
