//! Promotions as they are handed to the store, and as they are read back.
//!
//! A promotion moves alerts to another version of their rule, all of them or none. While one is under way its bindings
//! are asked for, then held: each evaluator hands them over with a checkpoint, and evaluates them no more. Once all are held
//! their states are known, and one transaction finishes the promotion: then evaluators take them back where they were
//! handed over, and catch up. It may be taken back at any time before, whether or not all are held.

use tocsin_engine::SavedBinding;
use tocsin_engine::domain::{AlertId, BindingId, Digest, Params, RuleQuarantine, RuleRef, Symbol, Tenant};

use super::CapReached;

/// The number of a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromotionId(pub i64);

/// A promotion that is to begin.
#[derive(Clone, Debug)]
pub struct NewPromotion {
    /// Whose alerts are moved.
    pub tenant: Tenant,
    /// The version that they move to.
    pub to: RuleRef,
    /// The alerts.
    pub alerts: Vec<PromotedAlert>,
    /// Versions among those that they leave that are out of service; None if none is.
    pub out_of_service: Option<OutOfService>,
}

/// Versions that are out of service: no evaluator has their bindings. Those begin at zero, with the next tick that is
/// published.
#[derive(Clone, Debug)]
pub struct OutOfService {
    /// The versions.
    pub versions: Vec<Digest>,
    /// Where each partition ends.
    pub ends: Vec<u64>,
}

/// An alert that is to move.
#[derive(Clone, Debug)]
pub struct PromotedAlert {
    /// The alert.
    pub alert: AlertId,
    /// The version that it is on.
    pub from: Digest,
    /// Its params for the new version.
    pub params: Params,
}

/// An alert that may move: one with a live binding.
#[derive(Clone, Debug)]
pub struct Promotable {
    /// The alert.
    pub alert: AlertId,
    /// The version that it is on.
    pub rule: RuleRef,
    /// Its params, as JSON.
    pub params_json: String,
}

/// The promotion under way.
#[derive(Clone, Debug)]
pub struct UnfinishedPromotion {
    /// Its number.
    pub id: PromotionId,
    /// Whose alerts it moves.
    pub tenant: Tenant,
    /// The version that they move to.
    pub to: RuleRef,
    /// How long ago it began, milliseconds, by the clock of the database.
    pub age_ms: i64,
    /// Live bindings that are held: they are not evaluated.
    pub held: u64,
    /// What it waits for: partitions whose evaluators have not handed over all that was asked for.
    pub waiting_for: Vec<WaitingFor>,
}

/// A partition that a promotion waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingFor {
    /// The partition.
    pub partition: u32,
    /// Live bindings that are asked for and not handed over. They are evaluated as before.
    pub bindings: u64,
    /// Why the partition is not evaluated, where it has halted.
    pub halted: Option<String>,
}

impl UnfinishedPromotion {
    /// How many live bindings are asked for and not handed over yet.
    pub fn requested(&self) -> u64 {
        self.waiting_for.iter().map(|waiting| waiting.bindings).sum()
    }
}

/// What became of a promotion that was to begin.
#[derive(Debug)]
pub enum BegunPromotion {
    /// Its bindings are asked for.
    Begun(PromotionId),
    /// Another one is under way, to this version.
    AnotherRuns(RuleRef),
    /// This alert has been promoted since it was read.
    Moved(AlertId),
    /// This alert was released from quarantine, and no checkpoint was taken for that yet.
    UnquarantineDue(AlertId),
    /// One of the versions is no longer evaluated: its states are not to be trusted.
    RuleQuarantined(RuleRef, RuleQuarantine),
    /// This alert has a binding on a partition that has halted: no evaluator could hand it over.
    PartitionHalted {
        /// The alert, one of them.
        alert: AlertId,
        /// The partition.
        partition: u32,
        /// Why it has halted.
        why: String,
    },
}

/// A binding that is held.
#[derive(Clone, Debug)]
pub struct HeldBinding {
    /// Its number.
    pub id: BindingId,
    /// Its alert.
    pub alert: AlertId,
    /// What it watches.
    pub symbol: Symbol,
    /// The version that it is on.
    pub from: Digest,
    /// The packed params record for the new version.
    pub packed_params: Vec<u8>,
    /// What it remembers; None if no tick was evaluated yet.
    pub saved: Option<SavedBinding>,
}

/// How a promotion ended that was to be finished.
#[derive(Debug)]
pub enum FinishedPromotion {
    /// All has moved.
    Finished(Moved),
    /// There would be more live bindings on the new version than may be; nothing has moved.
    CapReached(CapReached),
    /// One of the versions was found to be impure meanwhile; nothing has moved.
    RuleQuarantined(RuleRef, RuleQuarantine),
    /// It is under way no more; nothing has moved.
    RolledBack,
}

/// How much a promotion has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Alerts that had a live binding.
    pub alerts: u64,
    /// Their live bindings.
    pub bindings: u64,
}

/// Where a binding stands in a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandoffState {
    /// None is under way for it.
    None,
    /// Its evaluator is to hand it over.
    Requested,
    /// Its evaluator has handed it off: it is not evaluated.
    Held,
}

/// A binding that its evaluator hands over with a checkpoint.
#[derive(Debug)]
pub struct Handoff {
    /// The binding.
    pub binding: BindingId,
    /// The change by which the evaluator began with it. Where evaluators have begun with it anew since, nothing is taken.
    pub armed_revision: u64,
    /// What it remembers at the checkpoint; None if the evaluator never had it, or it has ended: then nothing of it changes.
    pub saved: Option<SavedBinding>,
}
