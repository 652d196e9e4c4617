//! The embedded log itself: its segments, the ends of its partitions, and the offsets of consumer groups.
//!
//! One thread writes (see `writer`), any number read. A record counts as there once the partition's end has passed it.
//! What is not a record lies in the keyspace `log`: the number of partitions, and for each segment its bases and totals.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, RwLock};

use fjall::{Guard, Keyspace};
use tocsin_engine::domain::Position;

use super::NO_PANIC;
use super::reserved::Reserved;
use super::segment::{
    Segment, Totals, bases_from_bytes, bases_to_bytes, is_keyspace_name, key_offset, keyspace_name, keyspace_options,
    record_key,
};
use crate::{BusError, EmbeddedDb, EmbeddedDbError};

const PARTITIONS_KEY: &[u8] = b"partitions";
const IDENTITY_KEY: &[u8] = b"identity";
const BASES_PREFIX: &[u8] = b"bases/";
const TOTALS_PREFIX: &[u8] = b"totals/";

/// The log. Keyspaces before the database: fields drop in order.
pub(super) struct Log {
    pub(super) meta: Keyspace,
    pub(super) groups: Keyspace,
    pub(super) partitions: u32,
    /// What no other log has.
    pub(super) identity: String,
    /// Oldest first, never empty. The newest takes what is appended.
    segments: RwLock<VecDeque<Arc<Segment>>>,
    /// By partition: the next offset to be written.
    pub(super) ends: Mutex<Vec<u64>>,
    reserved: Reserved,
    /// Notified when an end has moved, and when a reader is woken.
    pub(super) changed: Condvar,
    pub(super) appended_records: AtomicU64,
    pub(super) skipped_messages: AtomicU64,
    pub(super) db: EmbeddedDb,
}

impl Log {
    /// Opens the log in `db`, or creates it.
    pub(super) fn open(db: &EmbeddedDb, partitions: u32) -> Result<Self, BusError> {
        let meta = db.small_keyspace("log")?;
        let groups = db.small_keyspace("groups")?;
        check_partitions(&meta, partitions)?;
        let identity = identity(db, &meta)?;
        let segments = load_segments(db, &meta, partitions)?;
        let found = match segments.back() {
            Some(newest) => (0..partitions).map(|partition| end_of(newest, partition)).collect::<Result<_, _>>()?,
            None => vec![0; partitions as usize],
        };
        let mut ends = found.clone();
        let reserved = Reserved::open(db, &meta, &mut ends)?;
        let log = Self {
            meta,
            groups,
            partitions,
            identity,
            segments: RwLock::new(segments),
            ends: Mutex::new(found.clone()),
            reserved,
            changed: Condvar::new(),
            appended_records: AtomicU64::new(0),
            skipped_messages: AtomicU64::new(0),
            db: db.clone(),
        };
        if log.segment_count() == 0 {
            log.roll(log.ends())?;
        }
        if ends != found {
            tracing::warn!(
                "the machine was restarted, and the log was not closed before: offsets that may have been used are left unused"
            );
            log.raise_ends(ends)?;
        }
        Ok(log)
    }

    /// By partition: the next offset to be written.
    pub(super) fn ends(&self) -> Vec<u64> {
        self.ends.lock().expect(NO_PANIC).clone()
    }

    /// The next offset to be written.
    pub(super) fn end(&self, partition: u32) -> Result<u64, BusError> {
        self.check_partition(partition)?;
        Ok(self.ends.lock().expect(NO_PANIC)[partition as usize])
    }

    /// The first offset that is retained.
    pub(super) fn earliest(&self, partition: u32) -> Result<u64, BusError> {
        self.check_partition(partition)?;
        Ok(self.oldest().bases[partition as usize])
    }

    pub(super) fn check_partition(&self, partition: u32) -> Result<(), BusError> {
        if partition < self.partitions {
            Ok(())
        } else {
            Err(BusError::UnknownPartition { partition, partitions: self.partitions })
        }
    }

    /// Checks that the log can be read from `position` on.
    pub(super) fn check_range(&self, position: Position) -> Result<(), BusError> {
        let end = self.end(position.partition)?;
        let earliest = self.earliest(position.partition)?;
        if (earliest..=end).contains(&position.offset) {
            Ok(())
        } else {
            Err(BusError::OffsetOutOfRange { position, earliest, end })
        }
    }

