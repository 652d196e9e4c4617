//! Passes changes of alerts on to the workers that have their partitions.

use std::collections::HashMap;
use std::time::Duration;

use backon::Retryable;
use tocsin_base::retry::RetryPolicy;
use tocsin_engine::domain::Position;
use tocsin_store::{BindingRow, Changed, HandoffState, Standing, StoreError, SymbolAssignment, UnassignedSymbol};
use tokio::sync::watch;
use tracing::{error, warn};

use super::Coordinator;
use super::restore::arming;
use crate::evaluator::changes::{Change, Changes, HandoffRequest, Unquarantine};
use crate::evaluator::worker::Message;
use crate::rules::RuleCacheError;

/// Rows read at once. More than one alert has, so that a revision is never cut in two.
const MAX_ROWS: u32 = 10_000;

/// Wait before the store is called again after it failed.
const RETRY_WAIT: Duration = Duration::from_millis(500);

impl Coordinator {
    /// Passes on where the ticks of watched symbols count.
    pub(super) async fn pass_on_assignments(&self, assignments: &[SymbolAssignment]) {
        for worker in &self.workers {
            let changes = Changes {
                assignments: assignments.to_vec(),
                unassigned: Vec::new(),
                list: Vec::new(),
                revision: self.revision,
            };
            worker.send(Message::Changes(changes)).await;
        }
    }

    pub(super) async fn pass_on_changes(&mut self, newest: &mut watch::Receiver<u64>) {
        while *newest.borrow_and_update() > self.revision {
            match self.changes().await {
                Ok((changed, unassigned)) => self.pass_on(changed, &unassigned).await,
                Err(error) => {
                    warn!(%error, "changed alerts wait for the store");
                    tokio::time::sleep(RETRY_WAIT).await;
                }
            }
        }
    }

    /// Reads what changed, and whose first ticks may have been read already.
    pub(super) async fn changes(&self) -> Result<(Changed, Vec<UnassignedSymbol>), StoreError> {
        let changed = self.store.changes(self.revision, MAX_ROWS).await?;
        let waits = |row: &BindingRow| row.counts_from.is_none() && row.standing == Standing::Live;
        let unassigned = match changed.bindings.iter().any(waits) {
            true => self.store.unassigned_symbols(self.revision, changed.revision).await?,
            false => Vec::new(),
        };
        Ok((changed, unassigned))
    }

    pub(super) async fn pass_on(&mut self, changed: Changed, unassigned: &[UnassignedSymbol]) {
        let Changed { bindings, impure_rules, revision } = changed;
        let mut lists: Vec<Vec<Change>> = self.workers.iter().map(|_| Vec::new()).collect();
        let mut assignments = HashMap::new();
        for row in bindings {
            // Only live bindings know where their symbol's ticks count: those that have ended may be older than that. Where
            // one waits, that is passed on each time: a worker may have taken a tick for the first one before it was created.
            if row.standing == Standing::Live {
                assignments.insert(row.symbol.clone(), row.counts_from.map(|position| position.partition));
            }
            let Some(counts_from) = row.counts_from else { continue };
            let owner = self.workers.iter().position(|worker| worker.claims.contains_key(&counts_from.partition));
            if let Some(at) = owner {
                lists[at].extend(self.changes_of(row, counts_from, revision).await);
            }
        }
        for (worker, mut list) in self.workers.iter().zip(lists) {
            // Last: no alert is created on a rule that was found to be impure.
            list.extend(impure_rules.iter().copied().map(Change::DisarmRule));
            let assignments = assignments
                .iter()
                .map(|(symbol, partition)| SymbolAssignment { symbol: symbol.clone(), partition: *partition })
                .collect();
            let unassigned = unassigned.to_vec();
            worker.send(Message::Changes(Changes { assignments, unassigned, list, revision })).await;
        }
        self.revision = revision;
    }

    /// What a worker is to do about a binding that has changed up to a revision, in this order.
    async fn changes_of(&self, row: BindingRow, counts_from: Position, up_to: u64) -> Vec<Change> {
        let (binding, rule, partition) = (row.id, row.rule, counts_from.partition);
        match row.standing {
            Standing::Deleted => {
                self.stats.armed(row.alert);
                return vec![Change::Disarm(binding)];
            }
            Standing::Triggered => return Vec::new(),
            Standing::Live => {}
        }
        let is_new = |revision| (self.revision + 1..=up_to).contains(&revision);
        let (armed_revision, handoff, unquarantine_due) = (row.armed_revision, row.handoff, row.unquarantine_due);
        let arms = is_new(armed_revision) && handoff != HandoffState::Held && !row.rule_impure;
        let changes_more = is_new(row.revision);
        let mut changes = Vec::new();
        if arms {
            changes.extend(self.arm(row, counts_from).await);
        }
        match handoff {
            // What has changed since is read once its own revision is.
            _ if !changes_more => {}
            HandoffState::Requested => {
                changes.push(Change::HandOff(HandoffRequest { binding, armed_revision }, partition))
            }
            HandoffState::Held => {}
            HandoffState::None => {
                changes.push(Change::Keep(binding, partition));
                let unquarantine = Change::Unquarantine(Unquarantine { binding, rule }, partition);
                changes.extend(unquarantine_due.then_some(unquarantine));
            }
        }
        changes
    }

    /// Loads the rule of a binding that is to be armed, however long the store is away. A binding that comes back from a
    /// promotion may be quarantined: then it goes on waiting.
    async fn arm(&self, mut row: BindingRow, counts_from: Position) -> Option<Change> {
        let (alert, resume) = (row.alert, row.resume.take());
        let rule = (|| self.rules.get(row.rule))
            .retry(RetryPolicy::PARTITION.builder())
            .when(|error| matches!(error, RuleCacheError::Store(error) if error.is_transient()))
            .notify(|error, wait| warn!(alert = alert.0, %error, ?wait, "an alert's rule waits for the store"))
            .await;
        match rule {
            Ok(Some(rule)) => {
                self.stats.armed(alert);
                Some(Change::Arm(Box::new(arming(row, rule, resume)), counts_from))
            }
            Ok(None) => None,
            Err(error) => {
                error!(%error, alert = alert.0, "an alert cannot be evaluated");
                self.stats.not_armed(alert, error.to_string());
                None
            }
        }
    }
}
