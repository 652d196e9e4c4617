//! What a group remembers, as bytes that a store keeps: a version, and for each binding its number, its state, its health
//! where it is not clean, and its pace where it fired of late.

use crate::domain::{BindingId, Digest, Symbol, Tenant};
use crate::health::Health;
use crate::pace::Pace;

/// The first byte of a snapshot: the version of its format.
const VERSION: u8 = 1;
/// Bytes before the state in a packed record: the binding (i64) and the state's length (u32), little-endian.
const HEAD_BYTES: usize = 12;
/// Set in the length if the health follows.
const HAS_HEALTH: u32 = 1 << 31;
/// Set in the length if the pace follows, behind the health: what is used (i64) and the last event time (i64).
const HAS_PACE: u32 = 1 << 30;
const PACE_BYTES: usize = 16;
/// Bytes of a health: the history (u32), the trips (u16), whether it is on probe (u16), the ticks to wait (u64).
const HEALTH_BYTES: usize = 16;

/// The memory of one binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedBinding {
    /// Whose it is.
    pub binding: BindingId,
    /// How it has fared.
    pub health: Health,
    /// How fast it may fire; None where it may fire as often as any.
    pub pace: Option<Pace>,
    /// Its state record.
    pub state: Vec<u8>,
}

impl SavedBinding {
    /// The record of this binding alone: [`GroupSnapshot::unpack`] reads it.
    pub fn pack(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        put_record(
            &mut bytes,
            Remembered { binding: self.binding, health: self.health, pace: self.pace, state: &self.state },
        );
        bytes
    }
}

/// The same, borrowed.
#[derive(Clone, Copy)]
pub(crate) struct Remembered<'a> {
    pub(crate) binding: BindingId,
    pub(crate) health: Health,
    pub(crate) pace: Option<Pace>,
    pub(crate) state: &'a [u8],
}

/// The memory of a group, packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSnapshot {
    /// The group's tenant.
    pub tenant: Tenant,
    /// The group's symbol.
    pub symbol: Symbol,
    /// The group's rule version.
    pub rule: Digest,
    /// The records of its bindings.
    pub bytes: Vec<u8>,
}

/// Bytes that are no snapshot: a store gave back something else than it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored group snapshot is damaged at byte {0}")]
pub struct DamagedSnapshot(usize);

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

    /// The records of a snapshot's bytes: none of no bytes.
    pub fn unpack(bytes: &[u8]) -> Result<Vec<SavedBinding>, DamagedSnapshot> {
        let mut saved = Vec::new();
        let Some((version, mut left)) = bytes.split_first() else { return Ok(saved) };
        if *version != VERSION {
            return Err(DamagedSnapshot(0));
        }
        while !left.is_empty() {
            let at = bytes.len() - left.len();
            saved.push(take_record(&mut left).ok_or(DamagedSnapshot(at))?);
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
        bytes.extend_from_slice(&health.wait_ticks.to_le_bytes());
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
        health.wait_ticks = u64::from_le_bytes(*bytes.last_chunk()?);
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
        let health = Health { history: 5, trips: 2, on_probe: true, wait_ticks: 1 << 40 };
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
            assert!(GroupSnapshot::unpack(&packed.bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(GroupSnapshot::unpack(&[VERSION + 1]).is_err(), "another version");
    }
}
