//! A segment of the embedded log: what retention keeps or drops as a whole, as Kafka does.
//!
//! A segment is a fjall keyspace with the records of all partitions that were appended while it was the newest. Dropping
//! it removes a folder, where deleting its records one by one would write a tombstone for each. Its bases say at which
//! offset each partition begins in it, so the log knows its ends even when every record is gone.

use std::sync::Mutex;

use fjall::config::{BlockSizePolicy, FilterPolicy};
use fjall::{Keyspace, KeyspaceCreateOptions};
use tocsin_engine::domain::Position;

use crate::EmbeddedDbError;

/// Memtable of a segment, bytes: what a restart replays at most, and what the newest segment takes in memory.
const MEMTABLE_BYTES: u64 = 16 * 1024 * 1024;

/// Data blocks, bytes: records are read in sequence, so fewer and larger blocks than fjall's 4 KiB.
const BLOCK_BYTES: u32 = 16 * 1024;

/// Bytes of a record's key: partition and offset, big-endian, so that keys sort like positions.
pub(super) const KEY_BYTES: usize = 12;

/// One segment.
pub(super) struct Segment {
    /// Its number; later segments have higher ones.
    pub(super) id: u64,
    /// By partition: its first offset in this segment.
    pub(super) bases: Vec<u64>,
    /// What it holds.
    pub(super) totals: Mutex<Totals>,
    /// The records: [`record_key`] to publish time and message.
    pub(super) records: Keyspace,
}

/// What a segment holds, stored in the batch of each append, so that it is known without reading the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) records: u64,
    /// Keys and values.
    pub(super) bytes: u64,
    /// Publish time of the first record, Unix milliseconds.
    pub(super) first_ms: i64,
    /// The latest publish time, Unix milliseconds.
    pub(super) newest_ms: i64,
}

impl Totals {
    /// Counts a record in.
    pub(super) fn add(&mut self, bytes: usize, published_ms: i64) {
        if self.records == 0 {
            (self.first_ms, self.newest_ms) = (published_ms, published_ms);
        }
        self.records += 1;
        self.bytes += bytes as u64;
        self.newest_ms = self.newest_ms.max(published_ms);
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let words = [self.records, self.bytes, self.first_ms as u64, self.newest_ms as u64];
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, EmbeddedDbError> {
        match words(bytes).as_deref() {
            Some([records, bytes, first_ms, newest_ms]) => {
                Ok(Self { records: *records, bytes: *bytes, first_ms: *first_ms as i64, newest_ms: *newest_ms as i64 })
            }
            _ => Err(EmbeddedDbError::Damaged("the totals of a segment cannot be read".into())),
        }
    }
}

impl Segment {
    pub(super) fn totals(&self) -> Totals {
        *self.totals.lock().expect(super::NO_PANIC)
    }
}

/// The name of a segment's keyspace.
pub(super) fn keyspace_name(id: u64) -> String {
    format!("segment-{id:020}")
}

/// Whether a keyspace is a segment's.
pub(super) fn is_keyspace_name(name: &str) -> bool {
    name.starts_with("segment-")
}

/// How a segment's keyspace is made. Without Bloom filters: nothing asks whether a key exists.
pub(super) fn keyspace_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(MEMTABLE_BYTES)
        .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
        .filter_policy(FilterPolicy::disabled())
}

pub(super) fn bases_to_bytes(bases: &[u64]) -> Vec<u8> {
    bases.iter().flat_map(|base| base.to_be_bytes()).collect()
}

pub(super) fn bases_from_bytes(bytes: &[u8], partitions: u32) -> Result<Vec<u64>, EmbeddedDbError> {
    words(bytes)
        .filter(|bases| bases.len() == partitions as usize)
        .ok_or_else(|| EmbeddedDbError::Damaged("the bases of a segment cannot be read".into()))
}

/// The key of the record at `position`.
pub(super) fn record_key(position: Position) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..4].copy_from_slice(&position.partition.to_be_bytes());
    key[4..].copy_from_slice(&position.offset.to_be_bytes());
    key
}

/// The offset in a record's key.
pub(super) fn key_offset(key: &[u8]) -> Result<u64, EmbeddedDbError> {
    key.get(4..)
        .and_then(|offset| offset.try_into().ok())
        .map(u64::from_be_bytes)
        .ok_or_else(|| EmbeddedDbError::Damaged(format!("a record's key has {} bytes, not {KEY_BYTES}", key.len())))
}

fn words(bytes: &[u8]) -> Option<Vec<u64>> {
    let (words, rest) = bytes.as_chunks::<8>();
    rest.is_empty().then(|| words.iter().map(|word| u64::from_be_bytes(*word)).collect())
}
