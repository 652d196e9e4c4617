//! The format of a group's snapshot, the bytes that a store keeps.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | the version of the format, 1 |
//! | then for each binding: | |
//! | 8 | its id (i64) |
//! | 4 | the bytes of its state (u32), with bit 31 set if a health follows and bit 30 set if a pace does |
//! | 16, if bit 31 is set | its health: history (u32), trips (u16), on probe (u16: 0 or 1), the offset of its probe (u64) |
//! | 16, if bit 30 is set | its pace: used ms (i64), last event time in ms (i64) |
//! | as above | its state |
//!
//! Numbers are little-endian. A health that is clean is left out, and so is the pace of a binding that has not fired lately.
//! A snapshot without bindings is no bytes at all.

use crate::domain::{BindingId, Digest, Symbol, Tenant};
use crate::health::Health;
use crate::pace::Pace;

/// The version of the format, which is written and read.
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 12;
const HAS_HEALTH: u32 = 1 << 31;
const HEALTH_BYTES: usize = 16;
const HAS_PACE: u32 = 1 << 30;
const PACE_BYTES: usize = 16;

/// What a snapshot holds of one binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedBinding {
    /// The id of the binding.
    pub binding: BindingId,
    /// Its faults and quarantine.
    pub health: Health,
    /// Its use of the firing rate; `None` if it has not fired lately.
    pub pace: Option<Pace>,
    /// Its state record.
    pub state: Vec<u8>,
}

impl SavedBinding {
    /// Packs a snapshot of this binding alone, for [`GroupSnapshot::unpack`].
    pub fn pack(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        put_record(
            &mut bytes,
            Remembered { binding: self.binding, health: self.health, pace: self.pace, state: &self.state },
        );
        bytes
    }
}

/// A [`SavedBinding`], borrowed.
#[derive(Clone, Copy)]
pub(crate) struct Remembered<'a> {
    pub(crate) binding: BindingId,
    pub(crate) health: Health,
    pub(crate) pace: Option<Pace>,
    pub(crate) state: &'a [u8],
}

/// What a group remembers, packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSnapshot {
    /// The tenant of the group's alerts.
    pub tenant: Tenant,
    /// The symbol whose ticks the group is evaluated on.
    pub symbol: Symbol,
    /// The digest of the group's rule version.
    pub rule: Digest,
    /// The snapshot of its bindings, as [`Self::unpack`] reads it.
    pub bytes: Vec<u8>,
}

/// Why bytes cannot be read as a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The format is of another version, such as that of a newer server.
    #[error(
        "the snapshot has format version {0}, and this server reads version {supported}: run the server that wrote it",
        supported = VERSION
    )]
    UnknownVersion(u8),
    /// The record at this offset, in bytes, is cut short: the store returned other bytes than were stored.
    #[error("the snapshot is damaged at byte {0}")]
    Damaged(usize),
}

impl GroupSnapshot {
    pub(crate) fn pack<'a>(
        tenant: Tenant,
        symbol: Symbol,
        rule: Digest,
        records: impl Iterator<Item = Remembered<'a>>,
    ) -> Self {
        let mut bytes = Vec::new();
        for record in records {
            if bytes.is_empty() {
                bytes.push(VERSION);
            }
            put_record(&mut bytes, record);
        }
        Self { tenant, symbol, rule, bytes }
    }

    /// Reads a snapshot's bindings.
    ///
    /// # Errors
    /// Where the version is unknown, or the last record is cut short.
    pub fn unpack(bytes: &[u8]) -> Result<Vec<SavedBinding>, SnapshotError> {
        let mut saved = Vec::new();
        let Some((version, mut left)) = bytes.split_first() else { return Ok(saved) };
        if *version != VERSION {
            return Err(SnapshotError::UnknownVersion(*version));
        }
        while !left.is_empty() {
            let at = bytes.len() - left.len();
            saved.push(take_record(&mut left).ok_or(SnapshotError::Damaged(at))?);
        }
        Ok(saved)
    }
}

