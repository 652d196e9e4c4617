//! What the API serves, for the tests of both protocols: real backends, in a folder of their own.

use std::sync::Arc;

use tempfile::TempDir;
use tocsin_bus::{Bus, Clock, EmbeddedBus, EmbeddedDb, LogConfig};
use tocsin_engine::Engine;
use tocsin_engine::domain::{Symbol, Tenant};
use tocsin_health::{About, Health};
use tocsin_prices::{EmbeddedPrices, Prices};
use tocsin_store::{BindingCaps, Store};

use super::{Api, ProcessStatus, RoleFigures};
use crate::connections::{self, Connections};
use crate::control::Control;
use crate::rules::RuleCache;
use crate::rules::compiler::Compiler;

/// What the clock of every test says, Unix milliseconds: 2023-11-14T22:13:20.123Z.
pub(super) const NOW_MS: i64 = 1_700_000_000_123;

/// So few that a test reaches them.
pub(super) const CAPS: BindingCaps =
    BindingCaps { per_tenant: 1_000, per_rule: 600, bytes_per_tenant: 1 << 30, bytes_per_rule: 1 << 28 };

/// As many as no test opens by accident.
pub(super) const MAX_CONNECTIONS: u32 = 64;
pub(super) const MAX_STREAMS: u32 = 32;

/// An API and what lies behind it.
pub(super) struct Backends {
    pub(super) api: Api,
    pub(super) store: Store,
    /// Removed with this.
    _dir: TempDir,
}

/// SQLite, the embedded bus and prices, and the built-in rules. BTCUSDT and IC MARKETS:1 are served.
pub(super) async fn backends() -> Backends {
    let dir = tempfile::tempdir().unwrap();
    let db = EmbeddedDb::open(dir.path()).unwrap();
    let clock: Clock = Arc::new(|| NOW_MS);
    let bus = Bus::Embedded(EmbeddedBus::open(&db, LogConfig::default(), clock.clone()).unwrap());
    let prices = Prices::Embedded(EmbeddedPrices::open(&db).unwrap());
    let store = Store::open_sqlite(dir.path()).await.unwrap();
    let library = RuleCache::new(Engine::new().unwrap(), store.clone(), Compiler::InProcess, None);
    let control = Control::new(store.clone(), bus.clone(), library, clock, CAPS);
    let tenant = Tenant::standard();
    control.install_builtins(&tenant).await.unwrap();
    let health = Health::new(About { roles: vec!["api"], backends: Vec::new() }, &[]);
    tocsin_store::health::register(&health, store.clone());
    tocsin_prices::health::register(&health, prices.clone());
    health.set_running();
    let tickers = ["BTCUSDT", "IC MARKETS:1"].map(|ticker| Symbol::parse(ticker).unwrap()).into();
    let connections = Connections::new(MAX_CONNECTIONS, MAX_STREAMS);
    connections::health::register(&health, connections.clone());
    let status = ProcessStatus { health, connections, figures: Arc::new(RoleFigures::default) };
    let api = Api { control, prices, bus, status, tickers, warned: Arc::default(), tenant };
    Backends { api, store, _dir: dir }
}
