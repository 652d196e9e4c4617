//! What a processor keeps of one partition beside the shard's states.

use std::collections::BTreeMap;

use tocsin_engine::Arming;
use tocsin_engine::domain::BindingId;

use super::Restored;
use super::pending::Pending;

/// Bindings that wait for the offset from which they count.
pub(super) type Waiting = BTreeMap<u64, Vec<Arming>>;

/// One partition.
pub(super) struct Partition {
    /// The next offset to be evaluated.
    pub(super) next_offset: u64,
    pub(super) waiting: Waiting,
    /// Records before this offset may have been evaluated by an earlier worker: until they are evaluated again as they were
    /// then, nothing is unquarantined and nothing handed off.
    pub(super) replay_until: u64,
    /// What is to be done right after a checkpoint.
    pub(super) pending: Pending,
    /// Bindings that left quarantine by themselves since the last checkpoint.
    pub(super) recovered: Vec<BindingId>,
    /// Next offset and revision at the last checkpoint; None where another checkpoint must follow in any case.
    pub(super) checkpointed: Option<(u64, u64)>,
}

impl Partition {
    pub(super) fn new(restored: &Restored) -> Self {
        Self {
            next_offset: restored.from.offset,
            waiting: Waiting::new(),
            replay_until: restored.replay_until,
            pending: Pending::new(&restored.unquarantine_due, &restored.handoffs),
            recovered: Vec::new(),
            checkpointed: None,
        }
    }
}
