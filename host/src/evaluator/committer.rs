//! Writes what a worker hands over, in its order, and tries again while the store is away: the worker waits meanwhile,
//! and nothing is lost.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{EvaluatorError, EvaluatorStats};
use crate::bus::Clock;
use crate::store::{Claim, Commit, Store, StoreError};

/// Firings that are written in one transaction at most, unless one commit alone has more.
const MAX_FIRINGS: usize = 10_000;

/// Faults that are written in one transaction at most, unless one commit alone has more: each is a few statements.
const MAX_FAULTS: usize = 2_000;

/// Firings that are told in the log, for each transaction: a flood must not become one there.
const MAX_LOGGED: usize = 5;

pub(super) struct Committer {
    store: Store,
    claims: Vec<Claim>,
    queue: mpsc::Receiver<Commit>,
    stats: Arc<EvaluatorStats>,
    clock: Clock,
}

impl Committer {
    pub(super) fn new(
        store: Store,
        claims: Vec<Claim>,
        queue: mpsc::Receiver<Commit>,
        stats: Arc<EvaluatorStats>,
        clock: Clock,
    ) -> Self {
        Self { store, claims, queue, stats, clock }
    }

    /// Ends when the worker is gone and all that it handed over is written.
    pub(super) async fn run(mut self) -> Result<(), EvaluatorError> {
        while let Some(mut commit) = self.queue.recv().await {
            // A checkpoint ends a transaction: within one, what it remembers is written last.
            while commit.firings.len() < MAX_FIRINGS
                && commit.faults.len() < MAX_FAULTS
                && commit.checkpoints.is_empty()
                && let Ok(more) = self.queue.try_recv()
            {
                commit.firings.extend(more.firings);
                commit.faults.extend(more.faults);
                commit.impure_rules.extend(more.impure_rules);
                commit.recovered.extend(more.recovered);
                commit.checkpoints.extend(more.checkpoints);
            }
            commit.at_ms = (self.clock)();
            self.write(&commit).await?;
        }
        Ok(())
    }

    async fn write(&self, commit: &Commit) -> Result<(), EvaluatorError> {
        let backoff = ExponentialBuilder::new()
            .with_jitter()
            .with_min_delay(Duration::from_millis(20))
            .with_max_delay(Duration::from_secs(5))
            .without_max_times();
        let inserted = (|| self.store.commit(&self.claims, commit))
            .retry(backoff)
            .when(|error| matches!(error, StoreError::Database(_)))
            .notify(|error, wait| warn!(%error, ?wait, "firings wait for the store"))
            .await?;
        self.stats.firings.fetch_add(inserted, Relaxed);
        self.stats.checkpoints.fetch_add(commit.checkpoints.len() as u64, Relaxed);
        for (firing, _) in commit.firings.iter().take(MAX_LOGGED) {
            let (tick, rule) = (&firing.tick, &firing.rule);
            info!(alert = firing.alert.0, rule = %rule.name, symbol = %tick.symbol, price = tick.price, "alert fired");
        }
        if commit.firings.len() > MAX_LOGGED {
            info!(more = commit.firings.len() - MAX_LOGGED, "more alerts fired");
        }
        Ok(())
    }
}
