//! Buses, stores and evaluators to measure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use tempfile::TempDir;
use tocsin::bus::{Bus, EmbeddedBus, EmbeddedDb, KafkaBus, KafkaConfig, LogConfig, Retention, system_clock};
use tocsin::compiler::Compiler;
use tocsin::control::Control;
use tocsin::evaluator::{self, EvaluatorConfig, RunningEvaluator};
use tocsin::library::Library;
use tocsin::store::{BindingCaps, NewAlert, Start, Store, StoredAlert};
use tocsin_engine::domain::{Conditions, Lifecycle, Position, Repeat, RuleName, Symbol, Tenant, Tick, UserId};
use tocsin_engine::{Engine, Judging, Waking};
use tokio_util::sync::CancellationToken;

/// As many as in the figures of GoStocks.
const SYMBOLS: usize = 10;

/// As many as in the figures of GoStocks.
const PARTITIONS: u32 = 8;

/// The most bindings of one alert.
const BINDINGS: usize = SYMBOLS;

const UNBOUNDED: BindingCaps = BindingCaps { per_tenant: u64::MAX >> 1, per_rule: u64::MAX >> 1 };

pub(crate) fn symbol(i: usize) -> Symbol {
    Symbol::parse(&format!("SYM{}", i % SYMBOLS)).expect("a symbol")
}

/// A tick that no sleeping alert wakes for.
pub(crate) fn quiet_tick(i: usize) -> Tick {
    let price = 100.0 + (i % 97) as f64 / 100.0;
    Tick::new(symbol(i), price, 1.0, 1_700_000_000_000 + i as i64, Conditions::default()).expect("a tick")
}

/// A topic of its own.
pub(crate) async fn topic(brokers: &str) -> anyhow::Result<(Bus, KafkaConfig)> {
    static TOPICS: AtomicU32 = AtomicU32::new(0);
    let now_ms = system_clock()();
    let config = KafkaConfig {
        brokers: brokers.into(),
        topic: format!("bench-{now_ms}-{}", TOPICS.fetch_add(1, Relaxed)),
        partitions: PARTITIONS,
        replication: None,
        options: Vec::new(),
    };
    Ok((Bus::Kafka(KafkaBus::open(config.clone()).await?), config))
}

pub(crate) fn embedded(folder: &TempDir) -> anyhow::Result<Bus> {
    let db = EmbeddedDb::open(folder.path())?;
    let retention = Retention { retention_bytes: None, retention_ms: None };
    let config = LogConfig { partitions: PARTITIONS, retention };
    Ok(Bus::Embedded(EmbeddedBus::open(&db, config, system_clock())?))
}

pub(crate) struct Rig {
    pub(crate) bus: Bus,
    pub(crate) store: Store,
    library: Library,
    control: Control,
}

pub(crate) struct Running {
    pub(crate) evaluator: RunningEvaluator,
    stop: CancellationToken,
}

impl Rig {
    pub(crate) async fn new(bus: Bus, store: Store) -> anyhow::Result<Self> {
        let library = Library::new(Engine::new()?, store.clone(), Compiler::InProcess, None);
        let control = Control::new(store.clone(), bus.clone(), library.clone(), system_clock(), UNBOUNDED);
        control.install_builtins(&Tenant::standard()).await?;
        Ok(Self { bus, store, library, control })
    }

    /// Arms so many bindings of `above` at a price, from the first tick of the bus on.
    pub(crate) async fn arm(&self, bindings: usize, target: f64, repeat: Repeat) -> anyhow::Result<()> {
        let rule = self.control.rule(&Tenant::standard(), RuleName::above().as_str(), None).await?.reference;
        let compiled = self.library.get(rule.digest).await?;
        let mut left = bindings;
        while left > 0 {
            let some = left.min(BINDINGS);
            left -= some;
            // Targets differ, as those of people do.
            let target = target + left as f64 / 1e6;
            let params = compiled.manifest().params.pack(&json!({ "target": target }));
            let symbols = (0..some).map(symbol).map(|symbol| {
                let position = Position { partition: self.bus.partition_of(&symbol), offset: 0 };
                (symbol, Start::At(position))
            });
            let new = NewAlert {
                tenant: Tenant::standard(),
                user: UserId(1),
                rule: rule.clone(),
                params: params.ok().context("the params of a threshold")?,
                lifecycle: Lifecycle { repeat },
                symbols: symbols.collect(),
                created_at_ms: 0,
                idempotency: None,
            };
            let stored = self.store.create_alert(&new, UNBOUNDED).await?;
            anyhow::ensure!(matches!(stored, StoredAlert::Created(_)), "an alert was not created");
        }
        Ok(())
    }

    pub(crate) async fn start(&self) -> anyhow::Result<Running> {
        let config = EvaluatorConfig {
            group: format!("bench-{}", system_clock()()),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            checkpoint_interval: Duration::from_secs(1),
            skip_lost_ticks: false,
            outbox: false,
            judging: Judging { waking: Waking::Indexed, ..Judging::default() },
        };
        let stop = CancellationToken::new();
        let (store, bus, library) = (self.store.clone(), self.bus.clone(), self.library.clone());
        let evaluator =
            evaluator::start(store, bus, library, config, Arc::clone(&system_clock()), stop.clone()).await?;
        Ok(Running { evaluator, stop })
    }
}

impl Running {
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        Ok(self.evaluator.finished().await?)
    }
}
