//! The newest price of each symbol and its candles, and the projector that keeps them from the bus.
//!
//! [`Prices`] is a closed set of members, as `Bus` is; only `roles` chooses one.

mod candle;
#[cfg(test)]
mod conformance;
mod embedded;
mod encoding;
pub mod health;
mod projector;
mod redis;
#[cfg(any(test, feature = "testing"))]
pub mod samples;
mod series;
#[cfg(test)]
pub(crate) mod testing;

use tocsin_bus::{EmbeddedDbError, Record};
use tocsin_engine::domain::{Position, Symbol};

pub use candle::{Candle, Interval};
pub use embedded::EmbeddedPrices;
pub use projector::{GROUP, ProjectError, project};
pub use redis::{RedisAddress, RedisPrices};

/// The price of a symbol at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Price {
    /// Price of the newest trade.
    pub price: f64,
    /// Its event time, Unix milliseconds.
    pub time_ms: i64,
}

/// Which candles are asked for, by their starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first start, Unix milliseconds. None for the newest candles before `to_ms`, as many as the limit.
    pub from_ms: Option<i64>,
    /// Starts are before this, Unix milliseconds.
    pub to_ms: Option<i64>,
}

/// The newest price of each symbol, and its candles. Cloning is cheap.
#[derive(Clone)]
pub enum Prices {
    /// In this process, on its disk.
    Embedded(EmbeddedPrices),
    /// In a Redis.
    Redis(RedisPrices),
}

/// What can go wrong with prices.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PricesError {
    /// The embedded database failed.
    #[error(transparent)]
    Embedded(#[from] EmbeddedDbError),
    /// Redis is away, slow, or refuses something.
    #[error("Redis at {server}: {reason}")]
    Redis {
        /// Host, port and database.
        server: String,
        /// What is wrong.
        reason: String,
    },
}

impl Price {
    /// Whether this price, which came later, takes the place of `old`: unless its event time is before that of `old`.
    fn replaces(&self, old: &Self) -> bool {
        self.time_ms >= old.time_ms
    }
}

impl PricesError {
    /// Whether trying again can help.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Redis { .. })
    }
}

impl Prices {
    /// Applies ticks in their order, to prices and candles at once: of each symbol all or none. The price of the newest
    /// event time wins, of equal times the later one. Ticks that were applied before are passed over; how far their
    /// partitions are applied is returned. After an error some symbols may have theirs: call again with the same.
    pub async fn apply(&self, batch: &[Record]) -> Result<Vec<Position>, PricesError> {
        match self {
            Self::Embedded(prices) => prices.apply(batch),
            Self::Redis(prices) => prices.apply(batch).await,
        }
    }

    /// The newest price of a symbol, if there ever was one.
    pub async fn get(&self, symbol: &Symbol) -> Result<Option<Price>, PricesError> {
        match self {
            Self::Embedded(prices) => prices.get(symbol),
            Self::Redis(prices) => prices.get(symbol).await,
        }
    }

    /// Up to `limit` (at least 1) candles of a symbol, ordered by start; None if none of its ticks was ever applied.
    /// Intervals without a tick have no candle.
    pub async fn candles(
        &self,
        symbol: &Symbol,
        interval: Interval,
        span: Span,
        limit: usize,
    ) -> Result<Option<Vec<Candle>>, PricesError> {
        match self {
            Self::Embedded(prices) => prices.candles(symbol, interval, span, limit),
            Self::Redis(prices) => prices.candles(symbol, interval, span, limit).await,
        }
    }

    /// What is wrong with them now, for people. Takes a second at most.
    pub async fn problems(&self) -> Vec<String> {
        match self {
            Self::Embedded(_) => Vec::new(),
            Self::Redis(prices) => prices.problems().await,
        }
    }
}

impl Span {
    fn contains(&self, start_ms: i64) -> bool {
        self.from_ms.is_none_or(|from_ms| from_ms <= start_ms) && self.to_ms.is_none_or(|to_ms| start_ms < to_ms)
    }

    /// Of finished candles that lie in it, and the newest one, which may lie elsewhere, the page that is asked for.
    fn page(&self, mut finished: Vec<Candle>, newest: Candle, limit: usize) -> Vec<Candle> {
        // It may have been finished, and others after it, between the two looks at the database.
        if self.contains(newest.start_ms) && finished.iter().all(|candle| candle.start_ms < newest.start_ms) {
            finished.push(newest);
        }
        match self.from_ms {
            Some(_) => finished.truncate(limit),
            None => drop(finished.drain(..finished.len().saturating_sub(limit))),
        }
        finished
    }
}
