//! Reading the embedded log: some partitions, each from its own position on, by one thread.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tocsin_engine::domain::Position;

use super::NO_PANIC;
use super::log::Log;
use crate::{BusError, Record, stock_tick};

/// The least time between two lines in the log about messages that are no ticks: a broken producer must not fill a disk.
const SKIP_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Reads the embedded log.
pub struct EmbeddedReader {
    log: Arc<Log>,
    /// By partition that is read: the next position.
    next: Vec<Position>,
    /// Which of them is first in the next poll.
    turn: usize,
    woken: Arc<AtomicBool>,
    skips: Skips,
}

/// Wakes a reader of the embedded log. It does not keep the log open.
#[derive(Clone)]
pub struct EmbeddedWaker {
    log: Weak<Log>,
    woken: Arc<AtomicBool>,
}

/// Messages passed over since the last line about them.
#[derive(Default)]
struct Skips {
    count: u64,
    logged_at: Option<Instant>,
}

impl EmbeddedReader {
    pub(super) fn new(log: Arc<Log>, from: Vec<Position>) -> Result<Self, BusError> {
        let mut reader = Self { log, next: Vec::new(), turn: 0, woken: Arc::default(), skips: Skips::default() };
        reader.add(from)?;
        Ok(reader)
    }

    pub(crate) fn add(&mut self, from: Vec<Position>) -> Result<(), BusError> {
        let before = self.next.len();
        for position in from {
            let known = self.next.iter().any(|other| other.partition == position.partition);
            let added = if known {
                Err(BusError::DuplicatePartition(position.partition))
            } else {
                self.log.check_range(position)
            };
            if let Err(error) = added {
                self.next.truncate(before);
                return Err(error);
            }
            self.next.push(position);
        }
        Ok(())
    }

    pub(crate) fn remove(&mut self, partitions: &[u32]) {
        self.next.retain(|position| !partitions.contains(&position.partition));
    }

    pub(crate) fn poll(
        &mut self,
        batch: &mut Vec<Record>,
        max_records: usize,
        timeout: Duration,
    ) -> Result<(), BusError> {
        batch.clear();
        // A timeout beyond what the clock can say is none.
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let before = self.next.clone();
            if let Err(error) = self.fill(batch, max_records.max(1)) {
                self.next = before;
                batch.clear();
                return Err(error);
            }
            if !batch.is_empty() || !self.wait(deadline) {
                break;
            }
        }
        self.woken.store(false, Relaxed);
        Ok(())
    }

    pub(crate) fn position(&self, partition: u32) -> u64 {
        let position = self.next.iter().find(|position| position.partition == partition);
        position.expect("a reader is asked about partitions that it was given").offset
    }

    pub(crate) fn waker(&self) -> EmbeddedWaker {
        EmbeddedWaker { log: Arc::downgrade(&self.log), woken: self.woken.clone() }
    }

    /// Takes what there is, the partitions in turn, each an equal part of the room that is left.
    fn fill(&mut self, batch: &mut Vec<Record>, max_records: usize) -> Result<(), BusError> {
        let ends = self.log.ends();
        let has_more = |position: &Position| position.offset < ends[position.partition as usize];
        for position in &self.next {
            self.log.check_range(*position)?;
        }
        let (count, turn) = (self.next.len(), self.turn);
        let mut unread = self.next.iter().filter(|position| has_more(position)).count();
        for i in (0..count).map(|i| (turn + i) % count) {
            if has_more(&self.next[i]) && batch.len() < max_records {
                let share = (max_records - batch.len()).div_ceil(unread);
                let end = ends[self.next[i].partition as usize];
                self.read(i, end, share, batch)?;
                unread -= 1;
            }
        }
        self.turn = if count == 0 { 0 } else { (turn + 1) % count };
        Ok(())
    }

    fn read(&mut self, i: usize, end: u64, max_messages: usize, batch: &mut Vec<Record>) -> Result<(), BusError> {
        let Self { log, next, skips, .. } = self;
        let partition = next[i].partition;
        next[i].offset = log.read(next[i], end, max_messages, |offset, value| {
            let position = Position { partition, offset };
            match decode(position, value) {
                Ok(record) => batch.push(record),
                Err(reason) => skips.add(log, position, &reason),
            }
        })?;
        Ok(())
    }

    /// Waits until one of the partitions has something. False if the deadline has passed or the reader was woken.
    fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut ends = self.log.ends.lock().expect(NO_PANIC);
        loop {
            if self.woken.load(Relaxed) {
                return false;
            }
            if self.next.iter().any(|position| position.offset < ends[position.partition as usize]) {
                return true;
            }
            ends = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return false,
                Some(left) => self.log.changed.wait_timeout(ends, left).expect(NO_PANIC).0,
                None => self.log.changed.wait(ends).expect(NO_PANIC),
            };
        }
    }
}

impl EmbeddedWaker {
    pub(crate) fn wake(&self) {
        let Some(log) = self.log.upgrade() else { return };
        // Under the lock that a reader holds between looking and waiting, so that it cannot miss this.
        let _ends = log.ends.lock().expect(NO_PANIC);
        self.woken.store(true, Relaxed);
        log.changed.notify_all();
    }
}

impl Skips {
    fn add(&mut self, log: &Log, position: Position, reason: &str) {
        log.skipped_messages.fetch_add(1, Relaxed);
        self.count += 1;
        if self.logged_at.is_none_or(|at| at.elapsed() >= SKIP_LOG_INTERVAL) {
            let Position { partition, offset } = position;
            tracing::warn!(partition, offset, reason, skipped = self.count, "skipped messages that are no ticks");
            *self = Self { count: 0, logged_at: Some(Instant::now()) };
        }
    }
}

/// A stored value is the publish time and the message.
fn decode(position: Position, value: &[u8]) -> Result<Record, String> {
    let (published_ms, message) = value.split_first_chunk().ok_or("the record has no publish time")?;
    let tick = stock_tick::into_tick(message).map_err(|error| error.to_string())?;
    Ok(Record { position, published_ms: i64::from_be_bytes(*published_ms), tick })
}
