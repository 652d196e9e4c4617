//! The embedded prices: two keyspaces of the embedded database. `prices` has one record of each symbol: its price, its
//! series, and where its finished candles begin; it is all that most ticks write. `candles` has the finished candles.
//!
//! Reads and writes are memory lookups and a buffered append to the journal, so they are done in place, without a thread
//! of their own.

mod record;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fjall::Keyspace;
use tocsin_bus::{EmbeddedDb, EmbeddedDbError, Record};
use tocsin_engine::domain::{Position, Symbol};

use self::record::{Finished, SymbolRecord};
use super::series::{Fresh, Stored, by_symbol};
use super::{Candle, Interval, Price, PricesError, Span, encoding};

/// The embedded prices. Cloning is cheap.
#[derive(Clone)]
pub struct EmbeddedPrices(Arc<Shared>);

struct Shared {
    // Before the database: fields drop in order.
    prices: Keyspace,
    candles: Keyspace,
    /// Held from the look at the old records until the new ones are written.
    writing: Mutex<()>,
    db: EmbeddedDb,
}

impl EmbeddedPrices {
    /// Opens the prices in `db`.
    pub fn open(db: &EmbeddedDb) -> Result<Self, PricesError> {
        let (prices, candles) = (db.small_keyspace("prices")?, db.small_keyspace("candles")?);
        Ok(Self(Arc::new(Shared { prices, candles, writing: Mutex::default(), db: db.clone() })))
    }

    pub(super) fn apply(&self, batch: &[Record]) -> Result<Vec<Position>, PricesError> {
        let _writing = self.0.writing.lock().expect("nothing that can panic runs under this lock");
        let mut writes = self.0.db.database().batch();
        let (mut repeated, mut full) = (BTreeMap::new(), Vec::new());
        for (symbol, records) in by_symbol(batch) {
            let mut record = self.record(symbol)?.unwrap_or_default();
            let Some(fresh) = record.series.fresh(&records, &mut repeated) else { continue };
            let stored = self.late(symbol, &record, &fresh)?;
            let update = record.series.apply(fresh, &stored);
            if record.price.is_none_or(|old| update.price.replaces(&old)) {
                record.price = Some(update.price);
            }
            record.series = update.series;
            for finished in update.finished {
                let start_ms = finished.candle.start_ms;
                if !finished.was_stored {
                    record.finished_mut(finished.interval).insert(start_ms);
                }
                let key = candle_key(symbol, finished.interval, start_ms);
                writes.insert(&self.0.candles, key, encoding::candle_to_bytes(&finished.candle));
            }
            writes.insert(&self.0.prices, symbol.as_str(), record.to_bytes());
            if Interval::ALL.into_iter().any(|interval| record.surplus(interval) > 0) {
                full.push((symbol, record));
            }
        }
        writes.commit().map_err(EmbeddedDbError::failed("store prices"))?;
        // If it does not come to this, what is left over is known and goes with the next.
        for (symbol, record) in full {
            self.trim(symbol, record)?;
        }
        Ok(repeated.into_iter().map(|(partition, offset)| Position { partition, offset }).collect())
    }

    pub(super) fn get(&self, symbol: &Symbol) -> Result<Option<Price>, PricesError> {
        Ok(self.record(symbol)?.and_then(|record| record.price))
    }

    pub(super) fn candles(
        &self,
        symbol: &Symbol,
        interval: Interval,
        span: Span,
        limit: usize,
    ) -> Result<Option<Vec<Candle>>, PricesError> {
        // Before the finished ones: a candle that is finished in between is found twice rather than not at all.
        let Some(record) = self.record(symbol)? else { return Ok(None) };
        let Some(newest) = record.series.newest else { return Ok(None) };
        let oldest_ms = record.finished(interval).oldest_ms;
        let (from_ms, to_ms) = (span.from_ms.unwrap_or(0).max(oldest_ms), span.to_ms.unwrap_or(i64::MAX));
        let mut finished = Vec::new();
        if from_ms < to_ms {
            let keys = candle_key(symbol, interval, from_ms)..candle_key(symbol, interval, to_ms);
            let range = self.0.candles.range(keys);
            let candle = |entry: fjall::Guard| {
                let bytes = entry.value().map_err(EmbeddedDbError::failed("read a candle"))?;
                read_candle(symbol, &bytes)
            };
            finished = match span.from_ms {
                Some(_) => range.take(limit).map(candle).collect::<Result<Vec<_>, _>>()?,
                None => range.rev().take(limit).map(candle).collect::<Result<Vec<_>, _>>()?,
            };
            if span.from_ms.is_none() {
                finished.reverse();
            }
        }
        Ok(Some(span.page(finished, newest[interval as usize], limit)))
    }

