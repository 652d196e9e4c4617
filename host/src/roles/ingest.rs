//! The ingest role. Where several processes share a bus, one at a time takes ticks from a feed: the others stand by.

use std::sync::Arc;

use tocsin_bus::{Bus, system_clock};
use tocsin_health::Component;
use tocsin_store::Lease;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Process, owner, publish};
use crate::ingest::{self, Feed, FeedStatus};
use crate::lease;

/// Frames' worth of ticks that may wait to be published; then the feed's reader waits.
const INGEST_QUEUE: usize = 256;

/// Starts to take ticks from the feed, if there is one.
pub(super) async fn start(process: &mut Process<'_>) -> anyhow::Result<()> {
    let Process { settings, backends, status: process_status, figures, tasks, .. } = process;
    let (health, Some(feed)) = (&process_status.health, settings.feed.clone()) else { return Ok(()) };
    let status = Arc::new(FeedStatus::new(feed.kind()));
    ingest::health::register(health, status.clone(), system_clock());
    figures.add_feed(status.clone());
    let (bus, publisher, stop) = (backends.bus().await?, health.component("publish"), tasks.intake.stop.clone());
    let bus_is_shared = settings.kafka.is_some();
    if !bus_is_shared {
        tasks.intake.spawn(take(feed, status, bus, publisher, stop));
        return Ok(());
    }
    let (store, component) = (backends.store().await?, health.component("ingest"));
    let lock = Lease { name: feed.lock_name(), owner: owner::name(), duration: lease::LEASE };
    tasks.intake.spawn(async move {
        let work = |ended| take(feed.clone(), status.clone(), bus.clone(), publisher.clone(), ended);
        lease::while_held(&store, &lock, &component, &stop, work).await
    });
    Ok(())
}

/// Takes ticks from the feed until it is stopped, and publishes all that it gave.
async fn take(
    feed: Feed,
    status: Arc<FeedStatus>,
    bus: Bus,
    publisher: Component,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (sink, ticks) = mpsc::channel(INGEST_QUEUE);
    let taking = ingest::run(feed, sink, status, stop);
    let ((), published) = tokio::join!(taking, publish::run(ticks, &bus, &publisher));
    published
}
