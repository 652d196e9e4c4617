//! Wires the server: the only place where a backend is chosen, and where it is decided what starts before what.
//!
//! Ticks flow ingest -> bus -> evaluate -> store, and beside it bus -> project -> prices. They stop in that order:
//! nothing upstream runs longer than what takes from it.

mod publish;
mod summary;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tocsin_engine::Engine;
use tocsin_engine::domain::Tenant;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::{self, Api};
use crate::artifacts::ArtifactCache;
use crate::bus::{Bus, EmbeddedBus, EmbeddedDb, system_clock};
use crate::compiler::{ChildCompiler, Compiler};
use crate::config::{Settings, StoreArgs, StoreChoice};
use crate::control::Control;
use crate::evaluator::{self, RunningEvaluator};
use crate::health::Health;
use crate::ingest::{self, Feed, FeedStatus};
use crate::library::Library;
use crate::prices::{self, EmbeddedPrices, Prices, RedisPrices};
use crate::store::Store;

/// Frames' worth of ticks that may wait to be published; then the feed's reader waits.
const INGEST_QUEUE: usize = 256;

/// The backends, open.
struct Backends {
    bus: Bus,
    prices: Prices,
    store: Store,
}

/// Runs every role in this process until `stop` is cancelled, then stops cleanly.
pub async fn serve(settings: Settings, stop: CancellationToken) -> anyhow::Result<()> {
    for name in &settings.ignored {
        warn!("{name} is set, but this version keeps everything embedded in the data folder: it has no effect");
    }
    let rest = listen(&settings, settings.port, "PORT").await?;
    let grpc = listen(&settings, settings.grpc_port, "GRPC_PORT").await?;
    let (rest_address, grpc_address) = (rest.local_addr()?, grpc.local_addr()?);

    let backends = open(&settings).await?;
    let Backends { bus, prices, store } = &backends;
    let library = library(&settings, store)?;
    let clock = system_clock();
    let control = Control::new(store.clone(), bus.clone(), library.clone(), clock.clone(), settings.caps);
    control.install_builtins(&Tenant::standard()).await.context("installing the built-in rules")?;

    // What takes from the bus stops after what feeds it.
    let drain = CancellationToken::new();
    let config = settings.evaluator.clone();
    let evaluator = evaluator::start(store.clone(), bus.clone(), library, config, clock.clone(), drain.clone()).await?;
    control.roll_back_unfinished_promotion().await.context("looking for an unfinished promotion")?;
    let status = settings.feed.as_ref().map(|feed| Arc::new(FeedStatus::new(feed.kind())));
    let (stats, feed_status) = (evaluator.stats(), status.clone());
    let health = Health::new(store.clone(), prices.clone(), status.clone(), clock, Some(stats.clone()));
    let api = Api {
        control,
        prices: prices.clone(),
        bus: bus.clone(),
        health: health.clone(),
        tickers: settings.tickers.clone().into(),
        warned: Arc::default(),
        tenant: Tenant::standard(),
    };

    let mut front = JoinSet::new();
    let (rest_api, rest_stop) = (api.clone(), stop.clone());
    front.spawn(async move { api::rest::serve(rest, rest_api, rest_stop).await.context("serving REST") });
    let grpc_stop = stop.clone();
    front.spawn(async move { api::grpc::serve(grpc, api, grpc_stop).await.context("serving gRPC") });
    if let (Some(feed), Some(status)) = (settings.feed.clone(), status) {
        start_ingest(&mut front, feed, status, bus.clone(), &stop);
    }
    let mut back = JoinSet::new();
    let (project_bus, project_prices, project_drain) = (bus.clone(), prices.clone(), drain.clone());
    back.spawn(async move {
        prices::project(project_bus, project_prices, project_drain).await.context("projecting prices")
    });
    back.spawn(watch_evaluator(evaluator, health));
    back.spawn(summary::run(stats, feed_status, bus.clone(), drain.clone()));

    announce(&settings, rest_address, grpc_address);
    let ended = run_until_stopped(&mut front, &mut back, &stop).await;
    stop.cancel();
    let front = join_all(&mut front).await;
    drain.cancel();
    let back = join_all(&mut back).await;
    store.close().await;
    info!("stopped");
    ended.and(front).and(back)
}

/// Brings the schema of the store that is configured up to date; returns which that is.
pub async fn migrate(args: StoreArgs) -> anyhow::Result<String> {
    let choice = args.choice()?;
    open_store(&choice, &args.data_dir).await?.close().await;
    Ok(match choice {
        StoreChoice::Sqlite => format!("SQLite in {}", args.data_dir.display()),
        StoreChoice::Postgres(url) => format!("PostgreSQL, {url}"),
    })
}

