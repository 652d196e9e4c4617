//! What a group remembers, as bytes that a store keeps: for each binding its number, its state, and its health where it
//! is not clean.

use crate::domain::{BindingId, Digest, Symbol, Tenant};
use crate::health::Health;

/// Bytes before the state in a packed record: the binding (i64) and the state's length (u32), little-endian.
const HEAD_BYTES: usize = 12;
/// Set in the length if the health follows.
const HAS_HEALTH: u32 = 1 << 31;
/// Bytes of a health: the history (u32), the trips (u16), whether it is on probe (u16), the ticks to wait (u64).
const HEALTH_BYTES: usize = 16;

/// The memory of one binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedBinding {
    /// Whose it is.
    pub binding: BindingId,
    /// How it has fared.
    pub health: Health,
    /// Its state record.
    pub state: Vec<u8>,
}

impl SavedBinding {
    /// The record of this binding alone: [`GroupSnapshot::unpack`] reads it.
    pub fn pack(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_record(&mut bytes, self.binding, self.health, &self.state);
        bytes
    }
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
        records: impl Iterator<Item = (BindingId, Health, &'a [u8])>,
    ) -> Self {
        let mut bytes = Vec::new();
        for (binding, health, state) in records {
            put_record(&mut bytes, binding, health, state);
        }
        Self { tenant, symbol, rule, bytes }
    }

    /// The records of a snapshot's bytes.
    pub fn unpack(bytes: &[u8]) -> Result<Vec<SavedBinding>, DamagedSnapshot> {
        let mut saved = Vec::new();
        let mut left = bytes;
        while !left.is_empty() {
            let at = bytes.len() - left.len();
            saved.push(take_record(&mut left).ok_or(DamagedSnapshot(at))?);
        }
        Ok(saved)
    }
}

fn put_record(bytes: &mut Vec<u8>, binding: BindingId, health: Health, state: &[u8]) {
    let flag = if health.is_clean() { 0 } else { HAS_HEALTH };
    bytes.extend_from_slice(&binding.0.to_le_bytes());
    bytes.extend_from_slice(&(state.len() as u32 | flag).to_le_bytes());
    if flag != 0 {
        bytes.extend_from_slice(&health.history.to_le_bytes());
        bytes.extend_from_slice(&health.trips.to_le_bytes());
        bytes.extend_from_slice(&u16::from(health.on_probe).to_le_bytes());
        bytes.extend_from_slice(&health.wait_ticks.to_le_bytes());
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
    let state = left.split_off(..(length & !HAS_HEALTH) as usize)?.to_vec();
    Some(SavedBinding { binding, health, state })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_survives_its_bytes_and_damage_is_told() {
        let health = Health { history: 5, trips: 2, on_probe: true, wait_ticks: 1 << 40 };
        let records = [(BindingId(7), health, &[1u8, 2, 3][..]), (BindingId(8), Health::default(), &[][..])];
        let symbol = Symbol::parse("X").unwrap();
        let packed = GroupSnapshot::pack(Tenant::standard(), symbol, Digest::of(b""), records.into_iter());
        let unpacked = GroupSnapshot::unpack(&packed.bytes).unwrap();
        let expect = records.map(|(binding, health, state)| SavedBinding { binding, health, state: state.to_vec() });
        assert_eq!(unpacked, expect);
        assert_eq!(unpacked.iter().flat_map(SavedBinding::pack).collect::<Vec<u8>>(), packed.bytes);
        for cut in [1, 11, 13, 27, 30, 35, 42] {
            assert!(GroupSnapshot::unpack(&packed.bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
