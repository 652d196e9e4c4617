//! The project role: goes on where it has got to when brokers that were away are back.

use std::time::Duration;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::stages::Stages;
use crate::backoff::Backoff;
use crate::bus::Bus;
use crate::health::{Health, Part};
use crate::prices::{self, Prices, ProjectError};

/// The first wait before another try is up to so long.
const BASE: Duration = Duration::from_millis(500);

/// And none is longer.
const CAP: Duration = Duration::from_secs(10);

pub(super) fn start(bus: Bus, prices: Prices, health: &Health, stages: &mut Stages) {
    let (part, gaps, stop) = (health.part("project"), health.part("candles"), stages.readers.stop.clone());
    stages.readers.spawn(async move { project(bus, prices, part, gaps, stop).await.context("projecting prices") });
}

/// Gaps are told for as long as the process runs: nobody can fill them.
async fn project(
    bus: Bus,
    prices: Prices,
    part: Part,
    gaps: Part,
    stop: CancellationToken,
) -> Result<(), ProjectError> {
    let mut backoff = Backoff::new(BASE, CAP);
    loop {
        let gaps = gaps.clone();
        match prices::project(bus.clone(), prices.clone(), stop.clone(), move |gap| gaps.tell(gap)).await {
            Err(error) if matches!(&error, ProjectError::Bus(bus) if bus.is_transient()) && !stop.is_cancelled() => {
                let wait = backoff.next(rand::random());
                warn!(retry_in_ms = wait.as_millis() as u64, "{error}");
                part.tell(error.to_string());
                stop.run_until_cancelled(tokio::time::sleep(wait)).await;
                part.clear();
            }
            // Alerts fire without prices, and an operator has to decide: the process lives on.
            Err(error @ ProjectError::LogMadeAnew { .. }) => {
                error!("{error}");
                part.tell(error.to_string());
                stop.cancelled().await;
                return Ok(());
            }
            ended => return ended,
        }
    }
}
