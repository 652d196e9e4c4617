//! What this process says of itself when asked whether it is well.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tocsin_engine::domain::RuleRef;

use crate::bus::Clock;
use crate::evaluator::EvaluatorStats;
use crate::ingest::FeedStatus;
use crate::store::Store;

/// How long the store may take to answer before it counts as away.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a tick may wait to be judged before that is told.
const MAX_WAIT_MS: i64 = 5_000;

/// Impure rules that are told by name.
const MAX_IMPURE_RULES_TOLD: u32 = 5;

/// Answers for the health of a process. Cloning is cheap.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    store: Store,
    feed: Option<Arc<FeedStatus>>,
    evaluating: AtomicBool,
    evaluation: Option<(Arc<EvaluatorStats>, Clock)>,
}

/// How a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthReport {
    /// Whether it can do its work.
    pub ready: bool,
    /// Where ticks come from: `finnhub`, `binance`, `simulated` or `none`.
    pub feed: &'static str,
    /// Whether the feed is connected. A feed that is not makes a process no less ready: it reconnects.
    pub feed_connected: bool,
    /// What is wrong, for people.
    pub problems: Vec<String>,
}

impl Health {
    /// The health of a process with this store and feed.
    pub fn new(store: Store, feed: Option<Arc<FeedStatus>>, evaluation: Option<(Arc<EvaluatorStats>, Clock)>) -> Self {
        Self(Arc::new(Inner { store, feed, evaluating: AtomicBool::new(true), evaluation }))
    }

    /// Whether ticks wait longer than they should.
    fn lateness(&self) -> Option<String> {
        let (stats, clock) = self.0.evaluation.as_ref()?;
        let late_ms = clock().saturating_sub(stats.oldest_waiting_ms()?);
        (late_ms > MAX_WAIT_MS).then(|| {
            format!(
                "evaluation is {} s behind: alerts fire late until it has caught up; if it does not, see Falling behind \
                 in docs/operations.md",
                late_ms / 1000
            )
        })
    }

    /// Says that evaluation has stopped.
    pub fn evaluation_stopped(&self) {
        self.0.evaluating.store(false, Relaxed);
    }

    /// Impure rules with alerts that wait for somebody to act. A store that is away is told already.
    async fn impure_rules(&self) -> Vec<String> {
        let asked = self.0.store.impure_rules_in_use(MAX_IMPURE_RULES_TOLD);
        let Ok(Ok(rules)) = tokio::time::timeout(STORE_TIMEOUT, asked).await else { return Vec::new() };
        let tell = |(rule, live): (RuleRef, u64)| {
            format!(
                "the rule {} {} is impure and is judged no more: {live} bindings wait; create their alerts anew \
                 on a version without this fault, and delete these",
                rule.name, rule.version
            )
        };
        rules.into_iter().map(tell).collect()
    }

    /// Looks after everything.
    pub async fn report(&self) -> HealthReport {
        let mut problems = Vec::new();
        match tokio::time::timeout(STORE_TIMEOUT, self.0.store.ping()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => problems.push(error.to_string()),
            Err(_) => problems.push(format!("the store does not answer within {} s", STORE_TIMEOUT.as_secs())),
        }
        // They make the process no less ready: every other rule is judged.
        let impure = self.impure_rules().await;
        if !self.0.evaluating.load(Relaxed) {
            problems.push("evaluation has stopped".into());
        }
        let ready = problems.is_empty();
        problems.extend(impure);
        problems.extend(self.lateness());
        let Some(status) = &self.0.feed else {
            return HealthReport { ready, feed: "none", feed_connected: false, problems };
        };
        let feed = status.snapshot();
        if let Some(problem) = feed.last_error.filter(|_| !feed.connected) {
            problems.push(format!("the feed is not connected: {}", problem.text));
        }
        HealthReport { ready, feed: feed.kind.label(), feed_connected: feed.connected, problems }
    }
}
