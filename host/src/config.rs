//! The configuration of `tocsin serve`, in two stages: [`ServeArgs`] is what was typed or set in the environment,
//! [`Settings`] is what is needed, checked.

pub mod env_file;
mod kafka;
mod roles;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tocsin_bus::{LogConfig, Retention};
use tocsin_engine::domain::Symbol;
use tocsin_engine::limits::FIRINGS_AT_ONCE;
use tocsin_engine::{EvaluationOptions, Waking};
use tocsin_prices::RedisAddress;
use tocsin_store::{BindingCaps, DatabaseUrl};

use crate::evaluator::{self, EvaluatorConfig};
use crate::ingest::{BINANCE_URL, FINNHUB_URL, Feed, FeedServer, Secret};
use crate::rules::compiler::{CompileLimits, DEFAULT_CPU_S, DEFAULT_DEADLINE_MS, DEFAULT_MEMORY_MIB};
use crate::telemetry::LogFormat;

pub use self::kafka::{KafkaArgs, KafkaSettings};
pub use self::roles::{Role, Roles};

use self::roles::Shared;

/// What is subscribed and served without `TICKERS`.
const DEFAULT_TICKERS: &str = "AAPL,BINANCE:BTCUSDT,IC MARKETS:1";

/// Hosts of this domain refuse clients without a key.
const FINNHUB_DOMAIN: &str = "finnhub.io";

/// The most tickers: Finnhub's free plan takes 50, and each connection of Binance 1,024.
const MAX_TICKERS: usize = 1024;

/// An audit makes a fresh instance, which costs many calls: so few that they do not show, and still several a second in
/// a busy market.
const DEFAULT_AUDIT_EVERY_CALLS: u32 = 10_000;

/// Where rules, alerts and firings are kept
#[derive(Args, Clone, Debug)]
pub struct StoreArgs {
    /// Where the embedded log and database live
    #[arg(long, env = "TOCSIN_DATA_DIR", default_value = "./tocsin-data", value_name = "DIR")]
    pub data_dir: PathBuf,

    /// PostgreSQL database of rules, alerts and firings: postgres://USER:PASSWORD@HOST:PORT/DATABASE, or libpq's
    /// user=… password=… dbname=… host=… port=… sslmode=… [default: SQLite in the data folder]
    #[arg(
        long,
        env = "DATABASE_URL",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true,
        value_name = "URL"
    )]
    pub database_url: String,
}