    /// Reads up to `max_messages` messages from `position` to the offset `end`, which must not be past the partition's
    /// end, and gives each to `each` with its offset. Returns the offset that is to be read next.
    pub(super) fn read(
        &self,
        position: Position,
        end: u64,
        max_messages: usize,
        mut each: impl FnMut(u64, &[u8]),
    ) -> Result<u64, BusError> {
        let Position { partition, offset: mut next } = position;
        let mut left = max_messages;
        while left > 0 && next < end {
            let Some((segment, segment_end)) = self.segment_at(partition, next) else {
                self.check_range(Position { partition, offset: next })?;
                continue;
            };
            let upper = segment_end.map_or(end, |segment_end| segment_end.min(end));
            let keys =
                record_key(Position { partition, offset: next })..record_key(Position { partition, offset: upper });
            for entry in segment.records.range(keys).take(left) {
                let (key, value) = entry.into_inner().map_err(EmbeddedDbError::failed("read a record"))?;
                let offset = key_offset(&key)?;
                each(offset, &value);
                next = offset + 1;
                left -= 1;
            }
            if left > 0 {
                // The segment has no more; where an end was raised it stops short of the next one.
                next = upper;
            }
        }
        Ok(next)
    }

    /// The segment that holds an offset, and the offset at which the next segment takes over, if there is one. `None` if
    /// the offset is not retained any more.
    fn segment_at(&self, partition: u32, offset: u64) -> Option<(Arc<Segment>, Option<u64>)> {
        let segments = self.segments.read().expect(NO_PANIC);
        let after = segments.partition_point(|segment| segment.bases[partition as usize] <= offset);
        let segment = segments.get(after.checked_sub(1)?)?;
        Some((segment.clone(), segments.get(after).map(|next| next.bases[partition as usize])))
    }

    /// The segment that takes what is appended.
    pub(super) fn newest(&self) -> Arc<Segment> {
        self.segments.read().expect(NO_PANIC).back().expect("a log has a segment").clone()
    }

    /// The segment that retention drops next.
    pub(super) fn oldest(&self) -> Arc<Segment> {
        self.segments.read().expect(NO_PANIC).front().expect("a log has a segment").clone()
    }

    pub(super) fn segment_count(&self) -> usize {
        self.segments.read().expect(NO_PANIC).len()
    }

    /// Bytes of keys and values in all segments.
    pub(super) fn retained_bytes(&self) -> u64 {
        self.segments.read().expect(NO_PANIC).iter().map(|segment| segment.totals().bytes).sum()
    }

    /// Begins a new segment in which the partitions begin at `bases`. Only for the writer.
    ///
    /// It is on the disk before anything is written to it: no later segment may survive a power loss that an earlier
    /// one's records do not.
    pub(super) fn roll(&self, bases: Vec<u64>) -> Result<(), EmbeddedDbError> {
        let previous = self.segments.read().expect(NO_PANIC).back().cloned();
        let id = previous.as_ref().map_or(0, |segment| segment.id + 1);
        let records = open_records(&self.db, id)?;
        self.meta
            .insert(meta_key(BASES_PREFIX, id), bases_to_bytes(&bases))
            .map_err(EmbeddedDbError::failed("begin a segment"))?;
        self.db.sync()?;
        let segment = Segment { id, bases, totals: Mutex::default(), records };
        self.segments.write().expect(NO_PANIC).push_back(Arc::new(segment));
        if let Some(previous) = previous {
            // To a table: frees its memory, and lets fjall drop the journals that hold its records.
            previous.records.rotate_memtable().map_err(EmbeddedDbError::failed("flush a segment"))?;
        }
        Ok(())
    }

    /// Moves the ends forward to `ends`, leaving the offsets between unused: a new segment begins there. Only for the writer.
    pub(super) fn raise_ends(&self, ends: Vec<u64>) -> Result<(), BusError> {
        self.reserve(&ends)?;
        self.roll(ends.clone())?;
        self.show_ends(ends);
        Ok(())
    }

    /// Makes sure that no offset before `ends` is used again after a power cut. Only for the writer.
    pub(super) fn reserve(&self, ends: &[u64]) -> Result<(), EmbeddedDbError> {
        self.reserved.cover(&self.db, &self.meta, ends)
    }

    /// Writes all that there is to the disk, and that the log was closed. Only for the writer, and last.
    pub(super) fn close(&self) -> Result<(), EmbeddedDbError> {
        self.db.sync()?;
        self.reserved.give_back(&self.db, &self.meta, self.ends())
    }

    /// Lets the readers see what is before `ends`. Only for the writer.
    pub(super) fn show_ends(&self, ends: Vec<u64>) {
        *self.ends.lock().expect(NO_PANIC) = ends;
        self.changed.notify_all();
    }

    /// Drops the oldest of at least two segments. Only for the writer. Readers of it finish what they are reading.
    pub(super) fn drop_oldest(&self) -> Result<(), EmbeddedDbError> {
        let oldest = self.oldest();
        let mut batch = self.db.database().batch();
        batch.remove(&self.meta, meta_key(BASES_PREFIX, oldest.id));
        batch.remove(&self.meta, meta_key(TOTALS_PREFIX, oldest.id));
        batch.commit().map_err(EmbeddedDbError::failed("drop a segment"))?;
        // The log must not remember a segment whose records are gone.
        self.db.sync()?;
        self.segments.write().expect(NO_PANIC).pop_front();
        self.db.database().delete_keyspace(oldest.records.clone()).map_err(EmbeddedDbError::failed("drop a segment"))
    }

