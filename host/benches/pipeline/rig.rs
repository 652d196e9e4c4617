//! Buses, stores and evaluators to measure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tempfile::TempDir;
use tocsin::control::Control;
use tocsin::evaluator::{self, EvaluatorConfig, RunningEvaluator};
use tocsin::rules::RuleCache;
use tocsin::rules::compiler::Compiler;
use tocsin_bus::{Bus, EmbeddedBus, EmbeddedDb, KafkaBus, KafkaConfig, LogConfig, Retention, system_clock};
use tocsin_engine::domain::{Conditions, Lifecycle, Position, Repeat, RuleName, Symbol, Tenant, Tick, UserId};
use tocsin_engine::{Engine, EvaluationOptions, Waking};
use tocsin_store::{BindingCaps, DatabaseUrl, NewAlert, Start, Store, StoredAlert};
use tokio_util::sync::CancellationToken;

/// As many as in the figures of GoStocks.
const SYMBOLS: usize = 10;

/// As many as in the figures of GoStocks.
const PARTITIONS: u32 = 8;

/// Time between checkpoints where that is not what is measured: what it is unless configured.
pub(crate) const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// The most bindings of one alert.
const BINDINGS: usize = SYMBOLS;

const UNBOUNDED: BindingCaps = {
    let most = u64::MAX >> 1;
    BindingCaps { per_tenant: most, per_rule: most, bytes_per_tenant: most, bytes_per_rule: most }
};

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
    let config = LogConfig { partitions: PARTITIONS, retention, ..LogConfig::default() };
    Ok(Bus::Embedded(EmbeddedBus::open(&db, config, system_clock())?))
}

/// A database of its own on a server.
pub(crate) struct Database {
    server: PgConnection,
    name: String,
    pub(crate) url: DatabaseUrl,
}

impl Database {
    pub(crate) async fn make(server: &str) -> anyhow::Result<Self> {
        static DATABASES: AtomicU32 = AtomicU32::new(0);
        let name = format!("tocsin_bench_{}_{}", std::process::id(), DATABASES.fetch_add(1, Relaxed));
        let mut own = reqwest::Url::parse(server)?;
        own.set_path(&name);
        let mut server = PgConnection::connect(server).await?;
        server.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
        Ok(Self { server, name, url: DatabaseUrl::parse(own.as_str()).map_err(anyhow::Error::msg)? })
    }

    pub(crate) async fn drop(mut self) -> anyhow::Result<()> {
        self.server.execute(AssertSqlSafe(format!("DROP DATABASE {} WITH (FORCE)", self.name))).await?;
        Ok(())
    }
}

pub(crate) struct Rig {
    pub(crate) bus: Bus,
    pub(crate) store: Store,
    library: RuleCache,
    control: Control,
}

pub(crate) struct Running {
    pub(crate) evaluator: RunningEvaluator,
    stop: CancellationToken,
}

impl Rig {
    pub(crate) async fn new(bus: Bus, store: Store) -> anyhow::Result<Self> {
        let library = RuleCache::new(Engine::new()?, store.clone(), Compiler::InProcess, None);
        let control = Control::new(store.clone(), bus.clone(), library.clone(), system_clock(), UNBOUNDED);
        control.install_builtins(&Tenant::standard()).await?;
        Ok(Self { bus, store, library, control })
    }

    /// Makes a module a rule.
    pub(crate) async fn upload(&self, module: Vec<u8>) -> anyhow::Result<()> {
        self.control.upload_rule(&Tenant::standard(), module).await?;
        Ok(())
    }

    /// Arms so many bindings of a rule, from the first tick of the bus on; `params` are those of the n-th alert.
    pub(crate) async fn arm(
        &self,
        rule: &str,
        bindings: usize,
        params: impl Fn(usize) -> Value,
        repeat: Repeat,
    ) -> anyhow::Result<()> {
        let rule = self.control.rule(&Tenant::standard(), rule, None).await?.reference;
        let compiled = self.library.get(rule.digest).await?;
        let mut left = bindings;
        while left > 0 {
            let some = left.min(BINDINGS);
            left -= some;
            let params = compiled.manifest().params.pack(&params(left));
            let symbols = (0..some).map(symbol).map(|symbol| {
                let position = Position { partition: self.bus.partition_of(&symbol), offset: 0 };
                (symbol, Start::At(position))
            });
            let new = NewAlert {
                tenant: Tenant::standard(),
                user: UserId(1),
                rule: rule.clone(),
                params: params.ok().context("the params fit")?,
                lifecycle: Lifecycle { repeat },
                symbols: symbols.collect(),
                log: None,
                created_at_ms: 0,
                idempotency: None,
            };
            let stored = self.store.create_alert(&new, UNBOUNDED).await?;
            anyhow::ensure!(matches!(stored, StoredAlert::Created(_)), "an alert was not created");
        }
        Ok(())
    }

    /// Arms so many bindings of `above`. Targets differ, as those of people do.
    pub(crate) async fn arm_above(&self, bindings: usize, target: f64, repeat: Repeat) -> anyhow::Result<()> {
        let params = |n: usize| json!({ "target": target + n as f64 / 1e6 });
        self.arm(RuleName::above().as_str(), bindings, params, repeat).await
    }

    pub(crate) async fn start(&self, checkpoint_interval: Duration) -> anyhow::Result<Running> {
        let config = EvaluatorConfig {
            group: format!("bench-{}", system_clock()()),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            checkpoint_interval,
            skip_lost_ticks: false,
            outbox: false,
            evaluation: EvaluationOptions { waking: Waking::Indexed, ..EvaluationOptions::default() },
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
