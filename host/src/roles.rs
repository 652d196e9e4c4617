//! Wires a process: the only place where a backend is chosen, and where it is decided what starts before what.
//!
//! Ticks flow ingest -> bus -> evaluate -> store -> deliver, and beside it bus -> project -> prices. They stop in that order:
//! nothing upstream runs longer than what takes from it. A process has all of these roles or some; what other processes do is
//! reached through the backends. `/health` and `/ready` are served from the first moment to the last.

mod announce;
mod api;
mod backends;
mod capacity;
mod deliver;
mod door;
mod evaluate;
mod ingest;
mod owner;
mod project;
mod publish;
mod retry;
mod stages;
mod summary;

use tokio_util::sync::CancellationToken;
use tracing::info;

use self::backends::Backends;
use self::door::Door;
use self::stages::Stages;
use crate::bus::system_clock;
use crate::config::{Role, Settings, StoreChoice};
use crate::connections::Connections;
use crate::health::Health;

pub use self::backends::migrate;

/// Runs the roles of this process until `stop` is cancelled, then stops cleanly.
pub async fn serve(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    let health = Health::new(announce::about(&settings), system_clock());
    let connections = capacity::connections(&settings)?;
    health.watch_connections(connections.clone());
    let door = Door::open(&settings, health.clone(), &connections, &stop).await?;
    let backends = Backends::new(&settings, &health);
    if settings.kafka.is_none() || matches!(settings.store, StoreChoice::Sqlite) {
        health.watch_disk(&settings.data_dir, settings.log.min_free_bytes);
    }
    let mut stages = Stages::new(stop.clone());

    let starting = Box::pin(start(&settings, &backends, &health, &connections, &door, &mut stages));
    let started = stop.run_until_cancelled(starting).await;
    let ended = match started {
        Some(Ok(())) => {
            health.begun();
            announce::ready(&settings, &door);
            stages.until_stopped().await
        }
        Some(Err(error)) => Err(error),
        None => Ok(()),
    };
    health.draining();
    let ended = ended.and(stages.drain().await);
    backends.close().await;
    door.close().await;
    info!("stopped");
    ended
}

/// Starts the roles, those first that take from others. Waits for backends that are away.
async fn start(
    settings: &Settings,
    backends: &Backends<'_>,
    health: &Health,
    connections: &Connections,
    door: &Door,
    stages: &mut Stages,
) -> anyhow::Result<()> {
    let roles = &settings.roles;
    if let (true, Some(kafka)) = (roles.has(Role::Deliver), &settings.kafka) {
        deliver::start(&kafka.firings, backends.store().await?, health, stages);
    }
    if roles.has(Role::Project) {
        project::start(backends.bus().await?, backends.prices().await?, health, stages);
    }
    if roles.has(Role::Evaluate) {
        evaluate::start(settings, backends, health, stages).await?;
    }
    if roles.has(Role::Api) {
        api::start(settings, backends, health, connections, door, stages).await?;
    }
    if let (true, Some(feed)) = (roles.has(Role::Ingest), settings.feed.clone()) {
        ingest::start(feed, settings.kafka.is_some(), backends, health, stages).await?;
    }
    Ok(())
}