fn put_record(bytes: &mut Vec<u8>, record: Remembered<'_>) {
    let Remembered { binding, health, pace, state } = record;
    let has_health = if health.is_clean() { 0 } else { HAS_HEALTH };
    let has_pace = if pace.is_some() { HAS_PACE } else { 0 };
    bytes.extend_from_slice(&binding.0.to_le_bytes());
    bytes.extend_from_slice(&(state.len() as u32 | has_health | has_pace).to_le_bytes());
    if has_health != 0 {
        bytes.extend_from_slice(&health.history.to_le_bytes());
        bytes.extend_from_slice(&health.trips.to_le_bytes());
        bytes.extend_from_slice(&u16::from(health.on_probe).to_le_bytes());
        bytes.extend_from_slice(&health.probe_at.to_le_bytes());
    }
    if let Some(pace) = pace {
        bytes.extend_from_slice(&pace.used_ms.to_le_bytes());
        bytes.extend_from_slice(&pace.last_ms.to_le_bytes());
    }
    bytes.extend_from_slice(state);
}

fn take_record(left: &mut &[u8]) -> Option<SavedBinding> {
    let head = left.split_off(..HEAD_BYTES)?;
    let binding = BindingId(i64::from_le_bytes(*head.first_chunk()?));
    let length = u32::from_le_bytes(*head.last_chunk()?);
    let mut health = Health::default();
    if length & HAS_HEALTH != 0 {
        let bytes = left.split_off(..HEALTH_BYTES)?;
        health.history = u32::from_le_bytes(*bytes.first_chunk()?);
        health.trips = u16::from_le_bytes([bytes[4], bytes[5]]);
        health.on_probe = bytes[6] != 0;
        health.probe_at = u64::from_le_bytes(*bytes.last_chunk()?);
    }
    let mut pace = None;
    if length & HAS_PACE != 0 {
        let bytes = left.split_off(..PACE_BYTES)?;
        let (used_ms, last_ms) = (*bytes.first_chunk()?, *bytes.last_chunk()?);
        pace = Some(Pace { used_ms: i64::from_le_bytes(used_ms), last_ms: i64::from_le_bytes(last_ms) });
    }
    let state = left.split_off(..(length & !(HAS_HEALTH | HAS_PACE)) as usize)?.to_vec();
    Some(SavedBinding { binding, health, pace, state })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_survives_its_bytes_and_damage_is_an_error() {
        let health = Health { history: 5, trips: 2, on_probe: true, probe_at: 1 << 40 };
        let pace = Some(Pace { used_ms: 300, last_ms: -5 });
        let clean = Health::default();
        let expect = [
            SavedBinding { binding: BindingId(7), health, pace: None, state: vec![1, 2, 3] },
            SavedBinding { binding: BindingId(8), health: clean, pace: None, state: Vec::new() },
            SavedBinding { binding: BindingId(9), health, pace, state: vec![4] },
            SavedBinding { binding: BindingId(10), health: clean, pace, state: Vec::new() },
        ];
        let records = expect.iter().map(|saved| {
            let SavedBinding { binding, health, pace, state } = saved;
            Remembered { binding: *binding, health: *health, pace: *pace, state }
        });
        let symbol = Symbol::parse("X").unwrap();
        let packed = GroupSnapshot::pack(Tenant::standard(), symbol, Digest::of(b""), records);
        assert_eq!(GroupSnapshot::unpack(&packed.bytes).unwrap(), expect);
        assert_eq!(GroupSnapshot::unpack(&[]).unwrap(), []);
        for saved in &expect {
            assert_eq!(GroupSnapshot::unpack(&saved.pack()).unwrap(), std::slice::from_ref(saved));
        }
        for cut in [2, 12, 14, 28, 31, 36, 43, packed.bytes.len() - 1] {
            let error = GroupSnapshot::unpack(&packed.bytes[..cut]).unwrap_err();
            assert!(matches!(error, SnapshotError::Damaged(at) if at < cut), "cut at {cut}: {error}");
        }
    }

    #[test]
    fn a_snapshot_of_another_version_is_refused_by_name() {
        let saved = SavedBinding { binding: BindingId(7), health: Health::default(), pace: None, state: vec![1] };
        let mut bytes = saved.pack();
        for version in [0, VERSION + 1, u8::MAX] {
            bytes[0] = version;
            let error = GroupSnapshot::unpack(&bytes).unwrap_err();
            assert_eq!(error, SnapshotError::UnknownVersion(version));
            assert!(error.to_string().contains(&format!("version {version}")), "{error}");
        }
    }
}
