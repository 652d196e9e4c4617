//! Logs rates and counters every ten seconds.

use std::sync::Arc;
use std::time::Duration;

use tocsin_bus::Bus;
use tokio::time::{MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::figures::Figures;
use crate::evaluator::EvaluatorStats;

const INTERVAL: Duration = Duration::from_secs(10);

pub(super) async fn run(
    stats: Arc<EvaluatorStats>,
    figures: Figures,
    bus: Bus,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut timer = interval_at(tokio::time::Instant::now() + INTERVAL, INTERVAL);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = stats.snapshot();
    while stop.run_until_cancelled(timer.tick()).await.is_some() {
        let now = stats.snapshot();
        let rate = |now: u64, before: u64| (now - before) as f64 / INTERVAL.as_secs_f64();
        info!(
            ticks_per_s = rate(now.ticks, before.ticks),
            evaluations_per_s = rate(now.evaluations, before.evaluations),
            bindings = now.bindings,
            firings = now.firings,
            faults = now.faults,
            quarantined = now.quarantined,
            recovered = now.recovered,
            impurities = now.impurities,
            feed_rejected = figures.feed_rejected(),
            log_mib = bus.stats().ok().and_then(|stats| stats.retained_bytes).map(|bytes| bytes >> 20),
            "summary"
        );
        before = now;
    }
    Ok(())
}
