//! The evaluator's probes: what is not evaluated, and what is evaluated late.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tocsin_bus::Clock;
use tocsin_engine::RuleUsage;
use tocsin_engine::domain::Symbol;
use tocsin_health::{CachedQuery, Health, Probe, Problems};
use tocsin_store::Store;

use super::{EvaluatorStats, MisroutedTicks, PartitionState, UnassignedTick};

/// How long a tick may wait to be evaluated before that is reported.
const MAX_WAIT_MS: i64 = 5_000;

/// Symbols that are named in one problem.
const MAX_NAMED: usize = 16;

/// Finds partitions, alerts and bindings that are not evaluated.
struct EvaluatorProbe {
    stats: Arc<EvaluatorStats>,
    store: Store,
    clock: Clock,
    unassigned: CachedQuery<Option<String>>,
}

/// Finds ticks that are evaluated late, or are skipped because they are on another partition than their symbol's, and firings
/// that are too many to be recorded.
struct TicksProbe {
    stats: Arc<EvaluatorStats>,
    clock: Clock,
}

/// Registers the probes `evaluate` and `ticks`.
pub fn register(health: &Health, stats: Arc<EvaluatorStats>, store: Store, clock: Clock) {
    health.register("ticks", TicksProbe { stats: stats.clone(), clock: clock.clone() });
    health.register("evaluate", EvaluatorProbe { stats, store, clock, unassigned: CachedQuery::default() });
}

impl Probe for EvaluatorProbe {
    fn check(&self) -> BoxFuture<'_, Problems> {
        Box::pin(async {
            let blocking = halted_partitions(&self.stats);
            // Every other alert is evaluated.
            let mut tolerable: Vec<String> = self.unassigned().await.into_iter().collect();
            tolerable.extend(unapplied(&self.stats));
            Problems { blocking, tolerable }
        })
    }
}

impl EvaluatorProbe {
    /// Returns the problem of symbols with live alerts that are assigned to no partition although ticks of them were read.
    async fn unassigned(&self) -> Option<String> {
        let mut late = self.stats.unassigned();
        late.retain(|_, tick| (self.clock)().saturating_sub(tick.published_ms) > MAX_WAIT_MS);
        if late.is_empty() {
            return None;
        }
        let store = self.store.clone();
        let query = async move {
            let symbols: Vec<Symbol> = late.keys().cloned().collect();
            // A store that does not answer is reported by its own probe.
            let watched = store.live_among(&symbols).await.unwrap_or_default();
            unassigned_symbols(&late, &watched)
        };
        self.unassigned.run(Box::pin(query)).await.flatten()
    }
}

impl Probe for TicksProbe {
    fn check(&self) -> BoxFuture<'_, Problems> {
        let late = lateness(&self.stats, (self.clock)());
        let problems = late.into_iter().chain(misrouted_ticks(&self.stats)).chain(floods(&self.stats));
        Box::pin(std::future::ready(Problems::tolerable(problems)))
    }
}

/// Partitions that are evaluated no more until an operator acts.
fn halted_partitions(stats: &EvaluatorStats) -> Vec<String> {
    let mut by_reason: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (partition, state) in stats.partitions() {
        if let Some(why) = state.halted {
            by_reason.entry(why).or_default().push(partition.to_string());
        }
    }
    let describe = |(why, partitions): (String, Vec<String>)| match &partitions[..] {
        [partition] => format!("partition {partition} is not evaluated: {why}"),
        _ => format!("partitions {} are not evaluated: {why}", partitions.join(", ")),
    };
    by_reason.into_iter().map(describe).collect()
}

/// Bindings that could not be unquarantined, and alerts that could not be armed.
fn unapplied(stats: &EvaluatorStats) -> Vec<String> {
    let waiting = stats.partitions().into_iter().filter(|(_, state)| state.unquarantine_waiting > 0);
    let unquarantine = waiting.map(|(partition, PartitionState { unquarantine_waiting, .. })| {
        format!(
            "partition {partition}: {unquarantine_waiting} bindings that are to leave quarantine are not armed; if that \
             does not pass, restart this evaluator and report it"
        )
    });
    let alerts = stats.alerts_not_armed().into_iter();
    let alerts = alerts.map(|(alert, why)| format!("alert {} is not evaluated: {why}", alert.0));
    unquarantine.chain(alerts).collect()
}

fn unassigned_symbols(late: &BTreeMap<Symbol, UnassignedTick>, watched: &[Symbol]) -> Option<String> {
    let first = watched.first()?;
    let UnassignedTick { position, .. } = late.get(first)?;
    let names: Vec<&str> = watched.iter().take(MAX_NAMED).map(Symbol::as_str).collect();
    Some(format!(
        "{} symbols wait to be assigned to a partition although ticks of them were read, and their alerts are not \
         evaluated: {}; the first was {first}'s at offset {} of partition {}. If that does not pass, restart this \
         evaluator, which catches up, and report it",
        watched.len(),
        names.join(", "),
        position.offset,
        position.partition
    ))
}

/// Whether ticks wait for longer than they should, and for which rule.
fn lateness(stats: &EvaluatorStats, now_ms: i64) -> Option<String> {
    let late_ms = now_ms.saturating_sub(stats.oldest_waiting_ms()?);
    (late_ms > MAX_WAIT_MS).then(|| {
        let busiest = stats.busiest_rule().map(|(RuleUsage { rule, tenant, .. }, share)| {
            format!("; the rule {} {} of the tenant {tenant} took {share} % of the time lately", rule.name, rule.version)
        });
        format!(
            "evaluation is {} s behind: alerts fire late until it has caught up{}; if it does not, see Falling behind in \
             docs/operations.md",
            late_ms / 1000,
            busiest.unwrap_or_default()
        )
    })
}

/// Rules whose alerts fire too often at this moment.
fn floods(stats: &EvaluatorStats) -> Vec<String> {
    let describe = |RuleUsage { rule, tenant, usage }: RuleUsage| {
        format!(
            "alerts of the rule {} {} of the tenant {tenant} fire too often: {} firings were not recorded lately, and are not \
             delivered; `evaluation` of this answer has the most active alerts, and Floods in docs/operations.md the limit",
            rule.name, rule.version, usage.suppressed
        )
    };
    stats.suppressed_lately().into_iter().map(describe).collect()
}

/// Symbols with ticks on two partitions.
fn misrouted_ticks(stats: &EvaluatorStats) -> Vec<String> {
    let describe = |(symbol, MisroutedTicks { assigned, partition, ticks })| {
        format!(
            "{symbol} is assigned to partition {assigned}, and {ticks} of its ticks were on other partitions, the last on \
             partition {partition}: they are not evaluated; see Symbols on two partitions in docs/operations.md"
        )
    };
    stats.misrouted().into_iter().map(describe).collect()
}
