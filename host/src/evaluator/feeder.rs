//! Tells workers what they are to do: which partitions are theirs, as the consumer group decides, and which bindings were
//! created, deleted, released or promoted, or are on an impure rule. Woken by the store, it reads what changed after the
//! revision that it knows, so that a wake-up that got lost loses nothing.
//!
//! Both go through here so that they are in order: a partition is restored as of the revision up to which all workers have
//! heard of changes, and hears of all later ones.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use backon::Retryable;
use futures_util::StreamExt as _;
use tocsin_engine::domain::{Position, Symbol};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, warn};

use super::log_watch::{self, LogWatch};
use super::restore::{Restored, arming, restore};
use super::{Change, Changes, EvaluatorError, EvaluatorStats, Leaving, Message};
use crate::backoff::patient;
use crate::bus::{Assignment, Bus, Membership, Waker};
use crate::library::Library;
use crate::store::{BindingRow, Changed, Hold, Sought, Standing, Store, StoreError};

/// Rows read at once. More than one alert has, so that a revision is never cut in two.
const MAX_ROWS: u32 = 10_000;

/// Wait before the store is asked again after it failed.
const RETRY_WAIT: Duration = Duration::from_millis(500);

/// The first wait of a partition that could not be restored.
const MIN_WAIT: Duration = Duration::from_millis(100);

/// How long a start waits for its first partitions. Where there are more evaluators than partitions, some get none.
const FIRST_ASSIGNMENT_WAIT: Duration = Duration::from_secs(15);

/// Partitions that are restored at the same time: each holds a connection to the store, and its bindings in memory.
const RESTORES_AT_ONCE: usize = 4;

/// Time between commits of the group's offsets, which only monitoring looks at.
const OFFSETS_INTERVAL: Duration = Duration::from_secs(5);

/// What leads to one worker.
pub(super) struct Feed {
    pub(super) partitions: BTreeSet<u32>,
    pub(super) messages: mpsc::Sender<Message>,
    pub(super) waker: Waker,
}

pub(super) struct Feeder {
    pub(super) store: Store,
    pub(super) bus: Bus,
    pub(super) library: Library,
    pub(super) membership: Membership,
    pub(super) feeds: Vec<Feed>,
    /// Partitions that somebody else has claimed.
    pub(super) fences: mpsc::UnboundedReceiver<u32>,
    pub(super) revision: u64,
    /// What workers know of homes.
    pub(super) homes: HashMap<Symbol, Option<u32>>,
    pub(super) log: LogWatch,
    pub(super) skip_lost_ticks: bool,
    pub(super) stats: Arc<EvaluatorStats>,
    /// Told once the first partitions are restored.
    pub(super) begun: Option<oneshot::Sender<()>>,
}

impl Feeder {
    /// Works until `stop`; leaves the group once all workers have written their last.
    pub(super) async fn run(
        mut self,
        stop: CancellationToken,
        mut all_done: mpsc::Receiver<()>,
    ) -> Result<(), EvaluatorError> {
        stop.run_until_cancelled(self.feed()).await.unwrap_or(Ok(()))?;
        // Workers that wait for ticks shall see that it is over.
        self.feeds.iter().for_each(|feed| feed.waker.wake());
        self.feeds.clear();
        all_done.recv().await;
        self.commit_offsets().await;
        self.membership.leave().await;
        Ok(())
    }

