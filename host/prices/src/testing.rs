//! Prices for tests: each backend, fresh.
//!
//! Tests share one Redis and one database of it, as processes do in production, and have symbols of their own: there are
//! only 16 databases, fewer than tests that run at once. What a test has written goes with it.

use tempfile::TempDir;
use tocsin_bus::EmbeddedDb;
use tocsin_engine::domain::Symbol;

pub(crate) use super::samples::record;
use super::{EmbeddedPrices, Prices, RedisAddress, RedisPrices};

const VARIABLE: &str = "TOCSIN_TEST_REDIS_ADDR";

/// A backend of [`Prices`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Backend {
    Embedded,
    Redis,
}

/// Prices, and the names of symbols that no other test has.
pub(crate) struct TestPrices {
    pub(crate) prices: Prices,
    names: Names,
    _folder: Option<TempDir>,
}

impl TestPrices {
    pub(crate) fn make(backend: Backend) -> Self {
        let names = Names::new();
        match backend {
            Backend::Embedded => {
                let folder = tempfile::tempdir().unwrap();
                let prices = EmbeddedPrices::open(&EmbeddedDb::open(folder.path()).unwrap()).unwrap();
                Self { prices: Prices::Embedded(prices), names, _folder: Some(folder) }
            }
            Backend::Redis => {
                let prices = Prices::Redis(RedisPrices::new(&redis_address()).unwrap());
                Self { prices, names, _folder: None }
            }
        }
    }

    /// The name of a symbol of this test.
    pub(crate) fn name(&self, name: &str) -> String {
        self.names.name(name)
    }

    pub(crate) fn symbol(&self, name: &str) -> Symbol {
        Symbol::parse(&self.name(name)).unwrap()
    }
}

/// Names of symbols that no other test has, whose keys are removed from the Redis with this.
pub(crate) struct Names(String);

impl Names {
    pub(crate) fn new() -> Self {
        Self(format!("{:016X}", rand::random::<u64>()))
    }

    pub(crate) fn name(&self, name: &str) -> String {
        format!("{name} {}", self.0)
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        let pattern = format!("*{}*", self.0);
        // The embedded backend's tests need no Redis.
        let Ok(address) = std::env::var(VARIABLE) else { return };
        let remove = || -> redis::RedisResult<()> {
            let mut connection = redis::Client::open(format!("redis://{address}"))?.get_connection()?;
            let keys: Vec<String> = redis::cmd("SCAN")
                .cursor_arg(0)
                .arg("MATCH")
                .arg(pattern)
                .clone()
                .iter(&mut connection)?
                .collect::<Result<_, _>>()?;
            keys.iter().try_for_each(|key| redis::cmd("UNLINK").arg(key).exec(&mut connection))
        };
        // A failing test must report its own error, not this one.
        if let Err(error) = remove() {
            tracing::warn!(%error, "a test's keys could not be removed from Redis");
        }
    }
}

pub(crate) fn redis_address() -> RedisAddress {
    let address = std::env::var(VARIABLE).unwrap_or_else(|_| {
        panic!("{VARIABLE} is not set: run `cargo xtask test`, which starts Redis, or name a server to test with")
    });
    RedisAddress::parse(&address).unwrap_or_else(|error| panic!("{VARIABLE}: {error}"))
}

/// Makes two tests of each function here: one for each backend.
macro_rules! on_each_backend {
    ($($test:ident),+ $(,)?) => {
        mod on_embedded {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($crate::testing::TestPrices::make($crate::testing::Backend::Embedded)).await;
                }
            )+
        }
        mod on_redis {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test($crate::testing::TestPrices::make($crate::testing::Backend::Redis)).await;
                }
            )+
        }
    };
}
pub(crate) use on_each_backend;
