//! Claims partitions that the group has assigned, restores them, and gives each to a worker.

use backon::Retryable;
use futures_util::StreamExt as _;
use tocsin_base::failpoint;
use tocsin_base::retry::RetryPolicy;
use tocsin_bus::Bus;
use tocsin_store::{Claim, StoreError};
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, warn};

use super::restore::{StoredRules, restore};
use super::{Coordinator, retry_store};
use crate::evaluator::EvaluatorError;
use crate::evaluator::processor::Restored;
use crate::evaluator::worker::Message;

/// Partitions that are restored at the same time: each holds a connection to the store, and its bindings in memory.
const RESTORES_AT_ONCE: usize = 4;

impl Coordinator {
    /// Takes partitions that the group has assigned.
    pub(super) async fn take(&mut self, partitions: Vec<u32>) -> Result<(), EvaluatorError> {
        partitions.iter().for_each(|partition| self.stats.taken(*partition));
        self.restore(partitions).await
    }

    /// Claims partitions, restores them and gives each to the worker that has the fewest.
    pub(super) async fn restore(&mut self, partitions: Vec<u32>) -> Result<(), EvaluatorError> {
        // Whatever else it was to be restored for.
        self.fenced.retain(|partition, _| !partitions.contains(partition));
        self.log.left(&partitions);
        let claims = self.claim(partitions).await?;
        self.catch_up(&claims).await?;
        let restorer = Restorer {
            bus: self.bus.clone(),
            rules: self.rules.clone(),
            revision: self.revision,
            skip_lost_ticks: self.skip_lost_ticks,
        };
        let restore = |claim: Claim| {
            let restored = AbortOnDropHandle::new(tokio::spawn(restorer.clone().restore(claim.clone())));
            async move { (claim, restored.await) }
        };
        let mut restores = futures_util::stream::iter(claims).map(restore).buffer_unordered(RESTORES_AT_ONCE);
        let mut armed = Vec::new();
        while let Some((claim, restored)) = restores.next().await {
            let partition = claim.partition;
            let restored = match restored.unwrap_or_else(|error| Err(EvaluatorError::Ended(error.to_string()))) {
                Err(error) if error.halts() => {
                    let why = error.to_string();
                    self.halt_one(partition, &error);
                    retry_store(partition, || self.store.halt_partition(&claim, &why)).await?;
                    continue;
                }
                restored => restored?,
            };
            self.stats.goes_on(partition);
            let fewest = self.workers.iter_mut().min_by_key(|worker| worker.claims.len());
            let worker = fewest.expect("an evaluator has a worker");
            worker.claims.insert(partition, claim.epoch);
            let (taken, is_armed) = oneshot::channel();
            worker.send(Message::Take { claim, restored: Box::new(restored), armed: taken }).await;
            armed.push(is_armed);
        }
        if self.begun.is_some() {
            futures_util::future::join_all(armed).await;
        }
        Ok(())
    }

    /// Claims partitions: from here on no other evaluator writes anything of them. Those whose log is another one halt.
    async fn claim(&mut self, partitions: Vec<u32>) -> Result<Vec<Claim>, EvaluatorError> {
        let (store, bus) = (&self.store, &self.bus);
        let claim = async |partition| {
            let claim = || async { Ok(store.claim_in(&bus.identity().await?, partition).await?) };
            let claimed = claim
                .retry(RetryPolicy::PARTITION.builder())
                .when(EvaluatorError::is_transient)
                .notify(|error, wait| warn!(partition, %error, ?wait, "a partition waits to be claimed"));
            (partition, claimed.await)
        };
        let mut claims = futures_util::stream::iter(partitions).map(claim).buffer_unordered(RESTORES_AT_ONCE);
        let (mut claimed, mut halted) = (Vec::new(), Vec::new());
        while let Some((partition, claim)) = claims.next().await {
            match claim {
                Err(error @ EvaluatorError::Store(StoreError::OtherLog { .. })) => halted.push((partition, error)),
                claim => claimed.push(claim?),
            }
            failpoint::pass("after-claim");
        }
        drop(claims);
        for (partition, error) in halted {
            self.halt_one(partition, &error);
        }
        Ok(claimed)
    }

    /// Reports that a partition is not evaluated until an operator acts.
    fn halt_one(&mut self, partition: u32, error: &EvaluatorError) {
        let why = error.to_string();
        // All partitions halt for the same reason where the log is another one.
        if self.stats.halted(partition, why.clone()) && self.log.is_news(why) {
            error!(partition, %error, "evaluation has halted");
        }
        self.log.halted(partition);
    }

    /// Passes on all changes that a checkpoint of these partitions holds. Notifications may be late, and another evaluator
    /// may have heard of more before it gave a partition up.
    async fn catch_up(&mut self, claims: &[Claim]) -> Result<(), EvaluatorError> {
        let Some(newest) = claims.iter().max_by_key(|claim| claim.revision) else { return Ok(()) };
        while self.revision < newest.revision {
            let (partition, before) = (newest.partition, self.revision);
            let (changed, unassigned) = retry_store(partition, || self.changes()).await?;
            self.pass_on(changed, &unassigned).await;
            if self.revision == before {
                let (revision, newest) = (newest.revision, self.revision);
                return Err(EvaluatorError::LostRevisions { partition, revision, newest });
            }
        }
        Ok(())
    }
}

/// Restores partitions, on a task each: reading a million alerts takes some cores some seconds.
#[derive(Clone)]
struct Restorer {
    bus: Bus,
    rules: StoredRules,
    revision: u64,
    skip_lost_ticks: bool,
}

impl Restorer {
    async fn restore(self, claim: Claim) -> Result<Restored, EvaluatorError> {
        let Self { bus, rules, revision, skip_lost_ticks } = &self;
        let partition = claim.partition;
        (|| restore(bus, rules, &claim, *revision, *skip_lost_ticks))
            .retry(RetryPolicy::PARTITION.builder())
            .when(EvaluatorError::is_transient)
            .notify(|error, wait| warn!(partition, %error, ?wait, "a partition waits to be restored"))
            .await
    }
}
