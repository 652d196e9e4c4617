//! Counters of an evaluator, for the log and health.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tocsin_engine::domain::{AlertId, Position, Symbol};
use tocsin_engine::{RuleUsage, Usage};
use tracing::error;

/// Counters since the start.
#[derive(Debug, Default)]
pub struct EvaluatorStats {
    pub(super) ticks: AtomicU64,
    pub(super) evaluations: AtomicU64,
    pub(super) firings: AtomicU64,
    pub(super) faults: AtomicU64,
    pub(super) quarantined: AtomicU64,
    pub(super) recovered: AtomicU64,
    pub(super) impurities: AtomicU64,
    pub(super) checkpoints: AtomicU64,
    /// Not a counter: bindings armed now. Workers add and take away.
    pub(super) bindings: AtomicU64,
    workers: Mutex<Vec<Arc<AtomicI64>>>,
    partitions: Mutex<BTreeMap<u32, PartitionState>>,
    misrouted: Mutex<BTreeMap<Symbol, MisroutedTicks>>,
    unassigned: Mutex<BTreeMap<Symbol, UnassignedTick>>,
    not_armed: Mutex<BTreeMap<AlertId, String>>,
    /// By worker.
    usage: Mutex<Vec<WorkerUsage>>,
    alerts: Mutex<BTreeMap<AlertId, AlertActivity>>,
}

/// Alerts whose activity is counted. Where there are more, the least active are forgotten.
const MAX_COUNTED_ALERTS: usize = 4096;

/// The share of the time of evaluation from which on a rule is named as what makes it late, in hundredths.
const BUSY_SHARE: u128 = 30;

/// What the rules of one worker have cost.
#[derive(Debug, Default)]
struct WorkerUsage {
    /// Since the start.
    total: Vec<RuleUsage>,
    /// At the last report before.
    before: Vec<RuleUsage>,
}

/// What an alert did since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AlertActivity {
    /// Firings that were recorded.
    pub firings: u64,
    /// Firings that were not, because a binding fired too often.
    pub suppressed: u64,
    /// Faults.
    pub faults: u64,
}

impl AlertActivity {
    fn sum(self) -> u64 {
        self.firings + self.suppressed + self.faults
    }
}

/// Symbols that are remembered although ticks of them are read and they are assigned to no partition. Each stands for a call
/// of the store that is under way, or for alerts that were deleted before their symbol's first tick.
const MAX_UNASSIGNED_SYMBOLS: usize = 1_000;

/// Alerts that are reported because they could not be armed: more than an operator needs to find out why.
const MAX_ALERTS_NOT_ARMED: usize = 16;

/// The first tick that was read of a symbol that is assigned to no partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnassignedTick {
    /// Where it is in the bus.
    pub position: Position,
    /// When it was published, Unix milliseconds.
    pub published_ms: i64,
}

/// Symbols whose misrouted ticks are reported: enough to find a broken partitioner.
const MAX_MISROUTED_SYMBOLS: usize = 16;

/// Ticks of a watched symbol on other partitions than the one that the symbol is assigned to. They are not evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MisroutedTicks {
    /// The partition whose ticks count.
    pub assigned: u32,
    /// The partition of the last misrouted tick.
    pub partition: u32,
    /// How many there were.
    pub ticks: u64,
}

/// How a partition is that this evaluator has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionState {
    /// The next offset to be evaluated, at the last checkpoint.
    pub next_offset: Option<u64>,
    /// Why it is not evaluated any more, where it has halted.
    pub halted: Option<String>,
    /// Bindings that are to be unquarantined and are not armed.
    pub unquarantine_waiting: usize,
}

/// How far one worker has come.
#[derive(Debug)]
pub(super) struct Progress(Arc<AtomicI64>);

/// A worker waits for ticks, and no tick for it.
const CAUGHT_UP: i64 = i64::MAX;