/// Run the server
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Where rules, alerts and firings are kept.
    #[command(flatten)]
    pub store: StoreArgs,

    /// What this process does, comma-separated or repeated; the other roles are other processes' [default: all]
    #[arg(long = "role", env = "TOCSIN_ROLES", value_enum, value_delimiter = ',', value_name = "ROLE")]
    pub roles: Vec<Role>,

    /// Where ticks and firings go.
    #[command(flatten)]
    pub kafka: KafkaArgs,

    /// Redis of prices and candles: HOST:PORT, or redis://USER:PASSWORD@HOST:PORT/DATABASE [default: in the data folder]
    #[arg(
        long,
        env = "REDIS_ADDR",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true,
        value_name = "ADDR"
    )]
    pub redis_addr: String,

    /// Address to listen on. Without authentication only a loopback address is accepted
    #[arg(long, env = "TOCSIN_BIND", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), value_name = "ADDR")]
    pub bind: IpAddr,

    /// Port of REST, WebSocket and SSE, and of /health and /ready whatever the roles; 0 for any
    #[arg(long, env = "PORT", default_value_t = 8080)]
    pub port: u16,

    /// Port of gRPC; 0 for any
    #[arg(long, env = "GRPC_PORT", default_value_t = 50051)]
    pub grpc_port: u16,

    /// Comma-separated instruments to subscribe and serve
    #[arg(long, env = "TICKERS", default_value = DEFAULT_TICKERS, value_name = "LIST")]
    pub tickers: String,

    /// Where ticks come from
    #[arg(long, env = "TOCSIN_FEED", value_enum, default_value_t)]
    pub feed: FeedChoice,

    /// Finnhub's API key. Without a key and a URL, prices are simulated. A server of one's own may need none
    #[arg(long, env = "FINNHUB_API_KEY", hide_env_values = true, default_value = "", value_name = "KEY")]
    pub finnhub_api_key: String,

    /// Another server that speaks Finnhub's protocol, such as `tocsin feed` [default: Finnhub's]
    #[arg(long, env = "FINNHUB_URL", default_value = "", value_name = "URL")]
    pub finnhub_url: String,

    /// Another server that speaks Binance's protocol [default: Binance's]
    #[arg(long, env = "BINANCE_URL", default_value = "", value_name = "URL")]
    pub binance_url: String,

    /// Seed of the simulated prices: the same seed invents the same ones
    #[arg(long, env = "TOCSIN_SIMULATED_SEED", default_value_t = 1)]
    pub simulated_seed: u64,

    /// Simulated ticks per second, over all symbols, on average
    #[arg(long, env = "TOCSIN_SIMULATED_RATE", default_value = "25", value_name = "N")]
    pub simulated_rate: NonZeroU32,

    /// Partitions of the embedded log, or of a topic that is made; fixed from then on
    #[arg(long, env = "TOCSIN_PARTITIONS", default_value_t = 8)]
    pub partitions: u32,

    /// Ticks kept in the embedded log, in MiB; the oldest go first
    #[arg(long, env = "TOCSIN_RETENTION_MIB", default_value_t = 1024, value_name = "MIB", value_parser = from_one::<u64>)]
    pub retention_mib: u64,

    /// Hours that ticks are kept in the embedded log
    #[arg(long, env = "TOCSIN_RETENTION_HOURS", default_value_t = 168, value_name = "HOURS", value_parser = from_one::<u64>)]
    pub retention_hours: u64,

    /// MiB that are kept free on the data folder's disk: with less the embedded log takes no ticks; 0 for none
    #[arg(long, env = "TOCSIN_MIN_FREE_MIB", default_value_t = 256, value_name = "MIB")]
    pub min_free_mib: u64,

    /// Threads that evaluate rules [default: one for each core, at most one for each partition]
    #[arg(long, env = "TOCSIN_WORKERS", value_name = "N", value_parser = from_one::<usize>)]
    pub workers: Option<usize>,

    /// Milliseconds between checkpoints: what is evaluated again after a crash
    #[arg(long, env = "TOCSIN_CHECKPOINT_INTERVAL_MS", default_value_t = 1000, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub checkpoint_interval_ms: u64,

    /// Start although retention has removed ticks that were never evaluated
    #[arg(long, env = "TOCSIN_SKIP_LOST_TICKS")]
    pub skip_lost_ticks: bool,

    /// Memory that compiling an uploaded rule may take, in MiB of address space
    #[arg(long, env = "TOCSIN_COMPILE_MEMORY_MIB", default_value_t = DEFAULT_MEMORY_MIB, value_name = "MIB")]
    pub compile_memory_mib: u64,

    /// CPU time that compiling an uploaded rule and its trial run may take, in seconds
    #[arg(long, env = "TOCSIN_COMPILE_CPU_S", default_value_t = DEFAULT_CPU_S, value_name = "S",
          value_parser = clap::value_parser!(u64).range(1..=60))]
    pub compile_cpu_s: u64,

    /// Wall time that compiling an uploaded rule and its trial run may take, in milliseconds
    #[arg(long, env = "TOCSIN_COMPILE_DEADLINE_MS", default_value_t = DEFAULT_DEADLINE_MS, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub compile_deadline_ms: u64,

    /// Bindings that are evaluated on a tick: those that it wakes, or, to find rules whose wake bands lie, all
    #[arg(long, env = "TOCSIN_WAKING", value_enum, default_value_t)]
    pub waking: WakingChoice,

    /// One call into a rule in so many is evaluated again, to find rules that are not pure; 0 for none
    #[arg(long, env = "TOCSIN_AUDIT_EVERY", default_value_t = DEFAULT_AUDIT_EVERY_CALLS, value_name = "N")]
    pub audit_every: u32,

    /// Firings of an alert on one symbol that may follow each other at once; then one for each 100 ms of event time. What it
    /// fires beyond that is counted as suppressed and not recorded. The same for all evaluators
    #[arg(long, env = "TOCSIN_FIRINGS_AT_ONCE", default_value_t = FIRINGS_AT_ONCE, value_name = "N", value_parser = from_one::<u32>)]
    pub firings_at_once: u32,

    /// The most live bindings (an alert on a symbol, active or quarantined) of one tenant
    #[arg(long, env = "TOCSIN_MAX_BINDINGS_PER_TENANT", default_value_t = 2_000_000, value_name = "N")]
    pub max_bindings_per_tenant: u32,

    /// The most live bindings of one rule version
    #[arg(long, env = "TOCSIN_MAX_BINDINGS_PER_RULE", default_value_t = 1_000_000, value_name = "N")]
    pub max_bindings_per_rule: u32,

    /// The most memory for params and states of the live bindings of one tenant, in MiB
    #[arg(long, env = "TOCSIN_MAX_STATE_MIB_PER_TENANT", default_value_t = 1024, value_name = "N")]
    pub max_state_mib_per_tenant: u32,

    /// The most memory for params and states of the live bindings of one rule version, in MiB
    #[arg(long, env = "TOCSIN_MAX_STATE_MIB_PER_RULE", default_value_t = 256, value_name = "N")]
    pub max_state_mib_per_rule: u32,

    /// The most connections at a time, of REST, WebSocket, SSE and gRPC together. Idle ones are closed to make room for
    /// others; where none is idle, new ones get 503. Each takes an open file, and so does what the store and the log need
    /// (some 300, more with Kafka): the limit of open files (ulimit -Hn) must allow both [default: what it allows, at most 16384]
    #[arg(long, env = "TOCSIN_MAX_CONNECTIONS", value_name = "N", value_parser = from_one::<u32>)]
    pub max_connections: Option<u32>,

    /// The most live streams at a time: SSE, WebSockets and gRPC watches together. More are refused: 429, over gRPC
    /// RESOURCE_EXHAUSTED. Firings wait in the store for those that come back [default: 2048, or three of four connections]
    #[arg(long, env = "TOCSIN_MAX_STREAMS", value_name = "N", value_parser = from_one::<u32>)]
    pub max_streams: Option<u32>,

    /// Log level, or a list of target=level
    #[arg(long, env = "TOCSIN_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,

    /// How log lines look
    #[arg(long, env = "TOCSIN_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// Where ticks come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FeedChoice {
    /// Finnhub where there is a key or a URL for it, otherwise simulated.
    #[default]
    Auto,
    /// Finnhub's WebSocket.
    Finnhub,
    /// Binance's public trade streams; no key is needed.
    Binance,
    /// Invented prices.
    Simulated,
    /// No ticks.
    None,
}

