//! The project role. It goes on where it stopped once brokers that were away are back.

use anyhow::Context;
use tocsin_base::retry::RetryPolicy;
use tocsin_bus::Bus;
use tocsin_health::Component;
use tocsin_prices::{Prices, ProjectError};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::Process;

pub(super) async fn start(process: &mut Process<'_>) -> anyhow::Result<()> {
    let (bus, prices) = (process.backends.bus().await?, process.backends.prices().await?);
    let health = &process.status.health;
    let (component, gaps) = (health.component("project"), health.component("candles"));
    let readers = &mut process.tasks.readers;
    let stop = readers.stop.clone();
    readers.spawn(async move { project(bus, prices, component, gaps, stop).await.context("projecting prices") });
    Ok(())
}

/// Projects until it is stopped. Gaps in the candles stay in `/health` for as long as the process runs: they are not filled.
async fn project(
    bus: Bus,
    prices: Prices,
    component: Component,
    gaps: Component,
    stop: CancellationToken,
) -> Result<(), ProjectError> {
    let mut waits = RetryPolicy::PROJECTOR.waits();
    loop {
        let gaps = gaps.clone();
        match tocsin_prices::project(bus.clone(), prices.clone(), stop.clone(), move |gap| gaps.report(gap)).await {
            Err(error) if matches!(&error, ProjectError::Bus(bus) if bus.is_transient()) && !stop.is_cancelled() => {
                let wait = waits.next(rand::random());
                warn!(retry_in_ms = wait.as_millis() as u64, "{error}");
                component.report(error.to_string());
                stop.run_until_cancelled(tokio::time::sleep(wait)).await;
                component.clear();
            }
            // Alerts fire without prices, and an operator has to decide: the process lives on.
            Err(error @ ProjectError::LogMadeAnew { .. }) => {
                error!("{error}");
                component.report(error.to_string());
                stop.cancelled().await;
                return Ok(());
            }
            ended => return ended,
        }
    }
}
