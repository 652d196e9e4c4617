//! What this process says of itself when asked whether it is well.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tocsin_engine::domain::RuleRef;

use crate::bus::Clock;
use crate::evaluator::{EvaluatorStats, Strays};
use crate::ingest::{FeedSnapshot, FeedStatus, RejectReason};
use crate::prices::Prices;
use crate::store::Store;

/// How long the store may take to answer before it counts as away.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

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
    store: Store,
    prices: Prices,
    feed: Option<Arc<FeedStatus>>,
    evaluating: AtomicBool,
    clock: Clock,
    evaluation: Option<Arc<EvaluatorStats>>,
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
    /// Frames and trades of the feed that gave no tick since the start, by reason; reasons that were not met are left out.
    pub feed_rejected: Vec<(RejectReason, u64)>,
    /// What is wrong, for people.
    pub problems: Vec<String>,
}

impl Health {
    /// The health of a process with these backends.
    pub fn new(
        store: Store,
        prices: Prices,
        feed: Option<Arc<FeedStatus>>,
        clock: Clock,
        evaluation: Option<Arc<EvaluatorStats>>,
    ) -> Self {
        Self(Arc::new(Inner { store, prices, feed, evaluating: AtomicBool::new(true), clock, evaluation }))
    }

    /// Whether ticks wait longer than they should.
    fn lateness(&self) -> Option<String> {
        let oldest_ms = self.0.evaluation.as_ref()?.oldest_waiting_ms()?;
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
        let partitions = self.0.evaluation.as_ref().map(|stats| stats.partitions()).unwrap_or_default();
        let halted = partitions.into_iter().filter_map(|(partition, state)| Some((partition, state.halted?)));
        halted.map(|(partition, why)| format!("partition {partition} is not evaluated: {why}")).collect()
    }

    /// Symbols with ticks that nobody judges.
    fn strays(&self) -> Vec<String> {
        let strays = self.0.evaluation.as_ref().map(|stats| stats.strays()).unwrap_or_default();
        let tell = |(symbol, Strays { home, partition, ticks })| {
            format!(
                "{symbol} is at home on partition {home}, and {ticks} of its ticks turned up elsewhere, the last on \
                 partition {partition}: they are not judged; see Symbols on two partitions in docs/operations.md"
            )
        };
        strays.into_iter().map(tell).collect()
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
        problems.extend(self.halted_partitions());
        let ready = problems.is_empty();
        problems.extend(impure);
        // Alerts fire without them.
        problems.extend(self.0.prices.problems().await);
        problems.extend(self.lateness());
        problems.extend(self.strays());
        let Some(status) = &self.0.feed else {
            return HealthReport { ready, feed: "none", feed_connected: false, feed_rejected: Vec::new(), problems };
        };
        let feed = status.snapshot();
        let (kind, feed_connected) = (feed.kind.label(), feed.connected);
        let feed_rejected = feed.rejections().collect();
        problems.extend(feed_problem(feed, (self.0.clock)()));
        HealthReport { ready, feed: kind, feed_connected, feed_rejected, problems }
    }
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
    use crate::prices::testing::{Home, Member};

    #[tokio::test]
    async fn a_feed_that_is_silent_or_sends_garbage_is_told_of_and_readiness_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(dir.path()).await.unwrap();
        let prices = Home::make(Member::Embedded).prices;
        let (feed, now_ms) = (Arc::new(FeedStatus::new(FeedKind::Finnhub)), Arc::new(AtomicI64::new(1_000_000)));
        let clock = now_ms.clone();
        let health = Health::new(store, prices, Some(feed.clone()), Arc::new(move || clock.load(Relaxed)), None);
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
        now_ms.store(0, Relaxed);
        assert_eq!(problems().await, "", "a clock that was set back is no silence");
    }
}