async fn open_store(choice: &StoreChoice, data_dir: &Path) -> anyhow::Result<Store> {
    match choice {
        StoreChoice::Sqlite => {
            let folder = || format!("opening the database in {}", data_dir.display());
            std::fs::create_dir_all(data_dir).with_context(folder)?;
            Store::open_sqlite(data_dir).await.with_context(folder)
        }
        StoreChoice::Postgres(url) => Store::open_postgres(url).await.context("opening the store"),
    }
}

fn library(settings: &Settings, store: &Store) -> anyhow::Result<Library> {
    let program = std::env::current_exe().context("finding this program, which is its own compiler")?;
    let compiler = Compiler::Child(Arc::new(ChildCompiler::new(program, settings.compile)));
    let artifacts = ArtifactCache::open(&settings.data_dir).context("opening the folder of compiled rules")?;
    Ok(Library::new(Engine::new()?, store.clone(), compiler, Some(artifacts)))
}

async fn listen(settings: &Settings, port: u16, variable: &str) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(settings.bind, port);
    let advice = || format!("{variable}: cannot listen on {address}; is another server running? choose another port");
    TcpListener::bind(address).await.with_context(advice)
}

async fn open(settings: &Settings) -> anyhow::Result<Backends> {
    let folder = || format!("opening the data folder {}", settings.data_dir.display());
    std::fs::create_dir_all(&settings.data_dir).with_context(folder)?;
    let db = EmbeddedDb::open(&settings.data_dir).with_context(folder)?;
    let bus = Bus::Embedded(EmbeddedBus::open(&db, settings.log, system_clock()).with_context(folder)?);
    let prices = match &settings.prices {
        None => Prices::Embedded(EmbeddedPrices::open(&db).with_context(folder)?),
        Some(address) => Prices::Redis(RedisPrices::new(address).context("REDIS_ADDR")?),
    };
    let store = open_store(&settings.store, &settings.data_dir).await?;
    Ok(Backends { bus, prices, store })
}

fn start_ingest(
    front: &mut JoinSet<anyhow::Result<()>>,
    feed: Feed,
    status: Arc<FeedStatus>,
    bus: Bus,
    stop: &CancellationToken,
) {
    let (sink, ticks) = mpsc::channel(INGEST_QUEUE);
    let stop = stop.clone();
    front.spawn(async move {
        ingest::run(feed, sink, status, stop).await;
        Ok(())
    });
    // Ends when the feed has ended and all that it gave is published.
    front.spawn(publish::run(ticks, bus));
}

async fn watch_evaluator(evaluator: RunningEvaluator, health: Health) -> anyhow::Result<()> {
    let ended = evaluator.finished().await;
    health.evaluation_stopped();
    ended.context("evaluating")
}

/// Waits for the word to stop, or for a part that ends though nobody stopped it.
async fn run_until_stopped(
    front: &mut JoinSet<anyhow::Result<()>>,
    back: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        Some(ended) = front.join_next() => ended?,
        Some(ended) = back.join_next() => ended?,
    }
}

/// Waits for all; the first error.
async fn join_all(tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut first = Ok(());
    while let Some(ended) = tasks.join_next().await {
        first = first.and(ended.map_err(anyhow::Error::from).flatten());
    }
    first
}

fn announce(settings: &Settings, rest: SocketAddr, grpc: SocketAddr) {
    let tickers = settings.tickers.iter().map(|symbol| symbol.as_str()).collect::<Vec<_>>().join(", ");
    let feed = match &settings.feed {
        None => "no feed",
        Some(Feed::Finnhub { .. }) => "Finnhub",
        Some(Feed::Binance { .. }) => "Binance",
        Some(Feed::Simulated { .. }) => "SIMULATED prices (set FINNHUB_API_KEY for real ones)",
    };
    let store = match &settings.store {
        StoreChoice::Sqlite => "SQLite in the data folder".to_owned(),
        StoreChoice::Postgres(url) => format!("PostgreSQL, {url}"),
    };
    let prices = match &settings.prices {
        None => "the data folder".to_owned(),
        Some(address) => format!("Redis, {address}"),
    };
    info!(
        rest = %format!("http://{rest}"), grpc = %format!("http://{grpc}"), %tickers, feed, %store, %prices,
        data_dir = %settings.data_dir.display(), "tocsin is ready"
    );
}
