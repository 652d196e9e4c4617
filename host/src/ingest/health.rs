//! The feed's probe: whether ticks come in. The process stays ready when they do not: no other process would have them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tocsin_bus::Clock;
use tocsin_health::{Health, Probe, Problems};

use super::{FeedSnapshot, FeedStatus};

/// A connected feed that sends no frame for so long is reported. Finnhub's own pings come once a minute, so at night this
/// comes and goes; in trading hours a feed of several symbols is never this quiet.
const FEED_SILENT_AFTER: Duration = Duration::from_secs(30);

struct FeedProbe {
    status: Arc<FeedStatus>,
    clock: Clock,
}

/// Registers the probe `feed`.
pub fn register(health: &Health, status: Arc<FeedStatus>, clock: Clock) {
    health.register("feed", FeedProbe { status, clock });
}

impl Probe for FeedProbe {
    fn check(&self) -> BoxFuture<'_, Problems> {
        let feed = self.status.snapshot();
        let refusal = feed.refusal.clone();
        let problems = refusal.into_iter().chain(connection_problem(feed, (self.clock)()));
        Box::pin(std::future::ready(Problems::tolerable(problems)))
    }
}

fn connection_problem(feed: FeedSnapshot, now_ms: i64) -> Option<String> {
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
    use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

    use super::*;
    use crate::ingest::{FeedKind, RejectReason};
    use tocsin_health::About;

    #[tokio::test]
    async fn a_feed_that_is_silent_or_refuses_symbols_is_a_problem_and_readiness_stays() {
        let (feed, now_ms) = (Arc::new(FeedStatus::new(FeedKind::Finnhub)), Arc::new(AtomicI64::new(1_000_000)));
        let clock = now_ms.clone();
        let health = Health::new(About::default(), &[]);
        register(&health, feed.clone(), Arc::new(move || clock.load(Relaxed)));
        health.set_running();
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
        feed.set_refusal(Some("too many symbols".into()));
        assert_eq!(problems().await, "too many symbols");
        feed.set_refusal(None);
        assert_eq!(problems().await, "");
        now_ms.store(0, Relaxed);
        assert_eq!(problems().await, "", "a clock that was set back is no silence");
    }
}
