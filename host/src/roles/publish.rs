//! From the feed to the bus: what waits is published together, and tried again while the bus is away.

use std::collections::HashSet;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use tocsin_engine::domain::Tick;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::bus::{Bus, BusError};

/// Ticks published together at most.
const MAX_BATCH: usize = 8192;

pub(super) async fn run(mut ticks: mpsc::Receiver<Vec<Tick>>, bus: Bus) -> anyhow::Result<()> {
    let mut seen = HashSet::new();
    while let Some(mut batch) = ticks.recv().await {
        while batch.len() < MAX_BATCH
            && let Ok(more) = ticks.try_recv()
        {
            batch.extend(more);
        }
        for tick in &batch {
            if !seen.contains(&tick.symbol) {
                info!(symbol = %tick.symbol, price = tick.price, "first tick");
                seen.insert(tick.symbol.clone());
            }
        }
        let backoff =
            ExponentialBuilder::new().with_jitter().with_max_delay(Duration::from_secs(5)).without_max_times();
        (|| bus.publish(batch.clone()))
            .retry(backoff)
            .when(|error| !matches!(error, BusError::Stopped))
            .notify(|error, wait| warn!(%error, ?wait, "ticks wait for the bus"))
            .await?;
    }
    Ok(())
}