impl Progress {
    /// Records when the next tick to be evaluated was published, Unix milliseconds; None if no tick waits.
    pub(super) fn reached(&self, published_ms: Option<i64>) {
        self.0.store(published_ms.unwrap_or(CAUGHT_UP), Relaxed);
    }
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EvaluatorSnapshot {
    /// Ticks evaluated.
    pub ticks: u64,
    /// Evaluations of bindings.
    pub evaluations: u64,
    /// Firings that were new to the store.
    pub firings: u64,
    /// Faults of rules.
    pub faults: u64,
    /// Faults that quarantined their binding.
    pub quarantined: u64,
    /// Quarantined bindings that were tried again with success.
    pub recovered: u64,
    /// Rule versions that were found to be impure.
    pub impurities: u64,
    /// Checkpoints written.
    pub checkpoints: u64,
    /// Bindings armed now.
    pub bindings: u64,
}

impl EvaluatorStats {
    /// Adds a worker, which reports how far it has come.
    pub(super) fn progress(&self) -> Progress {
        let progress = Arc::new(AtomicI64::new(CAUGHT_UP));
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).push(progress.clone());
        Progress(progress)
    }

    /// Returns when the oldest tick that waits for its worker was published, Unix milliseconds; None if none waits.
    pub fn oldest_waiting_ms(&self) -> Option<i64> {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.iter().map(|progress| progress.load(Relaxed)).min().filter(|oldest| *oldest != CAUGHT_UP)
    }

