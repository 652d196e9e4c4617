//! The ingest role. Where several processes share a bus, one at a time takes ticks from a feed: the others stand by.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::backends::Backends;
use super::stages::Stages;
use super::{owner, publish};
use crate::bus::Bus;
use crate::health::{Health, Part};
use crate::ingest::{self, Feed, FeedStatus};
use crate::lease;
use crate::store::Lease;

/// Frames' worth of ticks that may wait to be published; then the feed's reader waits.
const INGEST_QUEUE: usize = 256;

/// Starts to take ticks; `shared` says that other processes may do so for the same bus.
pub(super) async fn start(
    feed: Feed,
    shared: bool,
    backends: &Backends<'_>,
    health: &Health,
    stages: &mut Stages,
) -> anyhow::Result<()> {
    let status = Arc::new(FeedStatus::new(feed.kind()));
    health.watch_feed(status.clone());
    let (bus, publishing, stop) = (backends.bus().await?, health.part("publish"), stages.front.stop.clone());
    if !shared {
        stages.front.spawn(take(feed, status, bus, publishing, stop));
        return Ok(());
    }
    let (store, standing) = (backends.store().await?, health.part("ingest"));
    let lock = Lease { name: feed.lock_name(), owner: owner::name(), duration: lease::LEASE };
    stages.front.spawn(async move {
        let work = |ended| take(feed.clone(), status.clone(), bus.clone(), publishing.clone(), ended);
        lease::while_held(&store, &lock, &standing, &stop, work).await
    });
    Ok(())
}

/// Takes ticks from the feed until it is stopped, and publishes all that it gave.
async fn take(
    feed: Feed,
    status: Arc<FeedStatus>,
    bus: Bus,
    part: Part,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (sink, ticks) = mpsc::channel(INGEST_QUEUE);
    let taking = ingest::run(feed, sink, status, stop);
    let ((), published) = tokio::join!(taking, publish::run(ticks, &bus, &part));
    published
}