/// Which bindings are evaluated on a tick. All choices fire alike; the oracle that ignores bands is for tests only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum WakingChoice {
    /// Those that it wakes.
    #[default]
    Indexed,
    /// All; who should have slept on, and would have answered otherwise, faults.
    Checked,
}

/// A configuration that cannot work. The message names the setting, its value and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// The store that was chosen.
#[derive(Clone, Debug)]
pub enum StoreChoice {
    /// SQLite in the data folder.
    Sqlite,
    /// A PostgreSQL database.
    Postgres(DatabaseUrl),
}

impl StoreArgs {
    /// Which store is meant.
    pub fn choice(&self) -> Result<StoreChoice, ConfigError> {
        if self.database_url.trim().is_empty() {
            return Ok(StoreChoice::Sqlite);
        }
        let url = DatabaseUrl::parse(&self.database_url);
        url.map(StoreChoice::Postgres).map_err(|error| ConfigError(format!("DATABASE_URL: {error}")))
    }
}

/// What the server needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What this process does.
    pub roles: Roles,
    /// The topics of ticks and firings, if the bus is Kafka.
    pub kafka: Option<KafkaSettings>,
    /// Where the embedded log and database live.
    pub data_dir: PathBuf,
    /// Where rules, alerts and firings are kept.
    pub store: StoreChoice,
    /// Where prices and candles are kept: a Redis, or the data folder.
    pub prices: Option<RedisAddress>,
    /// Address to listen on; loopback.
    pub bind: IpAddr,
    /// Port of REST.
    pub port: u16,
    /// Port of gRPC.
    pub grpc_port: u16,
    /// What is subscribed and served; at least one.
    pub tickers: Vec<Symbol>,
    /// Where ticks come from, if anywhere.
    pub feed: Option<Feed>,
    /// The embedded log.
    pub log: LogConfig,
    /// The most live bindings.
    pub caps: BindingCaps,
    /// The most connections; what the limit of open files allows if not set.
    pub max_connections: Option<u32>,
    /// The most streams; a part of the connections if not set.
    pub max_streams: Option<u32>,
    /// The evaluate role.
    pub evaluator: EvaluatorConfig,
    /// Limits of compiling one module.
    pub compile: CompileLimits,
}