    /// Returns the partitions that this evaluator has.
    pub fn partitions(&self) -> BTreeMap<u32, PartitionState> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn taken(&self, partition: u32) {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, PartitionState::default());
    }

    pub(super) fn left(&self, partition: u32) {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).remove(&partition);
    }

    pub(super) fn checkpointed(&self, partition: u32, next_offset: u64) {
        self.update(partition, |state| state.next_offset = Some(next_offset));
    }

    /// Records why a partition has halted. Returns whether that differs from what was recorded before.
    pub(super) fn halted(&self, partition: u32, why: String) -> bool {
        let mut is_news = false;
        self.update(partition, |state| {
            is_news = state.halted.as_ref() != Some(&why);
            state.halted = Some(why);
        });
        is_news
    }

    pub(super) fn goes_on(&self, partition: u32) {
        self.update(partition, |state| state.halted = None);
    }

    pub(super) fn misrouted_tick(&self, symbol: &Symbol, assigned: u32, partition: u32) {
        let mut misrouted = self.misrouted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = misrouted.get_mut(symbol) {
            *known = MisroutedTicks { assigned, partition, ticks: known.ticks + 1 };
        } else if misrouted.len() < MAX_MISROUTED_SYMBOLS {
            error!(%symbol, assigned, partition, "a symbol's ticks turn up on another partition: they are not evaluated");
            misrouted.insert(symbol.clone(), MisroutedTicks { assigned, partition, ticks: 1 });
        }
    }

    pub(super) fn unquarantine_waits(&self, partition: u32, bindings: usize) {
        self.update(partition, |state| state.unquarantine_waiting = bindings);
    }

    /// A tick was read of a symbol that is assigned to no partition yet, and that the store is asked to assign.
    pub(super) fn unassigned_tick(&self, symbol: &Symbol, position: Position, published_ms: i64) {
        let mut unassigned = self.unassigned.lock().unwrap_or_else(PoisonError::into_inner);
        if unassigned.len() < MAX_UNASSIGNED_SYMBOLS {
            unassigned.entry(symbol.clone()).or_insert(UnassignedTick { position, published_ms });
        }
    }

    /// A symbol was assigned to a partition, or its first tick is looked for anew: what was reported of it before is over.
    pub(super) fn assigned(&self, symbol: &Symbol, partition: Option<u32>) {
        self.unassigned.lock().unwrap_or_else(PoisonError::into_inner).remove(symbol);
        let mut misrouted = self.misrouted.lock().unwrap_or_else(PoisonError::into_inner);
        if misrouted.get(symbol).is_some_and(|known| Some(known.assigned) != partition) {
            misrouted.remove(symbol);
        }
    }

    /// Returns symbols of which ticks were read though they are assigned to no partition, at most 1,000.
    pub fn unassigned(&self) -> BTreeMap<Symbol, UnassignedTick> {
        self.unassigned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn not_armed(&self, alert: AlertId, why: String) {
        let mut not_armed = self.not_armed.lock().unwrap_or_else(PoisonError::into_inner);
        if not_armed.len() < MAX_ALERTS_NOT_ARMED {
            not_armed.insert(alert, why);
        }
    }

    /// An alert was armed after all, or deleted.
    pub(super) fn armed(&self, alert: AlertId) {
        self.not_armed.lock().unwrap_or_else(PoisonError::into_inner).remove(&alert);
    }

    /// Returns alerts that could not be armed, at most 16, and why.
    pub fn alerts_not_armed(&self) -> BTreeMap<AlertId, String> {
        self.not_armed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns symbols with misrouted ticks, at most 16.
    pub fn misrouted(&self) -> BTreeMap<Symbol, MisroutedTicks> {
        self.misrouted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds a worker that reports the usage of its rules. Returns the index to report it by.
    pub(super) fn add_worker(&self) -> usize {
        let mut usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        usage.push(WorkerUsage::default());
        usage.len() - 1
    }

    /// Records what a worker's rules have cost since it began.
    pub(super) fn report_usage(&self, worker: usize, total: Vec<RuleUsage>) {
        let mut usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut usage[worker].total, total);
        usage[worker].before = before;
    }

    /// Returns what rule versions have cost since the start, the dearest first.
    pub fn rule_usage(&self) -> Vec<RuleUsage> {
        let usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sums = sums(usage.iter().flat_map(|worker| &worker.total));
        sums.sort_by_key(|sum| std::cmp::Reverse(sum.usage.time));
        sums
    }

    /// Returns the rule version that took most of the time lately, with its share in hundredths; None if none stands out.
    pub fn busiest_rule(&self) -> Option<(RuleUsage, u32)> {
        let lately = self.usage_lately();
        let all: u128 = lately.iter().map(|rule| rule.usage.time.as_nanos()).sum();
        let busiest = lately.into_iter().max_by_key(|rule| rule.usage.time)?;
        let share = (busiest.usage.time.as_nanos() * 100).checked_div(all)?;
        (share >= BUSY_SHARE).then_some((busiest, share as u32))
    }

    /// Returns the rule versions whose bindings fired too often lately, with the firings that were not recorded.
    pub fn suppressed_lately(&self) -> Vec<RuleUsage> {
        self.usage_lately().into_iter().filter(|rule| rule.usage.suppressed > 0).collect()
    }

    /// What rule versions have cost between the last two reports: the time and the firings that were not recorded.
    fn usage_lately(&self) -> Vec<RuleUsage> {
        let usage = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        let before = sums(usage.iter().flat_map(|worker| &worker.before));
        let mut lately = sums(usage.iter().flat_map(|worker| &worker.total));
        for rule in &mut lately {
            let earlier = before.iter().find(|other| is_same(rule, other)).map_or(Usage::default(), |rule| rule.usage);
            rule.usage.time = rule.usage.time.saturating_sub(earlier.time);
            rule.usage.suppressed = rule.usage.suppressed.saturating_sub(earlier.suppressed);
        }
        lately
    }

    /// Counts what an alert did.
    pub(super) fn count_alert(&self, alert: AlertId, count: impl FnOnce(&mut AlertActivity)) {
        let mut alerts = self.alerts.lock().unwrap_or_else(PoisonError::into_inner);
        if alerts.len() >= MAX_COUNTED_ALERTS && !alerts.contains_key(&alert) {
            let mut sums: Vec<u64> = alerts.values().map(|activity| activity.sum()).collect();
            let middle = sums.len() / 2;
            let median = *sums.select_nth_unstable(middle).1;
            alerts.retain(|_, activity| activity.sum() > median);
        }
        count(alerts.entry(alert).or_default());
    }

    /// Returns the most active alerts since the start, at most `most`, the most active first.
    pub fn active_alerts(&self, most: usize) -> Vec<(AlertId, AlertActivity)> {
        let alerts = self.alerts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut active: Vec<_> = alerts.iter().map(|(alert, activity)| (*alert, *activity)).collect();
        active.sort_by_key(|(_, activity)| std::cmp::Reverse(activity.sum()));
        active.truncate(most);
        active
    }

    fn update(&self, partition: u32, update: impl FnOnce(&mut PartitionState)) {
        let mut partitions = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was given up meanwhile is not reported any more.
        partitions.get_mut(&partition).map(update);
    }

    /// Returns the counters as they are now.
    pub fn snapshot(&self) -> EvaluatorSnapshot {
        EvaluatorSnapshot {
            ticks: self.ticks.load(Relaxed),
            evaluations: self.evaluations.load(Relaxed),
            firings: self.firings.load(Relaxed),
            faults: self.faults.load(Relaxed),
            quarantined: self.quarantined.load(Relaxed),
            recovered: self.recovered.load(Relaxed),
            impurities: self.impurities.load(Relaxed),
            checkpoints: self.checkpoints.load(Relaxed),
            bindings: self.bindings.load(Relaxed),
        }
    }
}

/// One entry for each rule version and tenant.
fn sums<'a>(usage: impl Iterator<Item = &'a RuleUsage>) -> Vec<RuleUsage> {
    let mut sums: Vec<RuleUsage> = Vec::new();
    for rule in usage {
        match sums.iter_mut().find(|sum| is_same(sum, rule)) {
            Some(sum) => sum.usage += rule.usage,
            None => sums.push(rule.clone()),
        }
    }
    sums
}