    /// The key under which a segment's totals are stored.
    pub(super) fn totals_key(segment: &Segment) -> Vec<u8> {
        meta_key(TOTALS_PREFIX, segment.id)
    }
}

fn meta_key(prefix: &[u8], id: u64) -> Vec<u8> {
    [prefix, &id.to_be_bytes()].concat()
}

fn open_records(db: &EmbeddedDb, id: u64) -> Result<Keyspace, EmbeddedDbError> {
    db.database().keyspace(&keyspace_name(id), keyspace_options).map_err(EmbeddedDbError::failed("open a segment"))
}

/// Stores the number of partitions in a new log, and compares it in an old one.
fn check_partitions(meta: &Keyspace, asked: u32) -> Result<(), BusError> {
    let stored = meta.get(PARTITIONS_KEY).map_err(EmbeddedDbError::failed("read the number of partitions"))?;
    let Some(stored) = stored else {
        meta.insert(PARTITIONS_KEY, asked.to_be_bytes())
            .map_err(EmbeddedDbError::failed("store the number of partitions"))?;
        return Ok(());
    };
    let stored = stored[..]
        .try_into()
        .map(u32::from_be_bytes)
        .map_err(|_| EmbeddedDbError::Damaged("the number of partitions cannot be read".into()))?;
    if stored == asked { Ok(()) } else { Err(BusError::PartitionCount { stored, asked }) }
}

/// What this log has and no other: random, made with the log, and on the disk before anything can refer to it.
fn identity(db: &EmbeddedDb, meta: &Keyspace) -> Result<String, EmbeddedDbError> {
    let stored = meta.get(IDENTITY_KEY).map_err(EmbeddedDbError::failed("read its identity"))?;
    let bytes = match stored {
        Some(stored) => stored[..].try_into(),
        None => {
            let made: [u8; 16] = rand::random();
            meta.insert(IDENTITY_KEY, made).map_err(EmbeddedDbError::failed("store its identity"))?;
            db.sync()?;
            Ok(made)
        }
    };
    let bytes = bytes.map_err(|_| EmbeddedDbError::Damaged("the identity of the log cannot be read".into()))?;
    Ok(format!("embedded:{}", hex::encode(bytes)))
}

/// The segments that the log remembers, oldest first. Keyspaces that it does not remember are of segments whose creation
/// or removal was cut short; they go.
fn load_segments(db: &EmbeddedDb, meta: &Keyspace, partitions: u32) -> Result<VecDeque<Arc<Segment>>, EmbeddedDbError> {
    let mut segments = VecDeque::new();
    for entry in meta.prefix(BASES_PREFIX) {
        let (key, bases) = entry.into_inner().map_err(EmbeddedDbError::failed("read its segments"))?;
        let id = key[BASES_PREFIX.len()..]
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| EmbeddedDbError::Damaged("the number of a segment cannot be read".into()))?;
        let totals = meta.get(meta_key(TOTALS_PREFIX, id)).map_err(EmbeddedDbError::failed("read its segments"))?;
        let totals = totals.map_or(Ok(Totals::default()), |bytes| Totals::from_bytes(&bytes))?;
        segments.push_back(Arc::new(Segment {
            id,
            bases: bases_from_bytes(&bases, partitions)?,
            totals: Mutex::new(totals),
            records: open_records(db, id)?,
        }));
    }
    let known: Vec<String> = segments.iter().map(|segment| keyspace_name(segment.id)).collect();
    for name in db.database().list_keyspace_names() {
        if is_keyspace_name(&name) && !known.iter().any(|known| **known == *name) {
            let stray =
                db.database().keyspace(&name, keyspace_options).map_err(EmbeddedDbError::failed("open a segment"))?;
            db.database().delete_keyspace(stray).map_err(EmbeddedDbError::failed("drop a segment"))?;
        }
    }
    Ok(segments)
}

/// The offset after a partition's last record in the newest segment.
fn end_of(newest: &Segment, partition: u32) -> Result<u64, EmbeddedDbError> {
    let first = record_key(Position { partition, offset: 0 });
    let last = record_key(Position { partition, offset: u64::MAX });
    match newest.records.range(first..=last).next_back().map(Guard::key) {
        Some(key) => Ok(key_offset(&key.map_err(EmbeddedDbError::failed("read the end of a partition"))?)? + 1),
        None => Ok(newest.bases[partition as usize]),
    }
}