impl ServeArgs {
    /// Checks everything and fills in what depends on something else.
    pub fn validate(self) -> Result<Settings, ConfigError> {
        if !self.bind.is_loopback() {
            return Err(ConfigError(format!(
                "--bind {}: there is no authentication yet, so only a loopback address is served; \
                 use 127.0.0.1 and let a proxy that authenticates stand before it",
                self.bind
            )));
        }
        let roles = Roles::of(&self.roles);
        let kafka = self.kafka.clone().validate(self.partitions)?;
        let store = self.store.choice()?;
        let prices = redis_address(&self.redis_addr)?;
        let is_postgres = matches!(store, StoreChoice::Postgres(_));
        roles.check(Shared { bus: kafka.is_some(), store: is_postgres, prices: prices.is_some() })?;
        let tickers = parse_tickers(&self.tickers)?;
        let feed = self.feed(&tickers)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let retention = Retention {
            retention_bytes: Some(self.retention_mib.saturating_mul(1 << 20)),
            retention_ms: Some(self.retention_hours.saturating_mul(3_600_000)),
        };
        Ok(Settings {
            roles,
            kafka,
            store,
            prices,
            data_dir: self.store.data_dir,
            bind: self.bind,
            port: self.port,
            grpc_port: self.grpc_port,
            tickers,
            feed,
            log: LogConfig {
                partitions: self.partitions,
                retention,
                min_free_bytes: self.min_free_mib.saturating_mul(1 << 20),
            },
            caps: BindingCaps {
                per_tenant: self.max_bindings_per_tenant.into(),
                per_rule: self.max_bindings_per_rule.into(),
                bytes_per_tenant: u64::from(self.max_state_mib_per_tenant) << 20,
                bytes_per_rule: u64::from(self.max_state_mib_per_rule) << 20,
            },
            max_connections: self.max_connections,
            max_streams: self.max_streams,
            evaluator: EvaluatorConfig {
                group: evaluator::GROUP.into(),
                workers: self.workers.unwrap_or(cores),
                checkpoint_interval: Duration::from_millis(self.checkpoint_interval_ms),
                skip_lost_ticks: self.skip_lost_ticks,
                outbox: false,
                evaluation: EvaluationOptions {
                    waking: match self.waking {
                        WakingChoice::Indexed => Waking::Indexed,
                        WakingChoice::Checked => Waking::Checked,
                    },
                    firings_at_once: self.firings_at_once,
                    audit_every_calls: self.audit_every,
                },
            },
            compile: CompileLimits {
                memory_mib: self.compile_memory_mib,
                cpu_s: self.compile_cpu_s,
                deadline_ms: self.compile_deadline_ms,
            },
        })
    }

