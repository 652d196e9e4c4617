//! The prices in Redis. `price:SYMBOL` and `price:SYMBOL:timestamp` are GoStocks' keys, for any program to read and write.
//! Beside them a symbol has `candles:SYMBOL`, its series as bytes, and the finished candles of each interval in the sorted
//! sets `candles:SYMBOL:1s`, `:1m`, `:5m` and `:1h`, by start. Symbols are upper case, so these names never meet.
//!
//! A batch is applied here, and its results are written by a script, symbol by symbol, if the series is still what was
//! read. So a projector that lost its partition and lives on can neither take a price back nor count a tick twice. A script
//! names keys of several hash slots: a Redis Cluster is not served.

mod address;
mod link;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redis::{FromRedisValue, Pipeline, Script};
use tocsin_bus::Record;
use tocsin_engine::domain::{Position, Symbol};

pub use self::address::RedisAddress;
use self::link::Link;
use super::series::{Fresh, Series, Stored, Update, by_symbol};
use super::{Candle, Interval, Price, PricesError, Span, encoding};

/// How long a read may take. A healthy Redis answers within a millisecond; who waits is a client of the API.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// How long each step of a write may take: a batch of 4,096 symbols is some 2 MB.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often symbols are tried again that another writer was faster with. There is one writer of a partition, and for a
/// moment two; whoever loses so often in a row begins again after a pause.
const MAX_RACES: usize = 8;

/// The prices in Redis. Cloning is cheap.
#[derive(Clone)]
pub struct RedisPrices(Arc<Shared>);

struct Shared {
    /// Of their own, so that a large batch keeps no reader waiting.
    reads: Link,
    writes: Link,
    update: Script,
}

/// A symbol of a batch on its way.
struct Pending<'a> {
    symbol: &'a Symbol,
    records: Vec<&'a Record>,
}

/// A symbol whose records are not all in its series.
struct Begun<'a> {
    pending: Pending<'a>,
    /// The series as it is stored.
    read: Vec<u8>,
    series: Series,
}

impl RedisPrices {
    /// The prices in the Redis at `address`. It need not be there yet: what needs it waits.
    pub fn new(address: &RedisAddress) -> Result<Self, PricesError> {
        Self::with_timeouts(address, READ_TIMEOUT, WRITE_TIMEOUT)
    }

    fn with_timeouts(address: &RedisAddress, read: Duration, write: Duration) -> Result<Self, PricesError> {
        let source = include_str!("redis/update.lua");
        let mut load = Pipeline::new();
        // On each connection: a server that was restarted has forgotten it.
        load.cmd("SCRIPT").arg("LOAD").arg(source).ignore();
        let reads = Link::new(address, read, "prices and candles cannot be read", Pipeline::new())?;
        let writes = Link::new(address, write, "prices and candles are not brought up to date", load)?;
        Ok(Self(Arc::new(Shared { reads, writes, update: Script::new(source) })))
    }

    pub(super) async fn apply(&self, batch: &[Record]) -> Result<Vec<Position>, PricesError> {
        let applied = self.apply_in_rounds(batch).await;
        self.0.writes.note(&applied);
        applied
    }

    async fn apply_in_rounds(&self, batch: &[Record]) -> Result<Vec<Position>, PricesError> {
        let mut repeated = BTreeMap::new();
        let mut left: Vec<_> =
            by_symbol(batch).into_iter().map(|(symbol, records)| Pending { symbol, records }).collect();
        for round in 0.. {
            // Those of a later round are repeated only if this process itself had written them without hearing of it.
            let mut known = BTreeMap::new();
            left = self.try_to_apply(left, if round == 0 { &mut repeated } else { &mut known }).await?;
            if left.is_empty() {
                break;
            }
            if round == MAX_RACES {
                return Err(self.failed(format!("another writer of {} was faster {round} times", left[0].symbol)));
            }
        }
        Ok(repeated.into_iter().map(|(partition, offset)| Position { partition, offset }).collect())
    }

