//! Reads what a worker goes on with on a claimed partition: where to read on, and the bindings as they were at its
//! checkpoint.

use std::collections::{HashMap, HashSet};

use tocsin_bus::{Bus, BusError, Clock};
use tocsin_engine::domain::{BindingId, Digest, Position};
use tocsin_engine::{Arming, Rule, SavedBinding};
use tocsin_store::{BindingRow, Claim, HandoffState, Store};
use tracing::{error, warn};

use crate::evaluator::EvaluatorError;
use crate::evaluator::changes::{HandoffRequest, Unquarantine};
use crate::evaluator::processor::Restored;
use crate::rules::{RuleCache, RuleCacheError};

/// Rows read at once.
const MAX_ROWS: u32 = 10_000;

/// The rules of stored bindings.
#[derive(Clone)]
pub(in crate::evaluator) struct StoredRules {
    pub(in crate::evaluator) store: Store,
    pub(in crate::evaluator) cache: RuleCache,
    pub(in crate::evaluator) clock: Clock,
}

impl StoredRules {
    /// Returns a rule; None where the checks of this release refuse a module that an earlier one took. That version is
    /// then out of service, durably, which `/health` reports.
    pub(super) async fn get(&self, digest: Digest) -> Result<Option<Rule>, RuleCacheError> {
        match self.cache.get(digest).await {
            Err(RuleCacheError::Rejected(rejection)) => {
                error!(
                    %digest, %rejection,
                    "a stored rule does not pass the checks of this release: it is taken out of service; upload a mended \
                     version and promote its alerts with reset_state"
                );
                let reason = format!("this release refuses its module: {rejection}");
                self.store.quarantine_rule(digest, &reason, (self.clock)()).await?;
                Ok(None)
            }
            rule => rule.map(Some),
        }
    }
}

/// Reads what was remembered of a claimed partition, with the bindings up to `revision`, which is not before that of its
/// checkpoint: what the checkpoint remembers of a later change would be lost.
pub(super) async fn restore(
    bus: &Bus,
    rules: &StoredRules,
    claim: &Claim,
    revision: u64,
    skip_lost_ticks: bool,
) -> Result<Restored, EvaluatorError> {
    let (partition, store) = (claim.partition, &rules.store);
    let from = start_of(bus, claim, skip_lost_ticks).await?;
    let replay_until = bus.end(partition).await?.max(from.offset);
    let unassigned = match claim.next_offset {
        Some(_) => store.unassigned_symbols(claim.revision, revision).await?,
        // Nothing was read yet.
        None => Vec::new(),
    };
    let mut restored = Restored {
        from,
        replay_until,
        armed: Vec::new(),
        new: Vec::new(),
        unquarantined: claim.unquarantined.clone(),
        unquarantine_due: Vec::new(),
        handoffs: Vec::new(),
        unassigned,
    };
    load(bus, rules, claim, revision, &mut restored).await?;
    Ok(restored)
}

/// Returns where evaluation of a partition goes on: its checkpoint, or the oldest tick where there is none yet.
async fn start_of(bus: &Bus, claim: &Claim, skip_lost_ticks: bool) -> Result<Position, EvaluatorError> {
    let partition = claim.partition;
    let earliest = bus.earliest(partition).await?;
    let next = claim.next_offset.unwrap_or(earliest);
    // After a power cut the log may end before what is checkpointed, or was recorded: its offsets are never used twice.
    ensure_end(bus, Position { partition, offset: next.max(claim.referenced) }).await?;
    let lost = next < earliest && bus.end(partition).await? > next;
    if lost && !skip_lost_ticks {
        return Err(EvaluatorError::LostTicks { partition, next, earliest });
    }
    if lost {
        warn!(partition, next, earliest, "ticks that were never evaluated are gone; going on without them");
    }
    Ok(Position { partition, offset: next.max(earliest) })
}

/// Makes sure that no offset before `position` is used from now on, or fails where the log cannot promise that.
async fn ensure_end(bus: &Bus, position: Position) -> Result<(), EvaluatorError> {
    bus.ensure_end(position).await.map_err(|error| match error {
        BusError::OffsetOutOfRange { position: Position { partition, offset }, end, .. } => {
            EvaluatorError::LogCut { partition, end, referenced: offset }
        }
        error => error.into(),
    })
}

async fn load(
    bus: &Bus,
    rules: &StoredRules,
    claim: &Claim,
    revision: u64,
    restored: &mut Restored,
) -> Result<(), EvaluatorError> {
    let (from, store) = (restored.from, &rules.store);
    let mut refused = HashSet::new();
    let saved = store.saved_states(claim.partition).await?;
    let mut saved: HashMap<(Digest, BindingId), SavedBinding> =
        saved.into_iter().map(|(rule, saved)| ((rule, saved.binding), saved)).collect();
    let mut after = BindingId(0);
    loop {
        let rows = store.live_bindings(claim.partition, revision, after, MAX_ROWS).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.id;
        // A binding counts from where the log ended when it was made: those offsets were used.
        if let Some(highest) = rows.iter().filter_map(|row| row.counts_from).max_by_key(|position| position.offset) {
            ensure_end(bus, highest).await?;
        }
        // Skip bindings that a promotion holds: the coordinator passes on how that ends. Nor are those on an impure rule armed.
        for mut row in rows.into_iter().filter(|row| row.handoff != HandoffState::Held && !row.rule_impure) {
            // Its symbol is not assigned yet.
            let Some(counts_from) = row.counts_from else { continue };
            if refused.contains(&row.rule) {
                continue;
            }
            let Some(rule) = rules.get(row.rule).await? else {
                refused.insert(row.rule);
                continue;
            };
            // It was armed at the checkpoint if the checkpoint knew of it and had reached its offset.
            let armed = row.armed_revision <= claim.revision && counts_from.offset <= from.offset;
            // The coordinator passes later ones on.
            if row.unquarantine_due && row.revision <= revision {
                restored.unquarantine_due.push(Unquarantine { binding: row.id, rule: row.rule });
            }
            if row.handoff == HandoffState::Requested && row.revision <= revision {
                restored.handoffs.push(HandoffRequest { binding: row.id, armed_revision: row.armed_revision });
            }
            let state = if armed { saved.remove(&(row.rule, row.id)) } else { row.resume.take() };
            let arming = arming(row, rule, state);
            if armed { restored.armed.push(arming) } else { restored.new.push((arming, counts_from)) }
        }
    }
}

/// Returns a stored binding as a shard takes it.
pub(super) fn arming(row: BindingRow, rule: Rule, saved: Option<SavedBinding>) -> Arming {
    Arming {
        binding: row.id,
        alert: row.alert,
        tenant: row.tenant,
        symbol: row.symbol,
        rule,
        params: row.packed_params,
        lifecycle: row.lifecycle,
        saved,
    }
}
