//! Offsets that are reserved ahead: after a power cut none is used again that may have been used before.
//!
//! Records are in the operating system's hands when they are acknowledged, and firings on them may have been recorded and
//! streamed before they are on the disk. So offsets are reserved in large steps, each on the disk before the first of them is
//! used. Where the machine was restarted since, the log goes on behind all that was reserved, and leaves the offsets between
//! unused; a killed process loses nothing, and leaves no gap.

use std::sync::Mutex;

use fjall::Keyspace;

use super::NO_PANIC;
use super::segment::{bases_from_bytes, bases_to_bytes};
use crate::{EmbeddedDb, EmbeddedDbError};

const RESERVED_KEY: &[u8] = b"reserved";
const BOOT_KEY: &[u8] = b"boot";

/// Offsets of a partition that are reserved at once: so many that the sync does not show.
const STEP: u64 = 1 << 20;

/// By partition: the first offset that is not reserved.
pub(super) struct Reserved {
    until: Mutex<Vec<u64>>,
}

impl Reserved {
    /// Reads what was reserved, raises `ends` above it where the log may have lost records that were given these offsets,
    /// and reserves more.
    pub(super) fn open(db: &EmbeddedDb, meta: &Keyspace, ends: &mut [u64]) -> Result<Self, EmbeddedDbError> {
        Self::open_in(db, meta, ends, boot_id())
    }

    pub(super) fn open_in(
        db: &EmbeddedDb,
        meta: &Keyspace,
        ends: &mut [u64],
        boot: Option<String>,
    ) -> Result<Self, EmbeddedDbError> {
        let read = |key| meta.get(key).map_err(EmbeddedDbError::failed("read what is reserved"));
        let (stored, stored_boot) = (read(RESERVED_KEY)?, read(BOOT_KEY)?);
        let same_boot = boot.as_ref().zip(stored_boot).is_some_and(|(boot, stored)| boot.as_bytes() == &stored[..]);
        if let (Some(stored), false) = (stored, same_boot) {
            let partitions = ends.len() as u32;
            for (end, reserved) in ends.iter_mut().zip(bases_from_bytes(&stored, partitions)?) {
                *end = (*end).max(reserved);
            }
        }
        let reserved = Self { until: Mutex::default() };
        let boot = boot.unwrap_or_default();
        meta.insert(BOOT_KEY, boot.as_bytes()).map_err(EmbeddedDbError::failed("reserve offsets"))?;
        reserved.store(db, meta, ends.iter().map(|end| end.saturating_add(STEP)).collect())?;
        Ok(reserved)
    }

    /// Makes sure that all offsets before `ends` are reserved.
    pub(super) fn cover(&self, db: &EmbeddedDb, meta: &Keyspace, ends: &[u64]) -> Result<(), EmbeddedDbError> {
        let mut until = self.until.lock().expect(NO_PANIC).clone();
        let short = until.iter_mut().zip(ends).filter(|(until, end)| **until < **end);
        if short.map(|(until, end)| *until = end.saturating_add(STEP)).count() == 0 {
            return Ok(());
        }
        self.store(db, meta, until)
    }

    /// Gives back what was not used, once all that was is on the disk: the next start leaves no gap.
    pub(super) fn give_back(&self, db: &EmbeddedDb, meta: &Keyspace, ends: Vec<u64>) -> Result<(), EmbeddedDbError> {
        self.store(db, meta, ends)
    }

    fn store(&self, db: &EmbeddedDb, meta: &Keyspace, until: Vec<u64>) -> Result<(), EmbeddedDbError> {
        meta.insert(RESERVED_KEY, bases_to_bytes(&until)).map_err(EmbeddedDbError::failed("reserve offsets"))?;
        db.sync()?;
        *self.until.lock().expect(NO_PANIC) = until;
        Ok(())
    }
}

/// What the operating system calls this run of the machine; None where it does not say.
fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(db: &EmbeddedDb, ends: &[u64], boot: Option<&str>) -> (Reserved, Vec<u64>) {
        let mut ends = ends.to_vec();
        let meta = db.small_keyspace("log").unwrap();
        let reserved = Reserved::open_in(db, &meta, &mut ends, boot.map(str::to_owned)).unwrap();
        (reserved, ends)
    }

    #[test]
    fn a_log_goes_on_behind_what_was_reserved_where_the_machine_was_restarted() {
        let dir = tempfile::tempdir().unwrap();
        let db = EmbeddedDb::open(dir.path()).unwrap();
        let meta = db.small_keyspace("log").unwrap();
        let (reserved, ends) = open(&db, &[0, 5], Some("a"));
        assert_eq!(ends, [0, 5], "a new log");
        assert_eq!(open(&db, &[7, 6], Some("a")).1, [7, 6], "a process was killed");
        reserved.cover(&db, &meta, &[STEP + 9, 6]).unwrap();
        let (reserved, ends) = open(&db, &[7, 6], Some("b"));
        assert_eq!(ends, [2 * STEP + 9, 5 + STEP], "the machine was restarted");
        reserved.give_back(&db, &meta, ends.clone()).unwrap();
        assert_eq!(open(&db, &ends, Some("c")).1, ends, "after a clean stop");
        let behind = open(&db, &ends, None).1;
        assert_eq!(behind, ends.iter().map(|end| end + STEP).collect::<Vec<_>>(), "a machine that does not say");
    }
}
