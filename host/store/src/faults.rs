//! Faults as they are handed to the store, and as they are read back.

use tocsin_engine::domain::{AlertId, BindingId, FaultId, Position, RuleRef, Tick};
use tocsin_engine::{Fault, FaultBundle};

/// Faults that are kept of one binding: it is quarantined after fewer. The newest stay.
pub(super) const MAX_FAULTS_PER_BINDING: u32 = 16;

/// Faults that are kept in all. With the largest records there can be they take less than 300 MB.
pub(super) const MAX_FAULTS: u32 = 4096;

/// Faults that are kept of one user's alerts: those of one user must not displace all others'.
pub(super) const MAX_FAULTS_PER_USER: u32 = 1024;

/// A fault to be recorded.
#[derive(Debug)]
pub struct NewFault {
    /// The alert.
    pub alert: AlertId,
    /// Its binding.
    pub binding: BindingId,
    /// It quarantines the binding.
    pub quarantined: bool,
    /// All that decided it.
    pub bundle: Box<FaultBundle>,
}

/// A recorded fault.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultRecord {
    /// Derived from the binding and the tick's position.
    pub id: FaultId,
    /// The alert.
    pub alert: AlertId,
    /// The rule version that faulted.
    pub rule: RuleRef,
    /// The tick that it faulted on.
    pub tick: Tick,
    /// Where that tick is in the bus.
    pub position: Position,
    /// What went wrong.
    pub fault: Fault,
    /// It quarantined the binding.
    pub quarantined: bool,
}

/// A recorded fault with all that decided it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredBundle {
    /// The alert.
    pub alert: AlertId,
    /// All but the module.
    pub bundle: FaultBundle,
    /// The rule's module.
    pub module: Vec<u8>,
    /// The alert's params as JSON, defaults filled in.
    pub params_json: String,
}