    fn record(&self, symbol: &Symbol) -> Result<Option<SymbolRecord>, EmbeddedDbError> {
        let stored = self.0.prices.get(symbol.as_str()).map_err(EmbeddedDbError::failed("read a price"))?;
        let damaged = || EmbeddedDbError::Damaged(format!("the price of {symbol} cannot be read"));
        stored.map(|bytes| SymbolRecord::from_bytes(&bytes).ok_or_else(damaged)).transpose()
    }

    /// Those finished candles that late ticks belong to.
    fn late(&self, symbol: &Symbol, record: &SymbolRecord, fresh: &Fresh<'_>) -> Result<Stored, EmbeddedDbError> {
        let mut stored = Stored::new();
        for (interval, start_ms) in record.series.late(fresh) {
            let found = self.0.candles.get(candle_key(symbol, interval, start_ms));
            if let Some(bytes) = found.map_err(EmbeddedDbError::failed("read a candle"))? {
                stored.insert((interval, start_ms), read_candle(symbol, &bytes)?);
            }
        }
        Ok(stored)
    }

    /// Removes the oldest candles of those that are more than are kept.
    fn trim(&self, symbol: &Symbol, mut record: SymbolRecord) -> Result<(), EmbeddedDbError> {
        let mut writes = self.0.db.database().batch();
        for interval in Interval::ALL {
            let surplus = record.surplus(interval);
            if surplus == 0 {
                continue;
            }
            // From the oldest on: what was removed before it would have to be passed over, one by one.
            let oldest = candle_key(symbol, interval, record.finished(interval).oldest_ms);
            let mut range = self.0.candles.range(oldest..candle_key(symbol, interval, i64::MAX));
            for _ in 0..surplus {
                if let Some(entry) = range.next() {
                    writes.remove(&self.0.candles, entry.key().map_err(EmbeddedDbError::failed("read a candle"))?);
                }
            }
            let oldest_ms = match range.next() {
                Some(entry) => {
                    let bytes = entry.value().map_err(EmbeddedDbError::failed("read a candle"))?;
                    read_candle(symbol, &bytes)?.start_ms
                }
                None => i64::MAX,
            };
            let count = record.finished(interval).count - surplus;
            *record.finished_mut(interval) = Finished { count, oldest_ms };
        }
        writes.insert(&self.0.prices, symbol.as_str(), record.to_bytes());
        writes.commit().map_err(EmbeddedDbError::failed("remove old candles"))
    }
}

/// Symbols are printable, so the zero ends them. Starts are not negative, so their bytes sort as they do.
fn candle_key(symbol: &Symbol, interval: Interval, start_ms: i64) -> Vec<u8> {
    [symbol.as_str().as_bytes(), &[0, interval as u8], &start_ms.max(0).to_be_bytes()].concat()
}

fn read_candle(symbol: &Symbol, bytes: &[u8]) -> Result<Candle, EmbeddedDbError> {
    let damaged = || EmbeddedDbError::Damaged(format!("a candle of {symbol} cannot be read"));
    encoding::candle_from_bytes(bytes).ok_or_else(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::record;

    #[test]
    fn prices_and_candles_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let symbol = Symbol::parse("AAPL").unwrap();
        let open = || EmbeddedPrices::open(&EmbeddedDb::open(dir.path()).unwrap()).unwrap();
        open().apply(&[record("AAPL", 0, 0, 150.25, 1.0, 7), record("AAPL", 0, 1, 150.5, 1.0, 1_007)]).unwrap();
        let prices = open();
        assert_eq!(prices.get(&symbol).unwrap(), Some(Price { price: 150.5, time_ms: 1_007 }));
        let span = Span { from_ms: None, to_ms: None };
        let candles = prices.candles(&symbol, Interval::Second, span, 10).unwrap().unwrap();
        assert_eq!(candles.iter().map(|candle| candle.close.price).collect::<Vec<_>>(), [150.25, 150.5]);
    }

    #[test]
    fn a_price_of_before_there_were_candles_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let prices = EmbeddedPrices::open(&EmbeddedDb::open(dir.path()).unwrap()).unwrap();
        let bytes = [150.25_f64.to_be_bytes(), 7_i64.to_be_bytes()].concat();
        prices.0.prices.insert("AAPL", bytes).unwrap();
        let symbol = Symbol::parse("AAPL").unwrap();
        assert_eq!(prices.get(&symbol).unwrap(), Some(Price { price: 150.25, time_ms: 7 }));
        let span = Span { from_ms: None, to_ms: None };
        assert_eq!(prices.candles(&symbol, Interval::Second, span, 10).unwrap(), None);
    }
}
