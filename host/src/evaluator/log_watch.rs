//! Notices another log behind the one that is evaluated, and goes on once an operator has accepted it.

use std::collections::BTreeSet;
use std::time::Duration;

use tracing::{debug, error};

use super::EvaluatorError;
use super::feeder::Feeder;
use crate::store::{StoreError, TickLog};

/// Time between two looks at which log there is: ticks of another one that are evaluated until then are evaluated again
/// once it is accepted.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// What is known of the log.
#[derive(Default)]
pub(super) struct LogWatch {
    /// The log that partitions were restored in.
    known: Option<TickLog>,
    /// Partitions that have halted because of it, and are tried again.
    halted: BTreeSet<u32>,
    /// Why, as the log of this process has it.
    logged: Option<String>,
}

impl LogWatch {
    pub(super) fn restored_in(&mut self, known: Option<TickLog>) {
        self.known = known;
    }

    /// Whether a reason to halt is another one than the last.
    pub(super) fn is_news(&mut self, why: String) -> bool {
        self.logged.replace(why.clone()) != Some(why)
    }

    pub(super) fn halted(&mut self, partition: u32) {
        self.halted.insert(partition);
    }

    /// Whether the store refers to another log than partitions were restored in.
    pub(super) fn is_outdated(&self, stored: Option<&TickLog>) -> bool {
        self.known.as_ref() != stored
    }

    pub(super) fn left(&mut self, partitions: &[u32]) {
        self.halted.retain(|partition| !partitions.contains(partition));
    }
}

impl Feeder {
    /// Halts where the log is another one by now; goes on where it was accepted.
    pub(super) async fn watch_log(&mut self) -> Result<(), EvaluatorError> {
        let (found, known) = match (self.bus.identity().await, self.store.tick_log().await) {
            (Ok(found), Ok(known)) => (found, known),
            // They are waited for elsewhere.
            (found, known) => {
                debug!(bus = ?found.err(), store = ?known.err(), "which log there is cannot be seen");
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
                homes => self.pass_on_homes(&homes?).await,
            }
            self.log.restored_in(Some(known));
            let halted: Vec<u32> = std::mem::take(&mut self.log.halted).into_iter().collect();
            return self.restore(halted).await;
        }
        Ok(())
    }

    async fn halt_all(&mut self, why: &StoreError) {
        self.log.restored_in(None);
        let partitions: Vec<u32> = self.feeds.iter().flat_map(|feed| feed.partitions.iter().copied()).collect();
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