    async fn feed(&mut self) -> Result<(), EvaluatorError> {
        let mut newest = self.store.newest_revision().await?;
        let homes = self.store.homes().await?;
        self.homes.extend(homes.iter().cloned());
        for feed in &self.feeds {
            let (sought, list) = Default::default();
            feed.send(Message::Changes(Changes { homes: homes.clone(), sought, list, revision: self.revision })).await;
        }
        if let Ok(first) = timeout(FIRST_ASSIGNMENT_WAIT, self.membership.changed()).await {
            self.follow(first?).await?;
        }
        self.log.restored_in(self.store.tick_log().await?);
        if let Some(begun) = self.begun.take() {
            // Nobody waits for it any more where the start was given up.
            let _ = begun.send(());
        }
        let mut offsets_due = interval_at(Instant::now() + OFFSETS_INTERVAL, OFFSETS_INTERVAL);
        offsets_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut log_due = interval_at(Instant::now() + log_watch::INTERVAL, log_watch::INTERVAL);
        log_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.pass_on_changes(&mut newest).await;
            tokio::select! {
                changed = self.membership.changed() => self.follow(changed?).await?,
                Some(partition) = self.fences.recv() => self.lose(partition).await,
                _ = offsets_due.tick() => self.commit_offsets().await,
                _ = log_due.tick() => self.watch_log().await?,
                changed = newest.changed() => if changed.is_err() {
                    return Ok(());
                },
            }
        }
    }

    async fn pass_on_changes(&mut self, newest: &mut watch::Receiver<u64>) {
        while *newest.borrow_and_update() > self.revision {
            match self.changes().await {
                Ok((changed, sought)) => self.pass_on(changed, &sought).await,
                Err(error) => {
                    warn!(%error, "changed alerts wait for the store");
                    tokio::time::sleep(RETRY_WAIT).await;
                }
            }
        }
    }

    async fn follow(&mut self, changed: Assignment) -> Result<(), EvaluatorError> {
        match changed {
            Assignment::Assigned(partitions) => self.take(partitions).await,
            Assignment::Revoked(partitions, handover) => {
                self.leave(&partitions, &Leaving::Orderly(Arc::new(handover))).await;
                Ok(())
            }
            Assignment::Lost(partitions) => {
                self.leave(&partitions, &Leaving::Lost).await;
                Ok(())
            }
        }
    }

    /// Takes partitions that the group has assigned.
    async fn take(&mut self, partitions: Vec<u32>) -> Result<(), EvaluatorError> {
        partitions.iter().for_each(|partition| self.stats.taken(*partition));
        self.restore(partitions).await
    }

    /// Restores partitions and gives each to the worker that has the fewest.
    pub(super) async fn restore(&mut self, partitions: Vec<u32>) -> Result<(), EvaluatorError> {
        let restorer = Restorer {
            store: self.store.clone(),
            bus: self.bus.clone(),
            library: self.library.clone(),
            revision: self.revision,
            skip_lost_ticks: self.skip_lost_ticks,
        };
        let restore = |partition| {
            let restored = AbortOnDropHandle::new(tokio::spawn(restorer.clone().restore(partition)));
            async move { (partition, restored.await) }
        };
        let mut restores = futures_util::stream::iter(partitions).map(restore).buffer_unordered(RESTORES_AT_ONCE);
        let mut armed = Vec::new();
        while let Some((partition, restored)) = restores.next().await {
            let restored = match restored.unwrap_or_else(|error| Err(EvaluatorError::Ended(error.to_string()))) {
                Err(error) if error.halts() => {
                    if self.stats.halted(partition, error.to_string()) {
                        error!(partition, %error, "evaluation of a partition has halted");
                    }
                    self.log.halted(partition);
                    continue;
                }
                restored => restored?,
            };
            self.stats.goes_on(partition);
            let fewest = self.feeds.iter_mut().min_by_key(|feed| feed.partitions.len());
            let feed = fewest.expect("an evaluator has a worker");
            feed.partitions.insert(partition);
            let (taken, waiting) = oneshot::channel();
            feed.send(Message::Take(Box::new(restored), taken)).await;
            armed.push(waiting);
        }
        if self.begun.is_some() {
            futures_util::future::join_all(armed).await;
        }
        Ok(())
    }

    async fn leave(&mut self, partitions: &[u32], leaving: &Leaving) {
        self.give_up(partitions, leaving).await;
        self.log.left(partitions);
        partitions.iter().for_each(|partition| self.stats.left(*partition));
    }

    /// Has workers stop with partitions that stay this evaluator's. What bindings remember is kept.
    pub(super) async fn halt(&mut self, partitions: &[u32]) {
        self.give_up(partitions, &Leaving::Halted).await;
    }

    async fn give_up(&mut self, partitions: &[u32], leaving: &Leaving) {
        for feed in &mut self.feeds {
            let left: Vec<u32> =
                partitions.iter().copied().filter(|partition| feed.partitions.remove(partition)).collect();
            if !left.is_empty() {
                feed.send(Message::Leave(left, leaving.clone())).await;
            }
        }
    }

    /// Gives up what somebody else has claimed. The group will say so, too, if it has not yet.
    async fn lose(&mut self, partition: u32) {
        self.leave(&[partition], &Leaving::Lost).await;
        self.stats.taken(partition);
        self.stats.halted(partition, "another evaluator has claimed it".into());
        // Or another log was accepted: then it is this one's again.
        if self.store.tick_log().await.is_ok_and(|stored| self.log.is_outdated(stored.as_ref())) {
            self.log.halted(partition);
        }
    }

    /// Tells Kafka how far evaluation is, for whoever watches the group's lag.
    async fn commit_offsets(&self) {
        let states = self.stats.partitions().into_iter();
        let next = states.filter_map(|(partition, state)| Some(Position { partition, offset: state.next_offset? }));
        let positions: Vec<Position> = next.collect();
        if positions.is_empty() {
            return;
        }
        if let Err(error) = self.membership.commit(&positions).await {
            debug!(%error, "the group's offsets are not committed");
        }
    }

    /// What changed, and which symbols are to be looked for.
    async fn changes(&self) -> Result<(Changed, Vec<Sought>), StoreError> {
        let changed = self.store.changes(self.revision, MAX_ROWS).await?;
        let waits = |row: &BindingRow| row.counts_from.is_none() && row.standing == Standing::Live;
        let some_wait = changed.bindings.iter().any(waits);
        let sought = if some_wait { self.store.sought(self.revision, changed.revision).await? } else { Vec::new() };
        Ok((changed, sought))
    }

    async fn pass_on(&mut self, changed: Changed, sought: &[Sought]) {
        let Changed { bindings, impure_rules, revision } = changed;
        let mut lists: Vec<Vec<Change>> = self.feeds.iter().map(|_| Vec::new()).collect();
        let mut homes = Vec::new();
        for row in bindings {
            let home = row.counts_from.map(|position| position.partition);
            if self.homes.get(&row.symbol) != Some(&home) {
                self.homes.insert(row.symbol.clone(), home);
                homes.push((row.symbol.clone(), home));
            }
            let Some(partition) = home else { continue };
            let Some(at) = self.feeds.iter().position(|feed| feed.partitions.contains(&partition)) else { continue };
            lists[at].extend(self.change(row).await);
        }
        for (feed, mut list) in self.feeds.iter().zip(lists) {
            // Last: no alert is created on a rule that was found to be impure.
            list.extend(impure_rules.iter().copied().map(Change::DisarmRule));
            let (homes, sought) = (homes.clone(), sought.to_vec());
            feed.send(Message::Changes(Changes { homes, sought, list, revision })).await;
        }
        self.revision = revision;
    }

    async fn change(&self, mut row: BindingRow) -> Option<Change> {
        let counts_from = row.counts_from?;
        match row.standing {
            Standing::Deleted => Some(Change::Disarm(row.id)),
            Standing::Triggered => None,
            Standing::Live if row.hold == Hold::Asked => Some(Change::HandOver(row.id, counts_from.partition)),
            Standing::Live if row.release_due => Some(Change::Release(row.id, counts_from.partition)),
            // One that comes back from a promotion may be quarantined: then it goes on waiting.
            Standing::Live if row.revision == row.armed_revision && row.hold == Hold::None && !row.rule_impure => {
                let resume = row.resume.take();
                match self.library.get(row.rule).await {
                    Ok(rule) => Some(Change::Arm(Box::new(arming(row, rule, resume)), counts_from)),
                    Err(error) => {
                        error!(%error, alert = row.alert.0, "an alert cannot be evaluated");
                        None
                    }
                }
            }
            Standing::Live => None,
        }
    }
}

impl Feed {
    async fn send(&self, message: Message) {
        // A worker that is gone has told why; the evaluator is ending.
        if self.messages.send(message).await.is_ok() {
            self.waker.wake();
        }
    }
}

/// Restores partitions, on a task each: reading a million alerts takes some cores some seconds.
#[derive(Clone)]
struct Restorer {
    store: Store,
    bus: Bus,
    library: Library,
    revision: u64,
    skip_lost_ticks: bool,
}

impl Restorer {
    async fn restore(self, partition: u32) -> Result<Restored, EvaluatorError> {
        let Self { store, bus, library, revision, skip_lost_ticks } = &self;
        (|| restore(store, bus, library, partition, *revision, *skip_lost_ticks))
            .retry(patient(MIN_WAIT))
            .when(EvaluatorError::passes)
            .notify(|error, wait| warn!(partition, %error, ?wait, "a partition waits to be restored"))
            .await
    }
}
