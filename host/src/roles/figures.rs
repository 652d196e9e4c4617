//! The figures that roles add to `/health` and to the log, from the counters that they keep.

use std::sync::{Arc, OnceLock};

use crate::api::{AlertFigures, EvaluationFigures, FeedFigures, RoleFigures};
use crate::evaluator::EvaluatorStats;
use crate::ingest::FeedStatus;

/// Rules and alerts that are reported: those that cost the most.
const MAX_RULES: usize = 10;
const MAX_ALERTS: usize = 10;

/// The counters of the roles that have started. Cloning is cheap.
#[derive(Clone, Default)]
pub(super) struct Figures(Arc<Counters>);

#[derive(Default)]
struct Counters {
    evaluation: OnceLock<Arc<EvaluatorStats>>,
    feed: OnceLock<Arc<FeedStatus>>,
}

impl Figures {
    pub(super) fn add_evaluation(&self, stats: Arc<EvaluatorStats>) {
        let _ = self.0.evaluation.set(stats);
    }

    pub(super) fn add_feed(&self, status: Arc<FeedStatus>) {
        let _ = self.0.feed.set(status);
    }

    /// Returns how many frames and trades of the feed gave no tick, since the start.
    pub(super) fn feed_rejected(&self) -> u64 {
        self.0.feed.get().map_or(0, |status| status.snapshot().rejected_total())
    }

    pub(super) fn read(&self) -> RoleFigures {
        RoleFigures {
            evaluation: self.0.evaluation.get().map(|stats| evaluation(stats)),
            feed: self.0.feed.get().map(|status| feed(status)),
        }
    }
}

fn evaluation(stats: &EvaluatorStats) -> EvaluationFigures {
    let mut rules = stats.rule_usage();
    rules.truncate(MAX_RULES);
    let alerts = stats.active_alerts(MAX_ALERTS).into_iter().map(|(alert, activity)| AlertFigures {
        alert,
        firings: activity.firings,
        suppressed: activity.suppressed,
        faults: activity.faults,
    });
    EvaluationFigures { partitions: stats.partitions().into_keys().collect(), rules, alerts: alerts.collect() }
}

fn feed(status: &FeedStatus) -> FeedFigures {
    let feed = status.snapshot();
    FeedFigures {
        kind: feed.kind.label(),
        connected: feed.connected,
        rejected: feed.rejections().map(|(reason, count)| (reason.label(), count)).collect(),
    }
}
