//! Wires a process: the only place where a backend is chosen, and where it is decided what starts before what.
//!
//! Ticks flow ingest -> bus -> evaluate -> store -> deliver, and beside it bus -> project -> prices. Roles stop in that order:
//! none runs longer than the one that takes from it. A process runs all roles or some; it reaches the work of other processes
//! through the backends. `/health` and `/ready` are served from the first moment to the last.

mod announce;
mod api;
mod backends;
mod capacity;
mod deliver;
mod evaluate;
mod figures;
mod ingest;
mod listeners;
mod owner;
mod project;
mod publish;
mod retry;
mod shutdown;
mod summary;

use std::sync::Arc;

use tocsin_health::Health;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::backends::Backends;
use self::figures::Figures;
use self::listeners::Listeners;
use self::shutdown::Tasks;
use crate::api::ProcessStatus;
use crate::config::{Role, Settings, StoreChoice};
use crate::connections;

pub use self::backends::migrate;

/// The probes of `/health`, in the order in which their problems are listed.
const PROBES: [&str; 7] = ["store", "disk", "evaluate", "prices", "connections", "ticks", "feed"];

/// What roles are started with.
struct Process<'a> {
    settings: &'a Settings,
    backends: Backends<'a>,
    status: ProcessStatus,
    figures: Figures,
    listeners: Listeners,
    tasks: Tasks,
}

/// Runs the roles of this process until `stop` is cancelled, then stops them in order.
pub async fn serve(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    let health = Health::new(announce::about(&settings), &PROBES);
    let (connections, figures) = (capacity::connections(&settings)?, Figures::default());
    connections::health::register(&health, connections.clone());
    if settings.kafka.is_none() || matches!(settings.store, StoreChoice::Sqlite) {
        tocsin_bus::disk::register(&health, &settings.data_dir, settings.log.min_free_bytes);
    }
    let of_roles = figures.clone();
    let status = ProcessStatus { health: health.clone(), connections, figures: Arc::new(move || of_roles.read()) };
    let listeners = Listeners::open(&settings, status.clone(), &stop).await?;
    let backends = Backends::new(&settings, &health);
    let tasks = Tasks::new(stop.clone());
    let mut process = Process { settings: &settings, backends, status, figures, listeners, tasks };

    let started = stop.run_until_cancelled(Box::pin(start(&mut process))).await;
    let ended = match started {
        Some(Ok(())) => {
            health.set_running();
            announce::ready(&settings, &process.listeners);
            process.tasks.until_stopped().await
        }
        Some(Err(error)) => Err(error),
        None => Ok(()),
    };
    health.set_draining();
    let Process { backends, listeners, mut tasks, .. } = process;
    let ended = ended.and(tasks.drain().await);
    backends.close().await;
    listeners.close().await;
    info!("stopped");
    ended
}

/// Starts the roles, each before those that it takes from. Waits for backends that are away.
async fn start(process: &mut Process<'_>) -> anyhow::Result<()> {
    let roles = &process.settings.roles;
    if roles.has(Role::Deliver) {
        deliver::start(process).await?;
    }
    if roles.has(Role::Project) {
        project::start(process).await?;
    }
    if roles.has(Role::Evaluate) {
        evaluate::start(process).await?;
    }
    if roles.has(Role::Api) {
        api::start(process).await?;
    }
    if roles.has(Role::Ingest) {
        ingest::start(process).await?;
    }
    Ok(())
}