fn is_same(one: &RuleUsage, other: &RuleUsage) -> bool {
    one.rule.digest == other.rule.digest && one.tenant == other.tenant
}

#[cfg(test)]
mod tests {
    use tocsin_engine::domain::{Digest, RuleName, RuleRef, Tenant, Version};

    use super::*;

    #[test]
    fn the_rule_that_takes_the_time_is_named_and_the_most_active_alerts_are_kept() {
        let used = |name: &str, ms: u64| {
            let mut usage = Usage::default();
            usage.time = std::time::Duration::from_millis(ms);
            let (name, version) = (RuleName::parse(name).unwrap(), Version::parse("1.0.0").unwrap());
            let digest = Digest::of(name.as_str().as_bytes());
            RuleUsage { rule: RuleRef { name, version, digest }, tenant: Tenant::standard(), usage }
        };
        let stats = EvaluatorStats::default();
        let workers = [stats.add_worker(), stats.add_worker()];
        assert!(stats.busiest_rule().is_none());
        stats.report_usage(workers[0], vec![used("a", 900), used("b", 10)]);
        stats.report_usage(workers[1], vec![used("b", 20)]);
        let busiest =
            |stats: &EvaluatorStats| stats.busiest_rule().map(|(rule, share)| (rule.rule.name.to_string(), share));
        assert_eq!(busiest(&stats), Some(("a".into(), 96)));
        // Lately it was the other one.
        stats.report_usage(workers[0], vec![used("a", 910), used("b", 10)]);
        stats.report_usage(workers[1], vec![used("b", 110)]);
        assert_eq!(busiest(&stats), Some(("b".into(), 90)));
        assert_eq!(stats.rule_usage()[0].usage.time.as_millis(), 910);
        assert!(stats.suppressed_lately().is_empty());
        let mut floods = used("b", 110);
        floods.usage.suppressed = 7;
        stats.report_usage(workers[1], vec![floods.clone()]);
        assert_eq!(stats.suppressed_lately()[0].usage.suppressed, 7);
        // That is over.
        stats.report_usage(workers[1], vec![floods]);
        assert!(stats.suppressed_lately().is_empty());

        for alert in 0..2 * MAX_COUNTED_ALERTS as i64 {
            for _ in 0..=(alert % 7) {
                stats.count_alert(AlertId(alert), |activity| activity.faults += 1);
            }
        }
        stats.count_alert(AlertId(5), |activity| activity.suppressed += 1_000_000);
        let active = stats.active_alerts(3);
        assert_eq!((active.len(), active[0].0), (3, AlertId(5)));
        assert!(stats.active_alerts(usize::MAX).len() <= MAX_COUNTED_ALERTS);
    }

    #[test]
    fn the_oldest_tick_that_waits_for_any_worker_counts() {
        let stats = EvaluatorStats::default();
        assert_eq!(stats.oldest_waiting_ms(), None);
        let workers = [stats.progress(), stats.progress()];
        assert_eq!(stats.oldest_waiting_ms(), None);
        workers[0].reached(Some(7_000));
        workers[1].reached(Some(5_000));
        assert_eq!(stats.oldest_waiting_ms(), Some(5_000));
        workers[1].reached(None);
        assert_eq!(stats.oldest_waiting_ms(), Some(7_000));
    }
}
