//! State migration: a newer version of a rule makes its states from those of an older version.

use crate::domain::Version;
use crate::fault::Fault;
use crate::instance::{CallEnd, Instance, MemoryError};
use crate::manifest::Manifest;
use crate::runtime::Rule;
use tocsin_rules_sdk::abi;

/// Makes states of one version from those of another.
///
/// Each state is made twice, on fresh instances and at different addresses, and both results must agree. So nothing that
/// `migrate` keeps or reads beside its records can get from one binding's state into another's.
pub struct Migration {
    rule: Rule,
    old_state_bytes: usize,
    path: Path,
}

/// The distance of the addresses of the second run from those of the first.
const SECOND_RUN_GAP_BYTES: usize = 4096;

/// How states are migrated.
#[derive(Clone, Copy)]
enum Path {
    /// Not at all: the new version has no state.
    Nothing,
    /// By the new version's `migrate`, with the index of the old version in its list.
    Function(usize),
}

/// Why states cannot be migrated.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The new version has a state, and its manifest does not name the old version in `migrates`.
    #[error(
        "version {to} keeps a state and does not migrate from {from}: its manifest's `migrates` names {}",
        list(.migrates)
    )]
    NoPath {
        /// The version of the old states.
        from: Version,
        /// The version of the new states.
        to: Version,
        /// The versions that the new one migrates from.
        migrates: Vec<Version>,
    },
    /// `migrate` refused a state.
    #[error("`migrate` refused the state with code {0}")]
    Refused(i32),
    /// `migrate` faulted.
    #[error("`migrate` faulted: {0}")]
    Faulted(Fault),
    /// `migrate` made two different states from one.
    #[error("`migrate` is impure: done again on a fresh instance from the same bytes, {0}")]
    Impure(String),
    /// The state or the params do not have the size that the manifest names.
    #[error("the {what} record has {got} bytes, but the manifest says {expected}")]
    Size {
        /// `state` or `params`.
        what: &'static str,
        /// The given size in bytes.
        got: usize,
        /// The expected size in bytes.
        expected: usize,
    },
    /// The machine lacks memory or time.
    #[error("the machine lacks memory or time: {0}")]
    Machine(String),
}

impl From<MemoryError> for MigrationError {
    fn from(error: MemoryError) -> Self {
        Self::Machine(error.to_string())
    }
}

impl Migration {
    /// Creates a migration from the version with the manifest `old`.
    ///
    /// # Errors
    /// [`MigrationError::NoPath`]
    pub fn new(rule: &Rule, old: &Manifest) -> Result<Self, MigrationError> {
        let manifest = rule.manifest();
        let path = match manifest.migrates.iter().position(|version| *version == old.version) {
            Some(place) => Path::Function(place),
            None if manifest.state_bytes == 0 => Path::Nothing,
            None => {
                let (from, to, migrates) = (old.version.clone(), manifest.version.clone(), manifest.migrates.clone());
                return Err(MigrationError::NoPath { from, to, migrates });
            }
        };
        Ok(Self { rule: rule.clone(), old_state_bytes: old.state_bytes, path })
    }

    /// Returns the new state of a binding. `params` is its params record for the new version.
    pub fn state(&self, params: &[u8], old_state: &[u8]) -> Result<Vec<u8>, MigrationError> {
        let params_bytes = self.rule.manifest().params.packed_bytes();
        for (what, got, expected) in
            [("params", params.len(), params_bytes), ("state", old_state.len(), self.old_state_bytes)]
        {
            if got != expected {
                return Err(MigrationError::Size { what, got, expected });
            }
        }
        let Path::Function(from) = self.path else { return Ok(Vec::new()) };
        let state = self.run(from, params, old_state, 0)?;
        let again = self.run(from, params, old_state, SECOND_RUN_GAP_BYTES);
        match again {
            Ok(again) if again == state => Ok(state),
            Ok(again) => {
                let at = state.iter().zip(&again).position(|(one, other)| one != other).unwrap_or_default();
                let difference = format!("byte {at} of the state was {:#04x}, then {:#04x}", state[at], again[at]);
                Err(MigrationError::Impure(difference))
            }
            Err(MigrationError::Refused(code)) => Err(MigrationError::Impure(format!("it refused with code {code}"))),
            Err(MigrationError::Faulted(fault)) => Err(MigrationError::Impure(fault.to_string())),
            Err(other) => Err(other),
        }
    }

    /// Calls `migrate` on a fresh instance, with its records behind a gap of `gap_bytes`.
    fn run(&self, from: usize, params: &[u8], old_state: &[u8], gap_bytes: usize) -> Result<Vec<u8>, MigrationError> {
        let state_bytes = self.rule.manifest().state_bytes;
        let mut instance = Instance::new(&self.rule)?;
        instance.allocate(gap_bytes)?;
        let old_state_at = instance.allocate(old_state.len())?;
        let params_at = instance.allocate(params.len())?;
        let state_at = instance.allocate(state_bytes)?;
        instance.bytes_mut(old_state_at, old_state.len()).copy_from_slice(old_state);
        instance.bytes_mut(params_at, params.len()).copy_from_slice(params);
        instance.bytes_mut(state_at, state_bytes).fill(0);
        match instance.migrate(from, old_state_at, params_at, state_at) {
            Ok(abi::MIGRATED) => Ok(instance.bytes(state_at, state_bytes).to_vec()),
            Ok(code) => Err(MigrationError::Refused(code)),
            Err(CallEnd::Fault(fault)) => Err(MigrationError::Faulted(fault)),
            Err(_) => Err(MigrationError::Machine("a migration passed its deadline".into())),
        }
    }
}

fn list(versions: &[Version]) -> String {
    if versions.is_empty() {
        return "none".into();
    }
    versions.iter().map(Version::to_string).collect::<Vec<_>>().join(", ")
}
