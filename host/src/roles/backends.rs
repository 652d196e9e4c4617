//! The backends of this process: each is chosen by the settings and opened for the first role that uses it. Where a backend
//! is away, opening it is retried.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tocsin_bus::{Bus, BusError, EmbeddedBus, EmbeddedDb, KafkaBus, system_clock};
use tocsin_engine::Engine;
use tocsin_health::Health;
use tocsin_prices::{EmbeddedPrices, Prices, RedisPrices};
use tocsin_store::{Store, StoreError};
use tokio::sync::OnceCell;
use tracing::warn;

use super::retry::until_there;
use crate::config::{Settings, StoreArgs, StoreChoice};
use crate::data_dir;
use crate::rules::RuleCache;
use crate::rules::artifacts::ArtifactCache;
use crate::rules::compiler::{ChildCompiler, Compiler};

pub(super) struct Backends<'a> {
    settings: &'a Settings,
    health: &'a Health,
    embedded: OnceCell<EmbeddedDb>,
    bus: OnceCell<Bus>,
    store: OnceCell<Store>,
    prices: OnceCell<Prices>,
    library: OnceCell<RuleCache>,
}

impl<'a> Backends<'a> {
    pub(super) fn new(settings: &'a Settings, health: &'a Health) -> Self {
        Self {
            settings,
            health,
            embedded: OnceCell::new(),
            bus: OnceCell::new(),
            store: OnceCell::new(),
            prices: OnceCell::new(),
            library: OnceCell::new(),
        }
    }

    pub(super) async fn bus(&self) -> anyhow::Result<Bus> {
        let open = async || match &self.settings.kafka {
            None => {
                let bus = EmbeddedBus::open(self.embedded().await?, self.settings.log, system_clock());
                Ok(Bus::Embedded(bus.with_context(|| self.folder())?))
            }
            Some(kafka) => {
                let open = async || KafkaBus::open(kafka.ticks.clone()).await;
                let bus = until_there(&self.health.component("bus"), &kafka.ticks, BusError::is_transient, open).await;
                let bus = Bus::Kafka(bus.with_context(|| format!("opening {}", kafka.ticks))?);
                self.report_missing_promises(&bus).await;
                Ok(bus)
            }
        };
        self.bus.get_or_try_init(open).await.cloned()
    }

    /// Reports what the log does not promise. The process stays ready: nothing has been lost yet.
    async fn report_missing_promises(&self, bus: &Bus) {
        match bus.missing_promises().await {
            Ok(missing) if missing.is_empty() => {}
            Ok(missing) => {
                missing.iter().for_each(|what| warn!("{what}"));
                self.health.component("promises").report(missing.join("; "));
            }
            Err(error) => {
                warn!(%error, "the durability settings of Kafka could not be checked; the next start checks them again")
            }
        }
    }

    pub(super) async fn store(&self) -> anyhow::Result<Store> {
        let open = async || {
            let open = async || open_store(&self.settings.store, &self.settings.data_dir).await;
            let store = match self.settings.store {
                // A folder that is not there now will not be there soon.
                StoreChoice::Sqlite => open().await,
                StoreChoice::Postgres(_) => {
                    until_there(&self.health.component("store"), "the store", StoreError::is_transient, open).await
                }
            };
            let store = store.with_context(|| opening(&self.settings.store, &self.settings.data_dir))?;
            tocsin_store::health::register(self.health, store.clone());
            anyhow::Ok(store)
        };
        self.store.get_or_try_init(open).await.cloned()
    }

    pub(super) async fn prices(&self) -> anyhow::Result<Prices> {
        let open = async || {
            let prices = match &self.settings.prices {
                None => {
                    let prices = EmbeddedPrices::open(self.embedded().await?);
                    Prices::Embedded(prices.with_context(|| self.folder())?)
                }
                Some(address) => Prices::Redis(RedisPrices::new(address).context("REDIS_ADDR")?),
            };
            tocsin_prices::health::register(self.health, prices.clone());
            anyhow::Ok(prices)
        };
        self.prices.get_or_try_init(open).await.cloned()
    }

    /// Returns the cache of compiled rules: one for all roles of the process.
    pub(super) async fn library(&self) -> anyhow::Result<RuleCache> {
        let open = async || {
            let program = std::env::current_exe().context("finding this program, which is its own compiler")?;
            let compiler = Compiler::Child(Arc::new(ChildCompiler::new(program, self.settings.compile)));
            let data_dir = &self.settings.data_dir;
            data_dir::prepare(data_dir).with_context(|| self.folder())?;
            let artifacts = ArtifactCache::open(data_dir).context("opening the folder of compiled rules")?;
            Ok(RuleCache::new(Engine::new()?, self.store().await?, compiler, Some(artifacts)))
        };
        self.library.get_or_try_init(open).await.cloned()
    }

    async fn embedded(&self) -> anyhow::Result<&EmbeddedDb> {
        let open = async || {
            data_dir::prepare(&self.settings.data_dir).with_context(|| self.folder())?;
            EmbeddedDb::open(&self.settings.data_dir).with_context(|| self.folder())
        };
        self.embedded.get_or_try_init(open).await
    }

    fn folder(&self) -> String {
        format!("opening the data folder {}", self.settings.data_dir.display())
    }

    /// Closes the backends that were opened.
    pub(super) async fn close(self) {
        if let Some(store) = self.store.get() {
            store.close().await;
        }
        let Self { bus, prices, embedded, .. } = self;
        // Closing flushes what is queued for the brokers, on a thread that may block.
        let _ = tokio::task::spawn_blocking(move || drop((bus, prices, embedded))).await;
    }
}

/// Brings the schema of the configured store up to date; returns which store that is.
pub async fn migrate(args: StoreArgs) -> anyhow::Result<String> {
    let choice = args.choice()?;
    let store = open_store(&choice, &args.data_dir).await.with_context(|| opening(&choice, &args.data_dir))?;
    store.close().await;
    Ok(match choice {
        StoreChoice::Sqlite => format!("SQLite in {}", args.data_dir.display()),
        StoreChoice::Postgres(url) => format!("PostgreSQL, {url}"),
    })
}

async fn open_store(choice: &StoreChoice, data_dir: &Path) -> Result<Store, StoreError> {
    match choice {
        StoreChoice::Sqlite => {
            data_dir::prepare(data_dir).map_err(|error| StoreError::Open(error.to_string()))?;
            Store::open_sqlite(data_dir).await
        }
        StoreChoice::Postgres(url) => Store::open_postgres(url).await,
    }
}

fn opening(choice: &StoreChoice, data_dir: &Path) -> String {
    match choice {
        StoreChoice::Sqlite => format!("opening the database in {}", data_dir.display()),
        StoreChoice::Postgres(_) => "opening the store".into(),
    }
}
