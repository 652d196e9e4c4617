//! What this process says of itself when asked whether it is well: from its start, before anything is open, to its end.

mod looks;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tocsin_engine::RuleUsage;
use tocsin_engine::domain::{AlertId, RuleRef, Symbol};

use self::looks::{ANSWER_TIMEOUT, Looks};
use crate::bus::Clock;
use crate::connections::{ConnectionCounts, Connections};
use crate::disk;
use crate::evaluator::{AlertActivity, EvaluatorStats, MisroutedTicks, PartitionState, UnassignedTick};
use crate::ingest::{FeedSnapshot, FeedStatus, RejectReason};
use crate::prices::Prices;
use crate::store::{Store, UnfinishedPromotion};

/// How long a tick may wait to be judged before that is told.
const MAX_WAIT_MS: i64 = 5_000;

/// A connected feed that sends no frame for so long is told of. Finnhub's own pings come once a minute, so at night this
/// comes and goes; in trading hours a feed of several symbols is never this quiet.
const FEED_SILENT_AFTER: Duration = Duration::from_secs(30);

/// Impure rules that are told by name.
const MAX_IMPURE_RULES_TOLD: u32 = 5;

/// Rules and alerts whose cost is reported: those that cost the most.
const MAX_RULES_REPORTED: usize = 10;
const MAX_ALERTS_REPORTED: usize = 10;

/// A promotion that waits for evaluators for longer than this is reported: milliseconds are usual.
const MAX_PROMOTION_WAIT_MS: i64 = 5_000;

/// Symbols that the store is asked for, and partitions that are named, in one problem.
const MAX_NAMED: usize = 16;

/// Answers for the health of a process. Cloning is cheap.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    about: About,
    clock: Clock,
    store: OnceLock<Store>,
    store_looks: Looks<StoreSeen>,
    prices: OnceLock<Prices>,
    prices_looks: Looks<Vec<String>>,
    connections: OnceLock<Connections>,
    /// The data folder, and what is kept free on its disk, bytes.
    disk: OnceLock<(PathBuf, u64)>,
    feed: OnceLock<Arc<FeedStatus>>,
    evaluation: OnceLock<Arc<EvaluatorStats>>,
    evaluating: AtomicBool,
    told: Mutex<Told>,
}

/// What a look at the store has shown.
#[derive(Clone, Default)]
struct StoreSeen {
    /// Why it does not answer.
    problem: Option<String>,
    /// What keeps alerts from being evaluated: impure rules, a promotion that waits, symbols without a partition.
    others: Vec<String>,
}

/// What a process is.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// What it does.
    pub roles: Vec<&'static str>,
    /// What it does it with, by port: `bus`, `store`, `prices`. No secrets.
    pub backends: Vec<(&'static str, String)>,
}

/// What parts have told.
#[derive(Default)]
struct Told {
    phase: Phase,
    problems: BTreeMap<&'static str, String>,
    standby: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Starting,
    Running,
    Draining,
}

/// A part of the process that tells what keeps it from its work. It makes the process no less ready: the part tries again.
#[derive(Clone)]
pub struct Part {
    health: Health,
    name: &'static str,
}

/// How a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthReport {
    /// Whether it can do its work.
    pub ready: bool,
    /// What it does.
    pub roles: Vec<&'static str>,
    /// What it does it with, by port.
    pub backends: Vec<(&'static str, String)>,
    /// For whom it stands by, and with what; None if it works itself.
    pub standby: Option<String>,
    /// The partitions whose ticks it judges; None without the evaluate role.
    pub partitions: Option<Vec<u32>>,
    /// Where ticks come from: `finnhub`, `binance`, `simulated` or `none`.
    pub feed: &'static str,
    /// Whether the feed is connected. A feed that is not makes a process no less ready: it reconnects.
    pub feed_connected: bool,
    /// Frames and trades of the feed that gave no tick since the start, by reason; reasons that were not met are left out.
    pub feed_rejected: Vec<(RejectReason, u64)>,
    /// What evaluating costs; None without the evaluate role.
    pub evaluation: Option<EvaluationReport>,
    /// Connections and streams; None before the ports are open.
    pub connections: Option<ConnectionCounts>,
    /// What is wrong, for people.
    pub problems: Vec<String>,
}

