//! State migration: a newer version of a rule makes its states out of an older one's.

use crate::domain::Version;
use crate::fault::Fault;
use crate::instance::{CallEnd, Instance, MemoryError};
use crate::manifest::Manifest;
use crate::runtime::Rule;
use tocsin_rules_sdk::abi;

/// Makes states of one version out of those of another.
pub struct Migration {
    instance: Instance,
    old_state_at: usize,
    params_at: usize,
    state_at: usize,
    old_state_bytes: usize,
    path: Path,
}

/// How states come over.
#[derive(Clone, Copy)]
enum Path {
    /// There is nothing to come over: the new version has no state.
    Nothing,
    /// By the new version's `migrate`; the old one's place in its list.
    Function(usize),
}

/// Why states cannot come over.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The new version keeps a state and does not say that it can make it from the old one's.
    #[error(
        "version {to} keeps a state and does not migrate from {from}: its manifest's `migrates` names {}",
        list(.migrates)
    )]
    NoPath {
        /// The old version.
        from: Version,
        /// The new one.
        to: Version,
        /// From where it migrates.
        migrates: Vec<Version>,
    },
    /// `migrate` refused a state.
    #[error("`migrate` refused the state with code {0}")]
    Refused(i32),
    /// `migrate` faulted.
    #[error("`migrate` faulted: {0}")]
    Faulted(Fault),
    /// The state or the params are not of the size that their manifest names.
    #[error("the {what} record has {got} bytes, but the manifest says {expected}")]
    Size {
        /// `state` or `params`.
        what: &'static str,
        /// Bytes given.
        got: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// The machine could not do it.
    #[error("the machine is in trouble: {0}")]
    Machine(String),
}

impl From<MemoryError> for MigrationError {
    fn from(error: MemoryError) -> Self {
        Self::Machine(error.to_string())
    }
}

impl Migration {
    /// Prepares to take over states of the version whose manifest is `old`.
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
        let mut instance = Instance::new(rule)?;
        let old_state_at = instance.allocate(old.state_bytes)?;
        let params_at = instance.allocate(manifest.params.packed_bytes())?;
        let state_at = instance.allocate(manifest.state_bytes)?;
        Ok(Self { instance, old_state_at, params_at, state_at, old_state_bytes: old.state_bytes, path })
    }

    /// The new version's state of a binding: `params` is its record for the new version.
    pub fn state(&mut self, params: &[u8], old_state: &[u8]) -> Result<Vec<u8>, MigrationError> {
        let manifest = self.instance.rule().manifest();
        let (params_bytes, state_bytes) = (manifest.params.packed_bytes(), manifest.state_bytes);
        for (what, got, expected) in
            [("params", params.len(), params_bytes), ("state", old_state.len(), self.old_state_bytes)]
        {
            if got != expected {
                return Err(MigrationError::Size { what, got, expected });
            }
        }
        let Path::Function(from) = self.path else { return Ok(Vec::new()) };
        self.instance.bytes_mut(self.params_at, params_bytes).copy_from_slice(params);
        self.instance.bytes_mut(self.old_state_at, self.old_state_bytes).copy_from_slice(old_state);
        self.instance.bytes_mut(self.state_at, state_bytes).fill(0);
        let answer = self.instance.migrate(from, self.old_state_at, self.params_at, self.state_at);
        match answer {
            Ok(abi::MIGRATED) => Ok(self.instance.bytes(self.state_at, state_bytes).to_vec()),
            Ok(code) => Err(MigrationError::Refused(code)),
            Err(CallEnd::Fault(fault)) => {
                self.instance.replace()?;
                Err(MigrationError::Faulted(fault))
            }
            Err(_) => {
                self.instance.replace()?;
                Err(MigrationError::Machine("a migration passed its deadline".into()))
            }
        }
    }
}

fn list(versions: &[Version]) -> String {
    if versions.is_empty() {
        return "none".into();
    }
    versions.iter().map(Version::to_string).collect::<Vec<_>>().join(", ")
}
