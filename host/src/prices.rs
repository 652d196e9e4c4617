//! The newest price of each symbol, and the projector that keeps it from the bus.
//!
//! [`Prices`] is a closed set of members, as `Bus` is; only `roles` chooses one.

#[cfg(test)]
mod conformance;
mod embedded;
mod projector;

use std::collections::HashMap;

use tocsin_engine::domain::Symbol;

use crate::bus::EmbeddedDbError;

pub use embedded::EmbeddedPrices;
pub use projector::{GROUP, ProjectError, project};

/// The price of a symbol at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Price {
    /// Price of the newest trade.
    pub price: f64,
    /// Its event time, Unix milliseconds.
    pub time_ms: i64,
}

/// The newest price of each symbol. Cloning is cheap.
#[derive(Clone)]
pub enum Prices {
    /// In this process, on its disk.
    Embedded(EmbeddedPrices),
}

/// What can go wrong with prices.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PricesError {
    /// The embedded database failed.
    #[error(transparent)]
    Embedded(#[from] EmbeddedDbError),
}

impl Price {
    /// Whether this price, which came later, takes the place of `old`: unless its event time is before that of `old`.
    fn replaces(&self, old: &Self) -> bool {
        self.time_ms >= old.time_ms
    }
}

impl Prices {
    /// Puts prices, in their order. The newest event time wins; at equal times the later put.
    pub async fn put(&self, batch: &[(Symbol, Price)]) -> Result<(), PricesError> {
        match self {
            Self::Embedded(prices) => prices.put(batch),
        }
    }

    /// The newest price of a symbol, if there ever was one.
    pub async fn get(&self, symbol: &Symbol) -> Result<Option<Price>, PricesError> {
        match self {
            Self::Embedded(prices) => prices.get(symbol),
        }
    }
}

/// The newest price of each symbol of a batch: what a member compares with what it has.
fn newest_of(batch: &[(Symbol, Price)]) -> HashMap<&Symbol, Price> {
    let mut newest = HashMap::new();
    for (symbol, price) in batch {
        let kept = newest.entry(symbol).or_insert(*price);
        if price.replaces(kept) {
            *kept = *price;
        }
    }
    newest
}
