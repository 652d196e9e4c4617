//! Publishes the feed's ticks to the bus: those that wait go together, and are retried while the bus is away.

use std::collections::HashSet;
use std::time::Duration;

use tocsin_base::failpoint;
use tocsin_base::retry::RetryPolicy;
use tocsin_bus::{Bus, BusError};
use tocsin_engine::domain::Tick;
use tocsin_health::Component;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{info, warn};

/// The most ticks that are published together.
const MAX_BATCH: usize = 8192;

/// Ticks that wait for so long are reported: brokers that are away fail nothing at first.
const REPORT_AFTER: Duration = Duration::from_secs(3);

pub(super) async fn run(mut ticks: mpsc::Receiver<Vec<Tick>>, bus: &Bus, component: &Component) -> anyhow::Result<()> {
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
        publish(&batch, bus, component).await?;
    }
    Ok(())
}

async fn publish(batch: &[Tick], bus: &Bus, component: &Component) -> Result<(), BusError> {
    let mut waits = RetryPolicy::PUBLISH.waits();
    let mut reported = false;
    let mut report = |problem: String| {
        if !std::mem::replace(&mut reported, true) {
            warn!("{problem}");
        }
        component.report(problem);
    };
    loop {
        let publishing = bus.publish(batch.to_vec());
        let mut publishing = std::pin::pin!(publishing);
        let published = tokio::select! {
            published = &mut publishing => published,
            () = sleep(REPORT_AFTER) => {
                report(format!("ticks wait for the bus, which has not taken them for {} s", REPORT_AFTER.as_secs()));
                publishing.await
            }
        };
        match published {
            Ok(()) => {
                failpoint::pass("after-publish");
                break;
            }
            Err(error) if error.is_transient() => report(format!("ticks wait for the bus: {error}")),
            Err(error) => return Err(error),
        }
        sleep(waits.next(rand::random())).await;
    }
    if reported {
        info!("the bus takes ticks again");
        component.clear();
    }
    Ok(())
}