/// What evaluating costs, since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvaluationReport {
    /// The rule versions that took the most time, the first one most.
    pub rules: Vec<RuleUsage>,
    /// The alerts that were the most active, the first one most.
    pub alerts: Vec<(AlertId, AlertActivity)>,
}

impl Part {
    /// Tells a problem, in place of one that was told before.
    pub fn tell(&self, problem: impl Into<String>) {
        self.health.told().problems.insert(self.name, problem.into());
    }

    /// Tells that another process does the work, and this one waits.
    pub fn stand_by(&self, standby: String) {
        let mut told = self.health.told();
        told.problems.remove(self.name);
        told.standby = Some(format!("{} {standby}", self.name));
    }

    /// Tells that all is well.
    pub fn clear(&self) {
        let mut told = self.health.told();
        told.problems.remove(self.name);
        told.standby.take_if(|standby| standby.starts_with(self.name));
    }
}

impl Health {
    /// The health of a process that is starting.
    pub fn new(about: About, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            about,
            clock,
            store: OnceLock::new(),
            store_looks: Looks::new(),
            prices: OnceLock::new(),
            prices_looks: Looks::new(),
            connections: OnceLock::new(),
            disk: OnceLock::new(),
            feed: OnceLock::new(),
            evaluation: OnceLock::new(),
            evaluating: AtomicBool::new(true),
            told: Mutex::default(),
        }))
    }

    /// Looks after the store from now on.
    pub fn watch_store(&self, store: Store) {
        let _ = self.0.store.set(store);
    }

    /// Looks after prices from now on.
    pub fn watch_prices(&self, prices: Prices) {
        let _ = self.0.prices.set(prices);
    }

    /// Looks after connections from now on.
    pub fn watch_connections(&self, connections: Connections) {
        let _ = self.0.connections.set(connections);
    }

    /// Looks after the room under the data folder from now on.
    pub fn watch_disk(&self, data_dir: &Path, min_free_bytes: u64) {
        let _ = self.0.disk.set((data_dir.to_owned(), min_free_bytes));
    }

    /// Looks after the feed from now on.
    pub fn watch_feed(&self, feed: Arc<FeedStatus>) {
        let _ = self.0.feed.set(feed);
    }

    /// Looks after evaluation from now on.
    pub fn watch_evaluation(&self, stats: Arc<EvaluatorStats>) {
        let _ = self.0.evaluation.set(stats);
    }

    /// For a part to tell of itself.
    pub fn part(&self, name: &'static str) -> Part {
        Part { health: self.clone(), name }
    }

    /// Says that all roles work.
    pub fn begun(&self) {
        self.told().phase = Phase::Running;
    }

    /// Says that the process finishes what it has begun, and begins nothing more.
    pub fn draining(&self) {
        self.told().phase = Phase::Draining;
    }

    /// Says that evaluation has stopped.
    pub fn evaluation_stopped(&self) {
        self.0.evaluating.store(false, Relaxed);
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether ticks wait longer than they should.
    fn lateness(&self) -> Option<String> {
        let oldest_ms = self.0.evaluation.get()?.oldest_waiting_ms()?;
        let late_ms = (self.0.clock)().saturating_sub(oldest_ms);
        (late_ms > MAX_WAIT_MS).then(|| {
            let busiest = self.0.evaluation.get().and_then(|stats| stats.busiest_rule());
            let busiest = busiest.map(|(RuleUsage { rule, tenant, .. }, share)| {
                format!("; the rule {} {} of the tenant {tenant} took {share} % of the time lately", rule.name, rule.version)
            });
            format!(
                "evaluation is {} s behind: alerts fire late until it has caught up{}; if it does not, see Falling behind \
                 in docs/operations.md",
                late_ms / 1000,
                busiest.unwrap_or_default()
            )
        })
    }

    /// What evaluating costs.
    fn evaluation_report(&self) -> Option<EvaluationReport> {
        let stats = self.0.evaluation.get()?;
        let mut rules = stats.rule_usage();
        rules.truncate(MAX_RULES_REPORTED);
        Some(EvaluationReport { rules, alerts: stats.active_alerts(MAX_ALERTS_REPORTED) })
    }

    /// Partitions that are judged no more until somebody acts.
    fn halted_partitions(&self) -> Vec<String> {
        let partitions = self.0.evaluation.get().map(|stats| stats.partitions()).unwrap_or_default();
        let mut by_reason: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (partition, state) in partitions {
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

    /// Symbols with ticks that nobody judges.
    fn strays(&self) -> Vec<String> {
        let strays = self.0.evaluation.get().map(|stats| stats.misrouted()).unwrap_or_default();
        let tell = |(symbol, MisroutedTicks { assigned: home, partition, ticks })| {
            format!(
                "{symbol} is at home on partition {home}, and {ticks} of its ticks turned up elsewhere, the last on \
                 partition {partition}: they are not judged; see Symbols on two partitions in docs/operations.md"
            )
        };
        strays.into_iter().map(tell).collect()
    }

    /// Bindings that could not be unquarantined, and alerts that could not be armed.
    fn unapplied(&self) -> Vec<String> {
        let Some(stats) = self.0.evaluation.get() else { return Vec::new() };
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

    /// Symbols whose ticks were read some time ago although they are assigned to no partition.
    fn late_symbols(&self) -> BTreeMap<Symbol, UnassignedTick> {
        let mut late = self.0.evaluation.get().map(|stats| stats.unassigned()).unwrap_or_default();
        late.retain(|_, tick| (self.0.clock)().saturating_sub(tick.published_ms) > MAX_WAIT_MS);
        late
    }

    /// How the feed is, if this process has one.
    pub fn feed(&self) -> Option<FeedSnapshot> {
        self.0.feed.get().map(|status| status.snapshot())
    }

    /// Whether the store does not answer, and what it says.
    async fn store_seen(&self) -> StoreSeen {
        let Some(store) = self.0.store.get().cloned() else { return StoreSeen::default() };
        let late = self.late_symbols();
        let looking = Box::pin(async move {
            let problem = store.ping().await.err().map(|error| error.to_string());
            // A store that is away is reported already.
            let impure = store.impure_rules_in_use(MAX_IMPURE_RULES_TOLD).await.unwrap_or_default();
            let promotion = store.unfinished_promotion().await.ok().flatten();
            let promotion = promotion.filter(|promotion| promotion.age_ms > MAX_PROMOTION_WAIT_MS);
            let symbols: Vec<Symbol> = late.keys().cloned().collect();
            let watched = store.live_among(&symbols).await.unwrap_or_default();
            let mut others: Vec<String> = impure.into_iter().map(impure_rule).collect();
            others.extend(promotion.as_ref().map(promotion_problem));
            others.extend(unassigned_problem(&late, &watched));
            StoreSeen { problem, others }
        });
        let mut seen = self.0.store_looks.look(looking).await.unwrap_or_else(|| StoreSeen {
            problem: Some(format!("the store does not answer within {} s", ANSWER_TIMEOUT.as_secs())),
            others: Vec::new(),
        });
        let store = self.0.about.backends.iter().find(|(port, _)| *port == "store");
        if let (Some(problem), Some((_, backend))) = (&mut seen.problem, store) {
            *problem = format!("{backend}: {problem}");
        }
        seen
    }

    /// What is wrong with prices.
    async fn prices_problems(&self) -> Vec<String> {
        let Some(prices) = self.0.prices.get().cloned() else { return Vec::new() };
        let seen = self.0.prices_looks.look(async move { prices.problems().await }).await;
        seen.unwrap_or_else(|| vec![format!("prices do not answer within {} s", ANSWER_TIMEOUT.as_secs())])
    }

    /// Looks after everything.
    pub async fn report(&self) -> HealthReport {
        let (phase, told, standby) = {
            let told = self.told();
            (told.phase, told.problems.values().cloned().collect::<Vec<_>>(), told.standby.clone())
        };
        let mut problems: Vec<String> = match phase {
            Phase::Starting => vec!["the process is starting".into()],
            Phase::Running => Vec::new(),
            Phase::Draining => vec!["the process is stopping".into()],
        };
        let (store, prices_problems) = tokio::join!(self.store_seen(), self.prices_problems());
        problems.extend(store.problem);
        let full = self.0.disk.get().and_then(|(folder, min_free)| disk::check(folder, *min_free).err());
        problems.extend(full.map(|full| full.to_string()));
        if !self.0.evaluating.load(Relaxed) {
            problems.push("evaluation has stopped".into());
        }
        problems.extend(self.halted_partitions());
        let ready = problems.is_empty();
        problems.extend(told);
        // They make the process no less ready: every other rule is judged.
        problems.extend(store.others);
        problems.extend(self.unapplied());
        // Alerts fire without them.
        problems.extend(prices_problems);
        problems.extend(self.0.connections.get().map(Connections::problems).unwrap_or_default());
        problems.extend(self.lateness());
        problems.extend(self.strays());
        let About { roles, backends } = self.0.about.clone();
        let feed = self.feed();
        let (kind, feed_connected) = feed.as_ref().map_or(("none", false), |feed| (feed.kind.label(), feed.connected));
        let feed_rejected = feed.iter().flat_map(FeedSnapshot::rejections).collect();
        problems.extend(feed.as_ref().and_then(|feed| feed.refusal.clone()));
        problems.extend(feed.and_then(|feed| feed_problem(feed, (self.0.clock)())));
        let partitions = self.0.evaluation.get().map(|stats| stats.partitions().into_keys().collect());
        HealthReport {
            ready,
            roles,
            backends,
            standby,
            partitions,
            evaluation: self.evaluation_report(),
            feed: kind,
            feed_connected,
            feed_rejected,
            connections: self.0.connections.get().map(Connections::counts),
            problems,
        }
    }
}

/// Describes an impure rule that alerts still wait on.
fn impure_rule((rule, live): (RuleRef, u64)) -> String {
    format!(
        "the rule {} {} is impure and is judged no more: {live} bindings wait; create their alerts anew on a version \
         without this fault, and delete these",
        rule.name, rule.version
    )
}

/// Symbols with live alerts that are assigned to no partition although ticks of them were read.
fn unassigned_problem(late: &BTreeMap<Symbol, UnassignedTick>, watched: &[Symbol]) -> Option<String> {
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

/// How long a promotion has waited, for what, and what to do.
fn promotion_problem(promotion: &UnfinishedPromotion) -> String {
    let UnfinishedPromotion { to, age_ms, held, waiting_for, .. } = promotion;
    let (seconds, asked) = (age_ms / 1000, promotion.requested());
    let partitions = waiting_for.iter().take(MAX_NAMED).map(|waiting| match &waiting.halted {
        Some(why) => format!("{} (halted: {why})", waiting.partition),
        None => waiting.partition.to_string(),
    });
    let partitions: Vec<String> = partitions.collect();
    let waits = match partitions.is_empty() {
        true => "it makes the new states".to_owned(),
        false => format!("{asked} bindings on partitions {} are not handed over", partitions.join(", ")),
    };
    let (name, version) = (&to.name, &to.version);
    format!(
        "the promotion of {name} to {version} has taken {seconds} s: {waits}, and {held} bindings are held and not evaluated \
         meanwhile; `tocsin rule cancel-promotion {name} {version}` takes it back"
    )
}

/// What is wrong with a feed now. The process is no less ready for it: nobody else would have the ticks.
fn feed_problem(feed: FeedSnapshot, now_ms: i64) -> Option<String> {
    if !feed.connected {
        return feed.last_error.map(|problem| format!("the feed is not connected: {}", problem.text));
    }
    let silent_ms = u64::try_from(now_ms.saturating_sub(feed.last_heard_at_ms?)).unwrap_or(0);
    let silent = Duration::from_millis(silent_ms);
    (silent >= FEED_SILENT_AFTER).then(|| {
        format!(
            "the feed is connected, but nothing has come for {} s: the market may be closed, or the feed stuck",
            silent.as_secs()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use tocsin_engine::domain::{Digest, RuleName, Tenant, Version};

    use super::*;
    use crate::ingest::FeedKind;
    use crate::store::{PromotionId, WaitingFor};

    #[tokio::test]
    async fn a_feed_that_is_silent_or_sends_garbage_is_told_of_and_readiness_stays() {
        let (feed, now_ms) = (Arc::new(FeedStatus::new(FeedKind::Finnhub)), Arc::new(AtomicI64::new(1_000_000)));
        let clock = now_ms.clone();
        let health = Health::new(About::default(), Arc::new(move || clock.load(Relaxed)));
        health.watch_feed(feed.clone());
        health.begun();
        let problems = async || {
            let report = health.report().await;
            assert!(report.ready);
            report.problems.join("; ")
        };
        assert_eq!(problems().await, "", "it has not begun");
        feed.set_connected(1_000_000);
        now_ms.store(1_029_999, Relaxed);
        assert_eq!(problems().await, "");
        now_ms.store(1_030_000, Relaxed);
        assert!(problems().await.contains("nothing has come for 30 s"), "{}", problems().await);
        feed.count_frame(1_030_000);
        feed.count_rejected(RejectReason::NotJson);
        assert_eq!(problems().await, "", "the next frame clears it");
        assert_eq!(health.report().await.feed_rejected, [(RejectReason::NotJson, 1)]);
        feed.set_refusal(Some("too many symbols".into()));
        assert_eq!(problems().await, "too many symbols");
        feed.set_refusal(None);
        assert_eq!(problems().await, "");
        now_ms.store(0, Relaxed);
        assert_eq!(problems().await, "", "a clock that was set back is no silence");
    }

    #[test]
    fn a_promotion_that_waits_is_reported_with_what_it_waits_for_and_what_to_do() {
        let rule = RuleRef {
            name: RuleName::parse("steps").unwrap(),
            version: Version::new(2, 0, 0),
            digest: Digest::of(b"steps"),
        };
        let waiting = |partition, bindings, halted: Option<&str>| WaitingFor {
            partition,
            bindings,
            halted: halted.map(str::to_owned),
        };
        let promotion = |waiting_for| UnfinishedPromotion {
            id: PromotionId(1),
            tenant: Tenant::standard(),
            to: rule.clone(),
            age_ms: 12_345,
            held: 40,
            waiting_for,
        };
        let cancel = "`tocsin rule cancel-promotion steps 2.0.0` takes it back";
        for (waiting_for, expect) in [
            (
                vec![waiting(3, 2, None), waiting(5, 1, Some("gone"))],
                "3 bindings on partitions 3, 5 (halted: gone) are not",
            ),
            (Vec::new(), "it makes the new states, and 40 bindings are held"),
        ] {
            let problem = promotion_problem(&promotion(waiting_for));
            assert!(problem.starts_with("the promotion of steps to 2.0.0 has taken 12 s: "), "{problem}");
            assert!(problem.contains(expect) && problem.ends_with(cancel), "{problem}");
        }
    }

    #[tokio::test]
    async fn a_process_is_ready_while_it_runs_and_its_parts_tell_of_themselves() {
        let health = Health::new(About { roles: vec!["ingest"], ..About::default() }, Arc::new(|| 0));
        let (ingest, deliver) = (health.part("ingest"), health.part("deliver"));
        assert!(!health.report().await.ready);
        health.begun();
        deliver.tell("firings wait");
        ingest.stand_by("for b, which holds the feed".into());
        let report = health.report().await;
        assert!(report.ready && report.roles == ["ingest"], "{report:?}");
        assert_eq!(report.problems, ["firings wait"]);
        assert_eq!(report.standby.as_deref(), Some("ingest for b, which holds the feed"));
        deliver.clear();
        assert!(health.report().await.standby.is_some(), "another part's");
        ingest.clear();
        let report = health.report().await;
        assert!(report.problems.is_empty() && report.standby.is_none(), "{report:?}");
        health.draining();
        assert!(!health.report().await.ready);
    }
}
