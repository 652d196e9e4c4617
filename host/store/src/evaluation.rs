//! What evaluators read of bindings, and what they write.

use tocsin_engine::domain::{
    AlertId, BindingId, Digest, Firing, Lifecycle, LogSalt, Position, RuleRef, Symbol, Tenant,
};
use tocsin_engine::{GroupSnapshot, SavedBinding};

use super::{Handoff, HandoffState, NewFault};

/// A binding as evaluators need it.
#[derive(Clone, Debug)]
pub struct BindingRow {
    /// Its number.
    pub id: BindingId,
    /// Its alert.
    pub alert: AlertId,
    /// Who owns it.
    pub tenant: Tenant,
    /// What it watches.
    pub symbol: Symbol,
    /// The first tick that counts since `armed_revision`; None as long as its symbol has no home.
    pub counts_from: Option<Position>,
    /// The rule version that is evaluated.
    pub rule: Digest,
    /// The packed params record.
    pub packed_params: Vec<u8>,
    /// What follows a fire verdict.
    pub lifecycle: Lifecycle,
    /// Whether it is evaluated at all.
    pub standing: Standing,
    /// The change that made it so.
    pub revision: u64,
    /// The change by which evaluators last began with it: its creation, or the end of a promotion.
    pub armed_revision: u64,
    /// What it remembers at `counts_from`, as long as no checkpoint does.
    pub resume: Option<SavedBinding>,
    /// Where it stands in a promotion.
    pub handoff: HandoffState,
    /// Its rule version is no longer evaluated.
    pub rule_impure: bool,
    /// It was released by hand, and no checkpoint was taken for that yet.
    pub unquarantine_due: bool,
}

/// Whether a binding is evaluated, as far as evaluators need to know: which are in quarantine they know themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is, or waits in quarantine.
    Live,
    /// It has fired for the last time.
    Triggered,
    /// Its alert was deleted.
    Deleted,
}

/// What changed after a revision.
#[derive(Debug, Default)]
pub struct Changed {
    /// Bindings, in the order of revisions.
    pub bindings: Vec<BindingRow>,
    /// Rule versions that were found to be impure: their bindings are no longer evaluated.
    pub impure_rules: Vec<Digest>,
    /// All of it up to this revision.
    pub revision: u64,
}

/// The right to evaluate a partition, until another evaluator claims it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The partition.
    pub partition: u32,
    /// The number of this claim.
    pub epoch: u64,
    /// Where evaluation goes on; None if the partition was never evaluated.
    pub next_offset: Option<u64>,
    /// Behind the last offset that a recorded firing or fault refers to.
    pub referenced: u64,
    /// Changes up to this revision are in the checkpoint.
    pub revision: u64,
    /// Bindings whose release from quarantine takes effect right behind the checkpoint.
    pub unquarantined: Vec<BindingId>,
    /// The log whose offsets these are, for ids of what happens on it.
    pub salt: LogSalt,
}

/// What an evaluator writes in one transaction.
#[derive(Debug, Default)]
pub struct Commit {
    /// Firings, each with whether it is its binding's last.
    pub firings: Vec<(Firing, bool)>,
    /// Faults, oldest first. Those that say so quarantine their binding.
    pub faults: Vec<NewFault>,
    /// Rule versions that were found to be impure, with what differed.
    pub impure_rules: Vec<(RuleRef, String)>,
    /// When it is written, Unix milliseconds: the time of what it finds out about rules.
    pub at_ms: i64,
    /// Checkpoints of partitions.
    pub checkpoints: Vec<Checkpoint>,
    /// New firings are put into the outbox as well: someone must take them from there.
    pub outbox: bool,
}

impl Commit {
    /// Leaves out what belongs to partitions that are not chosen.
    pub fn retain_partitions(&mut self, chosen: impl Fn(u32) -> bool) {
        self.firings.retain(|(firing, _)| chosen(firing.position.partition));
        self.faults.retain(|fault| chosen(fault.bundle.position.partition));
        self.checkpoints.retain(|checkpoint| chosen(checkpoint.partition));
    }

    /// Whether there is nothing to be written.
    pub fn is_empty(&self) -> bool {
        let Self { firings, faults, impure_rules, checkpoints, at_ms: _, outbox: _ } = self;
        firings.is_empty() && faults.is_empty() && impure_rules.is_empty() && checkpoints.is_empty()
    }
}

/// What one partition remembers at an offset.
#[derive(Debug)]
pub struct Checkpoint {
    /// The partition.
    pub partition: u32,
    /// The next offset to be evaluated.
    pub next_offset: u64,
    /// Changes up to this revision are in it, but for the releases that follow.
    pub revision: u64,
    /// Bindings that left quarantine by themselves since the last checkpoint.
    pub recovered: Vec<BindingId>,
    /// Bindings that are released from quarantine right behind it.
    pub unquarantined: Vec<BindingId>,
    /// Bindings that are handed over for a promotion: right after it they are no longer evaluated.
    pub handoffs: Vec<Handoff>,
    /// How many firings of bindings were not recorded since the last checkpoint, because they fired too often.
    pub suppressed: Vec<(BindingId, u64)>,
    /// Groups whose states changed since the last checkpoint.
    pub groups: Vec<GroupSnapshot>,
}
