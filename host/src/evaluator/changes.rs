//! Changes of alerts, as workers apply them.

use tocsin_engine::Arming;
use tocsin_engine::domain::{BindingId, Digest, Position};
use tocsin_store::{SymbolAssignment, UnassignedSymbol};

/// Changes up to a revision.
#[derive(Debug)]
pub(super) struct Changes {
    /// The partitions of symbols whose bindings are among the changes; None where the first tick was not read yet.
    pub(super) assignments: Vec<SymbolAssignment>,
    /// Unassigned symbols whose first tick may have been read already.
    pub(super) unassigned: Vec<UnassignedSymbol>,
    pub(super) list: Vec<Change>,
    pub(super) revision: u64,
}

/// A change of a binding or a rule version.
#[derive(Debug)]
pub(super) enum Change {
    /// Arm a binding that counts from a position.
    Arm(Box<Arming>, Position),
    /// Disarm a binding: its alert was deleted.
    Disarm(BindingId),
    /// Unquarantine a binding of a partition.
    Unquarantine(Unquarantine, u32),
    /// Hand a binding of a partition off to a promotion.
    HandOff(HandoffRequest, u32),
    /// Keep a binding of a partition: the promotion that requested it was cancelled.
    Keep(BindingId, u32),
    /// Disarm all bindings of a rule version: it is impure.
    DisarmRule(Digest),
}

/// A binding that an operator has unquarantined.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unquarantine {
    pub(super) binding: BindingId,
    /// The rule version that the binding is on. Once that is out of service, nothing waits for the binding.
    pub(super) rule: Digest,
}

/// A binding that a promotion requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct HandoffRequest {
    pub(super) binding: BindingId,
    /// The change by which evaluators began with the binding.
    pub(super) armed_revision: u64,
}
