//! What a group remembers, as bytes that a store keeps: for each binding its number, its run of faults and its state.

use crate::domain::{BindingId, Digest, Symbol, Tenant};

/// Bytes before the state in a packed record: the binding (i64), the faults (u32) and the state's length (u32),
/// little-endian.
const HEAD_BYTES: usize = 16;

/// The memory of one binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedBinding {
    /// Whose it is.
    pub binding: BindingId,
    /// Its run of faults.
    pub faults: u32,
    /// Its state record.
    pub state: Vec<u8>,
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
        records: impl Iterator<Item = (BindingId, u32, &'a [u8])>,
    ) -> Self {
        let mut bytes = Vec::new();
        for (binding, faults, state) in records {
            bytes.extend_from_slice(&binding.0.to_le_bytes());
            bytes.extend_from_slice(&faults.to_le_bytes());
            bytes.extend_from_slice(&(state.len() as u32).to_le_bytes());
            bytes.extend_from_slice(state);
        }
        Self { tenant, symbol, rule, bytes }
    }

    /// The records of a snapshot's bytes.
    pub fn unpack(bytes: &[u8]) -> Result<Vec<SavedBinding>, DamagedSnapshot> {
        let mut saved = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let damaged = DamagedSnapshot(at);
            let head = bytes.get(at..at + HEAD_BYTES).ok_or(damaged)?;
            let word = |from: usize| u32::from_le_bytes(head[from..from + 4].try_into().expect("4 bytes"));
            let binding = BindingId(i64::from_le_bytes(head[..8].try_into().expect("8 bytes")));
            let end = at + HEAD_BYTES + word(12) as usize;
            let state = bytes.get(at + HEAD_BYTES..end).ok_or(damaged)?.to_vec();
            saved.push(SavedBinding { binding, faults: word(8), state });
            at = end;
        }
        Ok(saved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_survives_its_bytes_and_damage_is_told() {
        let records = [(BindingId(7), 2, &[1u8, 2, 3][..]), (BindingId(8), 0, &[][..])];
        let symbol = Symbol::parse("X").unwrap();
        let packed = GroupSnapshot::pack(Tenant::standard(), symbol, Digest::of(b""), records.into_iter());
        let unpacked = GroupSnapshot::unpack(&packed.bytes).unwrap();
        let expect = records.map(|(binding, faults, state)| SavedBinding { binding, faults, state: state.to_vec() });
        assert_eq!(unpacked, expect);
        for cut in [1, 15, 17, 20] {
            assert!(GroupSnapshot::unpack(&packed.bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
