//! From the feed to the bus: what waits is published together, and tried again while the bus is away.

use std::collections::HashSet;
use std::time::Duration;

use tocsin_engine::domain::Tick;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::bus::{Bus, BusError};
use crate::failpoint;
use crate::health::Part;

/// Ticks published together at most.
const MAX_BATCH: usize = 8192;

/// Ticks that wait for so long are told of: brokers that are away fail nothing at first.
const TELL_AFTER: Duration = Duration::from_secs(3);

/// The first wait after a failure is up to so long.
const BASE: Duration = Duration::from_millis(100);

/// And none is longer.
const CAP: Duration = Duration::from_secs(5);

pub(super) async fn run(mut ticks: mpsc::Receiver<Vec<Tick>>, bus: &Bus, part: &Part) -> anyhow::Result<()> {
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
        publish(&batch, bus, part).await?;
    }
    Ok(())
}

async fn publish(batch: &[Tick], bus: &Bus, part: &Part) -> Result<(), BusError> {
    let mut backoff = Backoff::new(BASE, CAP);
    let mut told = false;
    let mut tell = |problem: String| {
        if !std::mem::replace(&mut told, true) {
            warn!("{problem}");
        }
        part.tell(problem);
    };
    loop {
        let publishing = bus.publish(batch.to_vec());
        let mut publishing = std::pin::pin!(publishing);
        let published = tokio::select! {
            published = &mut publishing => published,
            () = sleep(TELL_AFTER) => {
                tell(format!("ticks wait for the bus, which has not taken them for {} s", TELL_AFTER.as_secs()));
                publishing.await
            }
        };
        match published {
            Ok(()) => {
                failpoint::pass("after-publish");
                break;
            }
            Err(error) if error.is_transient() => tell(format!("ticks wait for the bus: {error}")),
            Err(error) => return Err(error),
        }
        sleep(backoff.next(rand::random())).await;
    }
    if told {
        info!("the bus takes ticks again");
        part.clear();
    }
    Ok(())
}
