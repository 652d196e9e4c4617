//! Notices another log behind the one that is evaluated, and goes on once an operator has accepted it.

use std::collections::BTreeSet;
use std::time::Duration;

use tocsin_store::{StoreError, TickLog};
use tracing::{debug, error};

use super::Coordinator;
use crate::evaluator::EvaluatorError;

/// Time between two checks of the log's identity. Ticks of another log that are evaluated until then are evaluated again
/// once that log is accepted.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// What is known of the log.
#[derive(Default)]
pub(in crate::evaluator) struct LogWatch {
    /// The log that partitions were restored in.
    known: Option<TickLog>,
    /// Partitions that have halted because of it, and are tried again.
    halted: BTreeSet<u32>,
    /// The reason that was logged last.
    logged: Option<String>,
}

impl LogWatch {
    pub(super) fn restored_in(&mut self, known: Option<TickLog>) {
        self.known = known;
    }

    /// Returns whether a reason to halt differs from the last one.
    pub(super) fn is_news(&mut self, why: String) -> bool {
        self.logged.replace(why.clone()) != Some(why)
    }

    pub(super) fn halted(&mut self, partition: u32) {
        self.halted.insert(partition);
    }

    /// Returns whether the store refers to another log than the one that partitions were restored in.
    pub(super) fn is_outdated(&self, stored: Option<&TickLog>) -> bool {
        self.known.as_ref() != stored
    }

    pub(super) fn left(&mut self, partitions: &[u32]) {
        self.halted.retain(|partition| !partitions.contains(partition));
    }
}

impl Coordinator {
    /// Halts where the log is another one by now, and goes on where it was accepted.
    pub(super) async fn watch_log(&mut self) -> Result<(), EvaluatorError> {
        let (found, known) = match (self.bus.identity().await, self.store.tick_log().await) {
            (Ok(found), Ok(known)) => (found, known),
            // Other tasks wait for them and report it.
            (found, known) => {
                debug!(bus = ?found.err(), store = ?known.err(), "the identity of the log cannot be read");
                return Ok(());
            }
        };
        let Some(known) = known else { return Ok(()) };
        if known.identity != found {
            self.halt_all(&StoreError::OtherLog { expected: known.identity, found }).await;
            return Ok(());
        }
        if self.log.is_outdated(Some(&known)) {
            // Where the log has other partitions, symbols may wait for their first tick again.
            match self.store.symbol_assignments().await {
                Err(error) if error.is_transient() => return Ok(()),
                assignments => self.pass_on_assignments(&assignments?).await,
            }
            self.log.restored_in(Some(known));
            let halted: Vec<u32> = std::mem::take(&mut self.log.halted).into_iter().collect();
            return self.restore(halted).await;
        }
        Ok(())
    }

    async fn halt_all(&mut self, why: &StoreError) {
        self.log.restored_in(None);
        let partitions: Vec<u32> = self.workers.iter().flat_map(|worker| worker.claims.keys().copied()).collect();
        if !partitions.is_empty() {
            if self.log.is_news(why.to_string()) {
                error!(error = %why, "evaluation has halted");
            }
            self.halt(&partitions).await;
        }
        for partition in partitions {
            self.stats.halted(partition, why.to_string());
            self.log.halted(partition);
        }
    }
}