    fn feed(&self, symbols: &[Symbol]) -> Result<Option<Feed>, ConfigError> {
        let symbols = symbols.to_vec();
        let has_finnhub = !(self.finnhub_api_key.trim().is_empty() && self.finnhub_url.trim().is_empty());
        Ok(match self.feed {
            FeedChoice::Finnhub => Some(self.finnhub(symbols)?),
            FeedChoice::Auto if has_finnhub => Some(self.finnhub(symbols)?),
            FeedChoice::Auto | FeedChoice::Simulated => {
                Some(Feed::Simulated { seed: self.simulated_seed, symbols, ticks_per_second: self.simulated_rate })
            }
            FeedChoice::Binance => {
                let server = feed_server("BINANCE_URL", &self.binance_url, BINANCE_URL)?;
                Some(Feed::Binance { url: server.url, symbols })
            }
            FeedChoice::None => None,
        })
    }

    fn finnhub(&self, symbols: Vec<Symbol>) -> Result<Feed, ConfigError> {
        let server = feed_server("FINNHUB_URL", &self.finnhub_url, FINNHUB_URL)?;
        let key = Secret::new(self.finnhub_api_key.clone());
        // Another server than Finnhub's decides for itself whether it wants a key.
        if key.is_empty() && server.host.ends_with(FINNHUB_DOMAIN) {
            return Err(ConfigError(
                "FINNHUB_API_KEY is not set, and Finnhub refuses clients without a key: set it, or choose another \
                 TOCSIN_FEED (binance needs no key, simulated no network)"
                    .into(),
            ));
        }
        Ok(Feed::Finnhub { url: server.url, key, symbols })
    }
}

fn redis_address(given: &str) -> Result<Option<RedisAddress>, ConfigError> {
    if given.trim().is_empty() {
        return Ok(None);
    }
    RedisAddress::parse(given).map(Some).map_err(|error| ConfigError(format!("REDIS_ADDR: {error}")))
}

/// Where a feed connects to: what was given for `setting`, or the default.
fn feed_server(setting: &str, given: &str, default: &str) -> Result<FeedServer, ConfigError> {
    let url = if given.trim().is_empty() { default } else { given.trim() };
    FeedServer::parse(url).map_err(|error| ConfigError(format!("{setting}: {error}")))
}

/// Reads a number that must not be 0.
pub(crate) fn from_one<T: FromStr + Default + PartialEq>(text: &str) -> Result<T, String> {
    text.parse().ok().filter(|number| *number != T::default()).ok_or_else(|| "give a whole number from 1".into())
}

/// Reads a comma-separated list; quotes and backslashes around a ticker are what some `.env` files leave.
fn parse_tickers(list: &str) -> Result<Vec<Symbol>, ConfigError> {
    let mut tickers = Vec::new();
    for text in list.split(',') {
        let text = text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '\\'));
        if text.is_empty() {
            continue;
        }
        let symbol = Symbol::parse(text).map_err(|error| ConfigError(format!("TICKERS: {text:?} {error}")))?;
        if !tickers.contains(&symbol) {
            tickers.push(symbol);
        }
    }
    match tickers.len() {
        0 => Err(ConfigError(format!("TICKERS: {list:?} names no instrument; give for example AAPL,MSFT"))),
        1..=MAX_TICKERS => Ok(tickers),
        many => Err(ConfigError(format!("TICKERS: {many} instruments, more than the {MAX_TICKERS} allowed"))),
    }
}
