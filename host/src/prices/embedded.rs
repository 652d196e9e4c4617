//! The embedded prices: a keyspace of the embedded database, symbol to price and event time.
//!
//! Reads and writes are a memory lookup and a buffered append to the journal, so they are done in place, without a thread
//! of their own.

use std::sync::{Arc, Mutex};

use fjall::Keyspace;
use tocsin_engine::domain::Symbol;

use super::{Price, PricesError, newest_of};
use crate::bus::{EmbeddedDb, EmbeddedDbError};

/// The embedded prices. Cloning is cheap.
#[derive(Clone)]
pub struct EmbeddedPrices(Arc<Shared>);

struct Shared {
    // Before the database: fields drop in order.
    prices: Keyspace,
    /// Held from the look at the old price until the new one is written.
    writing: Mutex<()>,
    db: EmbeddedDb,
}

impl EmbeddedPrices {
    /// Opens the prices in `db`.
    pub fn open(db: &EmbeddedDb) -> Result<Self, PricesError> {
        let prices = db.small_keyspace("prices")?;
        Ok(Self(Arc::new(Shared { prices, writing: Mutex::default(), db: db.clone() })))
    }

    pub(super) fn put(&self, batch: &[(Symbol, Price)]) -> Result<(), PricesError> {
        let _writing = self.0.writing.lock().expect("nothing that can panic runs under this lock");
        let mut writes = self.0.db.database().batch();
        for (symbol, price) in newest_of(batch) {
            if self.get(symbol)?.is_none_or(|old| price.replaces(&old)) {
                writes.insert(&self.0.prices, symbol.as_str(), to_bytes(price));
            }
        }
        Ok(writes.commit().map_err(EmbeddedDbError::failed("store prices"))?)
    }

    pub(super) fn get(&self, symbol: &Symbol) -> Result<Option<Price>, PricesError> {
        let stored = self.0.prices.get(symbol.as_str()).map_err(EmbeddedDbError::failed("read a price"))?;
        Ok(stored.map(|bytes| from_bytes(symbol, &bytes)).transpose()?)
    }
}

fn to_bytes(price: Price) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&price.price.to_be_bytes());
    bytes[8..].copy_from_slice(&price.time_ms.to_be_bytes());
    bytes
}

fn from_bytes(symbol: &Symbol, bytes: &[u8]) -> Result<Price, EmbeddedDbError> {
    match bytes.as_chunks::<8>() {
        ([price, time_ms], []) => {
            Ok(Price { price: f64::from_be_bytes(*price), time_ms: i64::from_be_bytes(*time_ms) })
        }
        _ => Err(EmbeddedDbError::Damaged(format!("the price of {symbol} cannot be read"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prices::{Prices, conformance};

    fn open() -> (Prices, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let db = EmbeddedDb::open(dir.path()).unwrap();
        (Prices::Embedded(EmbeddedPrices::open(&db).unwrap()), dir)
    }

    conformance::tests!(open());

    #[test]
    fn prices_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let symbol = Symbol::parse("AAPL").unwrap();
        let price = Price { price: 150.25, time_ms: 7 };
        EmbeddedPrices::open(&EmbeddedDb::open(dir.path()).unwrap()).unwrap().put(&[(symbol.clone(), price)]).unwrap();
        let again = EmbeddedPrices::open(&EmbeddedDb::open(dir.path()).unwrap()).unwrap();
        assert_eq!(again.get(&symbol).unwrap(), Some(price));
    }
}