    /// Applies the records of symbols; returns those that another writer was faster with.
    async fn try_to_apply<'a>(
        &self,
        pending: Vec<Pending<'a>>,
        repeated: &mut BTreeMap<u32, u64>,
    ) -> Result<Vec<Pending<'a>>, PricesError> {
        if pending.is_empty() {
            return Ok(pending);
        }
        let begun = self.begin(pending).await?;
        let fresh: Vec<_> = begun.iter().map(|begun| begun.series.fresh(&begun.pending.records, repeated)).collect();
        let stored = self.late(&begun, &fresh).await?;
        let mut scripts = Pipeline::new();
        let mut asked = Vec::new();
        for ((begun, fresh), stored) in begun.into_iter().zip(fresh).zip(stored) {
            let Some(fresh) = fresh else { continue };
            let update = begun.series.apply(fresh, &stored);
            self.add_script(&mut scripts, begun.pending.symbol, begun.read, &update);
            asked.push(begun.pending);
        }
        if asked.is_empty() {
            return Ok(asked);
        }
        let done: Vec<bool> = self.0.writes.call(&scripts).await?;
        Ok(asked.into_iter().zip(done).filter(|(_, done)| !done).map(|(pending, _)| pending).collect())
    }

    async fn begin<'a>(&self, pending: Vec<Pending<'a>>) -> Result<Vec<Begun<'a>>, PricesError> {
        let mut get = Pipeline::new();
        for Pending { symbol, .. } in &pending {
            get.cmd("GET").arg(series_key(symbol));
        }
        let read: Vec<Option<Vec<u8>>> = self.0.writes.call(&get).await?;
        let begin = |(pending, read): (Pending<'a>, Option<Vec<u8>>)| {
            let read = read.unwrap_or_default();
            let series = self.read_series(pending.symbol, &read)?;
            Ok(Begun { pending, read, series })
        };
        pending.into_iter().zip(read).map(begin).collect()
    }

    /// Of each symbol those finished candles that late ticks belong to.
    async fn late(&self, begun: &[Begun<'_>], fresh: &[Option<Fresh<'_>>]) -> Result<Vec<Stored>, PricesError> {
        let mut stored: Vec<_> = begun.iter().map(|_| Stored::new()).collect();
        let (mut get, mut wanted) = (Pipeline::new(), Vec::new());
        for (i, (begun, fresh)) in begun.iter().zip(fresh).enumerate() {
            for (interval, start_ms) in fresh.iter().flat_map(|fresh| begun.series.late(fresh)) {
                let key = candles_key(begun.pending.symbol, interval);
                get.cmd("ZRANGEBYSCORE").arg(key).arg(start_ms).arg(start_ms);
                wanted.push((i, interval, start_ms));
            }
        }
        if wanted.is_empty() {
            return Ok(stored);
        }
        let found: Vec<Vec<Vec<u8>>> = self.0.writes.call(&get).await?;
        for ((i, interval, start_ms), found) in wanted.into_iter().zip(found) {
            for bytes in found {
                let candle = self.read_candle(begun[i].pending.symbol, &bytes)?;
                stored[i].insert((interval, start_ms), candle);
            }
        }
        Ok(stored)
    }

    fn add_script(&self, scripts: &mut Pipeline, symbol: &Symbol, read: Vec<u8>, update: &Update) {
        let command = scripts.cmd("EVALSHA").arg(self.0.update.get_hash());
        command.arg(3 + Interval::ALL.len()).arg(series_key(symbol)).arg(price_key(symbol)).arg(time_key(symbol));
        for interval in Interval::ALL {
            command.arg(candles_key(symbol, interval));
        }
        command.arg(read).arg(encoding::series_to_bytes(&update.series));
        // As text: the shortest that is read back as the same number.
        command.arg(update.price.price.to_string()).arg(update.price.time_ms);
        for finished in &update.finished {
            let (interval, candle) = (finished.interval, &finished.candle);
            // The newest is none of the finished.
            command.arg(interval as usize + 1).arg(interval.kept_candles() - 1);
            command.arg(candle.start_ms).arg(encoding::candle_to_bytes(candle).as_slice());
        }
    }

    pub(super) async fn get(&self, symbol: &Symbol) -> Result<Option<Price>, PricesError> {
        let mut get = Pipeline::new();
        get.cmd("MGET").arg(price_key(symbol)).arg(time_key(symbol));
        let ((price, time_ms),): ((Option<String>, Option<String>),) = self.read(&get).await?;
        let Some(text) = price else { return Ok(None) };
        let price = text.parse::<f64>().ok().filter(|price| price.is_finite());
        let price = price.ok_or_else(|| self.failed(format!("price:{symbol} holds {text:?}, which is no price")))?;
        // Another program may write a price and no time.
        let time_ms = time_ms.and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Some(Price { price, time_ms }))
    }

    pub(super) async fn candles(
        &self,
        symbol: &Symbol,
        interval: Interval,
        span: Span,
        limit: usize,
    ) -> Result<Option<Vec<Candle>>, PricesError> {
        let from = span.from_ms.map_or_else(|| "-inf".to_owned(), |from_ms| from_ms.to_string());
        let to = span.to_ms.map_or_else(|| "+inf".to_owned(), |to_ms| format!("({to_ms}"));
        let mut get = Pipeline::new();
        // At once: a candle is finished in between neither here nor there.
        get.atomic().cmd("GET").arg(series_key(symbol));
        match span.from_ms {
            Some(_) => get.cmd("ZRANGEBYSCORE").arg(candles_key(symbol, interval)).arg(from).arg(to),
            None => get.cmd("ZREVRANGEBYSCORE").arg(candles_key(symbol, interval)).arg(to).arg(from),
        };
        get.arg("LIMIT").arg(0).arg(limit);
        let (series, found): (Option<Vec<u8>>, Vec<Vec<u8>>) = self.read(&get).await?;
        let Some(newest) = self.read_series(symbol, &series.unwrap_or_default())?.newest else { return Ok(None) };
        let mut finished = found.iter().map(|bytes| self.read_candle(symbol, bytes)).collect::<Result<Vec<_>, _>>()?;
        if span.from_ms.is_none() {
            finished.reverse();
        }
        Ok(Some(span.page(finished, newest[interval as usize], limit)))
    }

    pub(super) async fn problems(&self) -> Vec<String> {
        let mut ping = Pipeline::new();
        ping.cmd("PING").ignore();
        // There may have been no read for long; the writer tries again by itself for as long as it is in trouble. What is
        // wrong is noted on the way.
        let _ = self.read::<()>(&ping).await;
        [&self.0.writes, &self.0.reads].into_iter().filter_map(Link::trouble).collect()
    }

    async fn read<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, PricesError> {
        let answer = self.0.reads.call(commands).await;
        self.0.reads.note(&answer);
        answer
    }

    fn read_series(&self, symbol: &Symbol, bytes: &[u8]) -> Result<Series, PricesError> {
        let series = encoding::series_from_bytes(bytes);
        series.ok_or_else(|| self.failed(format!("candles:{symbol} holds no candles of Tocsin: remove the key")))
    }

    fn read_candle(&self, symbol: &Symbol, bytes: &[u8]) -> Result<Candle, PricesError> {
        let candle = encoding::candle_from_bytes(bytes);
        candle.ok_or_else(|| self.failed(format!("the candles of {symbol} hold something else: remove their keys")))
    }

    fn failed(&self, reason: String) -> PricesError {
        self.0.reads.failed(reason)
    }
}

fn price_key(symbol: &Symbol) -> String {
    format!("price:{symbol}")
}

fn time_key(symbol: &Symbol) -> String {
    format!("price:{symbol}:timestamp")
}

fn series_key(symbol: &Symbol) -> String {
    format!("candles:{symbol}")
}

fn candles_key(symbol: &Symbol, interval: Interval) -> String {
    format!("candles:{symbol}:{}", interval.label())
}
