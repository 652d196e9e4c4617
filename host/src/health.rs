//! What this process says of itself when asked whether it is well: from its start, before anything is open, to its end.

mod looks;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tocsin_engine::domain::RuleRef;

use self::looks::{ANSWER_TIMEOUT, Looks};
use crate::bus::Clock;
use crate::connections::{ConnectionCounts, Connections};
use crate::disk;
use crate::evaluator::{EvaluatorStats, Strays};
use crate::ingest::{FeedSnapshot, FeedStatus, RejectReason};
use crate::prices::Prices;
use crate::store::Store;

/// How long a tick may wait to be judged before that is told.
const MAX_WAIT_MS: i64 = 5_000;

/// A connected feed that sends no frame for so long is told of. Finnhub's own pings come once a minute, so at night this
/// comes and goes; in trading hours a feed of several symbols is never this quiet.
const FEED_SILENT_AFTER: Duration = Duration::from_secs(30);

/// Impure rules that are told by name.
const MAX_IMPURE_RULES_TOLD: u32 = 5;

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
#[derive(Clone)]
struct StoreSeen {
    /// Why it does not answer.
    problem: Option<String>,
    impure_rules: Vec<String>,
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
    /// Connections and streams; None before the ports are open.
    pub connections: Option<ConnectionCounts>,
    /// What is wrong, for people.
    pub problems: Vec<String>,
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
            format!(
                "evaluation is {} s behind: alerts fire late until it has caught up; if it does not, see Falling behind \
                 in docs/operations.md",
                late_ms / 1000
            )
        })
    }

    /// Partitions that are judged no more until somebody acts.
    fn halted_partitions(&self) -> Vec<String> {
        let partitions = self.0.evaluation.get().map(|stats| stats.partitions()).unwrap_or_default();
        let halted = partitions.into_iter().filter_map(|(partition, state)| Some((partition, state.halted?)));
        halted.map(|(partition, why)| format!("partition {partition} is not evaluated: {why}")).collect()
    }

    /// Symbols with ticks that nobody judges.
    fn strays(&self) -> Vec<String> {
        let strays = self.0.evaluation.get().map(|stats| stats.strays()).unwrap_or_default();
        let tell = |(symbol, Strays { home, partition, ticks })| {
            format!(
                "{symbol} is at home on partition {home}, and {ticks} of its ticks turned up elsewhere, the last on \
                 partition {partition}: they are not judged; see Symbols on two partitions in docs/operations.md"
            )
        };
        strays.into_iter().map(tell).collect()
    }

    /// How the feed is, if this process has one.
    pub fn feed(&self) -> Option<FeedSnapshot> {
        self.0.feed.get().map(|status| status.snapshot())
    }

    /// Whether the store does not answer, and what it says.
    async fn store_seen(&self) -> StoreSeen {
        let Some(store) = self.0.store.get().cloned() else {
            return StoreSeen { problem: None, impure_rules: Vec::new() };
        };
        let looking = async move {
            let problem = store.ping().await.err().map(|error| error.to_string());
            // A store that is away is reported already.
            let impure = store.impure_rules_in_use(MAX_IMPURE_RULES_TOLD).await.unwrap_or_default();
            StoreSeen { problem, impure_rules: impure.into_iter().map(impure_rule).collect() }
        };
        let mut seen = self.0.store_looks.look(looking).await.unwrap_or_else(|| StoreSeen {
            problem: Some(format!("the store does not answer within {} s", ANSWER_TIMEOUT.as_secs())),
            impure_rules: Vec::new(),
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
        problems.extend(store.impure_rules);
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

    use super::*;
    use crate::ingest::FeedKind;

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
