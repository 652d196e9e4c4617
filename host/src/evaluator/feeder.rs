//! Tells workers of bindings that were created, deleted, released or promoted, and of impure rules: woken by the store,
//! it reads what changed after the revision that it knows, so that a wake-up that got lost loses nothing.

use std::time::Duration;

use tocsin_engine::domain::BindingStatus;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{Change, Changes, EvaluatorError};
use crate::bus::Waker;
use crate::evaluator::restore::arming;
use crate::library::Library;
use crate::store::{BindingRow, Changed, Hold, Store};

/// Rows read at once. More than one alert has, so that a revision is never cut in two.
const MAX_ROWS: u32 = 10_000;

/// Wait before the store is asked again after it failed.
const RETRY_WAIT: Duration = Duration::from_millis(500);

/// What leads to one worker.
pub(super) struct Feed {
    pub(super) partitions: Vec<u32>,
    pub(super) changes: mpsc::Sender<Changes>,
    pub(super) waker: Waker,
}

pub(super) struct Feeder {
    store: Store,
    library: Library,
    feeds: Vec<Feed>,
    revision: u64,
    stop: CancellationToken,
}

impl Feeder {
    pub(super) fn new(
        store: Store,
        library: Library,
        feeds: Vec<Feed>,
        revision: u64,
        stop: CancellationToken,
    ) -> Self {
        Self { store, library, feeds, revision, stop }
    }

    pub(super) async fn run(mut self) -> Result<(), EvaluatorError> {
        let stop = self.stop.clone();
        stop.run_until_cancelled(self.feed()).await.unwrap_or(Ok(()))?;
        // Workers that wait for ticks shall see that it is over.
        self.feeds.iter().for_each(|feed| feed.waker.wake());
        Ok(())
    }

    async fn feed(&mut self) -> Result<(), EvaluatorError> {
        let mut newest = self.store.newest_revision().await?;
        loop {
            if *newest.borrow_and_update() <= self.revision {
                if newest.changed().await.is_err() {
                    return Ok(());
                }
                continue;
            }
            match self.store.changes(self.revision, MAX_ROWS).await {
                Ok(changed) => self.pass_on(changed).await,
                Err(error) => {
                    warn!(%error, "changed alerts wait for the store");
                    tokio::time::sleep(RETRY_WAIT).await;
                }
            }
        }
    }

    async fn pass_on(&mut self, changed: Changed) {
        let Changed { bindings, impure_rules, revision } = changed;
        let mut lists: Vec<Vec<Change>> = self.feeds.iter().map(|_| Vec::new()).collect();
        for row in bindings {
            let partition = row.counts_from.partition;
            let Some(at) = self.feeds.iter().position(|feed| feed.partitions.contains(&partition)) else { continue };
            lists[at].extend(self.change(row).await);
        }
        for (feed, mut list) in self.feeds.iter().zip(lists) {
            // Last: no alert is created on a rule that was found to be impure.
            list.extend(impure_rules.iter().copied().map(Change::DisarmRule));
            // A worker that is gone has told why; the evaluator is ending.
            if feed.changes.send(Changes { list, revision }).await.is_ok() {
                feed.waker.wake();
            }
        }
        self.revision = revision;
    }

    async fn change(&self, mut row: BindingRow) -> Option<Change> {
        let counts_from = row.counts_from;
        match row.status {
            None => Some(Change::Disarm(row.id)),
            Some(BindingStatus::Triggered) => None,
            Some(_) if row.hold == Hold::Asked => Some(Change::HandOver(row.id, counts_from.partition)),
            Some(_) if row.release_due => Some(Change::Release(row.id, counts_from.partition)),
            // One that comes back from a promotion may be quarantined: then it goes on waiting.
            Some(_) if row.revision == row.armed_revision && row.hold == Hold::None && !row.rule_impure => {
                let resume = row.resume.take();
                match self.library.get(row.rule).await {
                    Ok(rule) => Some(Change::Arm(Box::new(arming(row, rule, resume)), counts_from)),
                    Err(error) => {
                        error!(%error, alert = row.alert.0, "an alert cannot be evaluated");
                        None
                    }
                }
            }
            Some(_) => None,
        }
    }
}
