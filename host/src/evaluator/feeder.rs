//! Tells workers what they are to do: which partitions are theirs, as the consumer group decides, and which bindings were
//! created, deleted, released or promoted, or are on an impure rule. Woken by the store, it reads what changed after the
//! revision that it knows, so that a wake-up that got lost loses nothing.
//!
//! Both go through here so that they are in order: a partition is restored as of the revision up to which all workers have
//! heard of changes, and hears of all later ones. That revision is not before the one of its checkpoint: where this process
//! has not been notified of a change that another one's checkpoint holds, it reads on until it has.

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
use super::restore::{Restored, StoredRules, arming, restore};
use super::{Asked, Change, Changes, EvaluatorError, EvaluatorStats, Leaving, Message, Stopped};
use crate::backoff::patient;
use crate::bus::{Assignment, Bus, Membership, Waker};
use crate::failpoint;
use crate::rules::RuleCacheError;
use crate::store::{
    BindingRow, Changed, Claim, HandoffState, Standing, Store, StoreError, SymbolAssignment, UnassignedSymbol,
};

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
    pub(super) rules: StoredRules,
    pub(super) membership: Membership,
    pub(super) feeds: Vec<Feed>,
    /// Partitions that a committer writes nothing more of.
    pub(super) stops: mpsc::UnboundedReceiver<Stopped>,
    pub(super) revision: u64,
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
        let homes = self.store.symbol_assignments().await?;
        self.pass_on_homes(&homes).await;
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
                Some(stopped) = self.stops.recv() => self.lose(stopped).await,
                _ = offsets_due.tick() => self.commit_offsets().await,
                _ = log_due.tick() => self.watch_log().await?,
                changed = newest.changed() => if changed.is_err() {
                    return Ok(());
                },
            }
        }
    }

    /// Says where the ticks of watched symbols count.
    pub(super) async fn pass_on_homes(&self, homes: &[SymbolAssignment]) {
        for feed in &self.feeds {
            let (homes, revision) = (homes.to_vec(), self.revision);
            feed.send(Message::Changes(Changes { homes, sought: Vec::new(), list: Vec::new(), revision })).await;
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

    /// Claims partitions, restores them and gives each to the worker that has the fewest.
    pub(super) async fn restore(&mut self, partitions: Vec<u32>) -> Result<(), EvaluatorError> {
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
                    patiently(partition, || self.store.halt_partition(&claim, &why)).await?;
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

    /// Claims partitions: from here on no other evaluator writes anything of them. Those whose log is another one halt.
    async fn claim(&mut self, partitions: Vec<u32>) -> Result<Vec<Claim>, EvaluatorError> {
        let (store, bus) = (&self.store, &self.bus);
        let claim = async |partition| {
            let claim = || async { Ok(store.claim_in(&bus.identity().await?, partition).await?) };
            let claimed = claim
                .retry(patient(MIN_WAIT))
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
            let (changed, sought) = patiently(partition, || self.changes()).await?;
            self.pass_on(changed, &sought).await;
            if self.revision == before {
                let (revision, newest) = (newest.revision, self.revision);
                return Err(EvaluatorError::LostRevisions { partition, revision, newest });
            }
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

    /// Gives up a partition that nothing more is written of. Where another evaluator has claimed it, the group will say so,
    /// too, if it has not yet.
    async fn lose(&mut self, stopped: Stopped) {
        let Stopped { partition, why } = stopped;
        self.leave(&[partition], &Leaving::Lost).await;
        self.stats.taken(partition);
        self.stats.halted(partition, why);
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
    async fn changes(&self) -> Result<(Changed, Vec<UnassignedSymbol>), StoreError> {
        let changed = self.store.changes(self.revision, MAX_ROWS).await?;
        let waits = |row: &BindingRow| row.counts_from.is_none() && row.standing == Standing::Live;
        let some_wait = changed.bindings.iter().any(waits);
        let sought =
            if some_wait { self.store.unassigned_symbols(self.revision, changed.revision).await? } else { Vec::new() };
        Ok((changed, sought))
    }

    async fn pass_on(&mut self, changed: Changed, sought: &[UnassignedSymbol]) {
        let Changed { bindings, impure_rules, revision } = changed;
        let mut lists: Vec<Vec<Change>> = self.feeds.iter().map(|_| Vec::new()).collect();
        let mut homes = HashMap::new();
        for row in bindings {
            // Only live bindings know where their symbol's ticks count: those that have ended may be older than that. Where
            // one waits, that is said each time: a worker may have taken a tick for the first one before it was created.
            if row.standing == Standing::Live {
                homes.insert(row.symbol.clone(), row.counts_from.map(|position| position.partition));
            }
            let Some(counts_from) = row.counts_from else { continue };
            let owner = self.feeds.iter().position(|feed| feed.partitions.contains(&counts_from.partition));
            if let Some(at) = owner {
                lists[at].extend(self.changes_of(row, counts_from, revision).await);
            }
        }
        for (feed, mut list) in self.feeds.iter().zip(lists) {
            // Last: no alert is created on a rule that was found to be impure.
            list.extend(impure_rules.iter().copied().map(Change::DisarmRule));
            let assignment = |(symbol, partition): (&Symbol, &Option<u32>)| SymbolAssignment {
                symbol: symbol.clone(),
                partition: *partition,
            };
            let homes = homes.iter().map(assignment).collect();
            feed.send(Message::Changes(Changes { homes, sought: sought.to_vec(), list, revision })).await;
        }
        self.revision = revision;
    }

    /// What a worker is to do about a binding that has changed up to a revision, in this order.
    async fn changes_of(&self, row: BindingRow, counts_from: Position, up_to: u64) -> Vec<Change> {
        let (binding, partition) = (row.id, counts_from.partition);
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
            HandoffState::Requested => changes.push(Change::HandOver(Asked { binding, armed_revision }, partition)),
            HandoffState::Held => {}
            HandoffState::None => {
                changes.push(Change::Keep(binding, partition));
                changes.extend(unquarantine_due.then_some(Change::Release(binding, partition)));
            }
        }
        changes
    }

    /// Arms a binding, however long the store is away. One that comes back from a promotion may be quarantined: then it
    /// goes on waiting.
    async fn arm(&self, mut row: BindingRow, counts_from: Position) -> Option<Change> {
        let (alert, resume) = (row.alert, row.resume.take());
        let rule = (|| self.rules.get(row.rule))
            .retry(patient(MIN_WAIT))
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

/// Asks the store for something about a partition, for as long as it is away.
async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(
    partition: u32,
    ask: impl FnMut() -> F,
) -> Result<T, StoreError> {
    ask.retry(patient(MIN_WAIT))
        .when(StoreError::is_transient)
        .notify(|error, wait| warn!(partition, %error, ?wait, "a partition waits for the store"))
        .await
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
    bus: Bus,
    rules: StoredRules,
    revision: u64,
    skip_lost_ticks: bool,
}

impl Restorer {
    async fn restore(self, claim: Claim) -> Result<Restored, EvaluatorError> {
        let Self { bus, rules, revision, skip_lost_ticks } = &self;
        let partition = claim.partition;
        (|| restore(bus, rules, claim.clone(), *revision, *skip_lost_ticks))
            .retry(patient(MIN_WAIT))
            .when(EvaluatorError::is_transient)
            .notify(|error, wait| warn!(partition, %error, ?wait, "a partition waits to be restored"))
            .await
    }
}
