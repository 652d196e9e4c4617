//! What is kept of a symbol beside its finished candles, and how a batch of ticks changes it. All of it is arithmetic:
//! members load what is asked for, and write what comes out as one.
//!
//! The bus gives a tick at least once. So a series knows, for each partition that the symbol came on, up to which offset it
//! holds the ticks, and passes over those that it has.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tocsin_bus::Record;
use tocsin_engine::domain::{Position, Symbol, Tick};

use super::{Candle, Interval, Price};

/// What changes with a symbol's ticks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Series {
    /// Of each partition that the symbol came on, the first offset that is not applied.
    pub(super) applied: Vec<Position>,
    /// The newest candle of each interval, in the order of [`Interval::ALL`]. None before the first tick.
    pub(super) newest: Option<[Candle; 4]>,
}

/// The ticks of a batch that a series does not hold yet; at least one.
pub(super) struct Fresh<'a> {
    ticks: Vec<&'a Tick>,
    applied: Vec<Position>,
}

/// A candle other than the newest of its interval.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finished {
    pub(super) interval: Interval,
    pub(super) candle: Candle,
    /// Whether it takes the place of one that was loaded.
    pub(super) was_stored: bool,
}

/// How a batch changes a symbol.
pub(super) struct Update {
    pub(super) series: Series,
    /// The batch's newest price.
    pub(super) price: Price,
    pub(super) finished: Vec<Finished>,
}

/// Finished candles by interval and start.
pub(super) type Stored = HashMap<(Interval, i64), Candle>;

/// The records of a batch by symbol, in their order.
pub(super) fn by_symbol(batch: &[Record]) -> HashMap<&Symbol, Vec<&Record>> {
    let mut records: HashMap<&Symbol, Vec<&Record>> = HashMap::new();
    for record in batch {
        records.entry(&record.tick.symbol).or_default().push(record);
    }
    records
}

impl Series {
    /// The ticks of a symbol's records that it does not hold yet, if there are any. Partitions of which some were held
    /// already are added to `repeated`, with how far it holds them.
    pub(super) fn fresh<'a>(&self, records: &[&'a Record], repeated: &mut BTreeMap<u32, u64>) -> Option<Fresh<'a>> {
        let mut fresh = Fresh { ticks: Vec::new(), applied: self.applied.clone() };
        for record in records {
            let Position { partition, offset } = record.position;
            let known = fresh.applied.iter_mut().find(|applied| applied.partition == partition);
            match known {
                Some(applied) if offset < applied.offset => {
                    let furthest = repeated.entry(partition).or_default();
                    *furthest = applied.offset.max(*furthest);
                    continue;
                }
                Some(applied) => applied.offset = offset + 1,
                None => fresh.applied.push(Position { partition, offset: offset + 1 }),
            }
            fresh.ticks.push(&record.tick);
        }
        (!fresh.ticks.is_empty()).then_some(fresh)
    }

    /// The finished candles that ticks belong to: to be loaded before they are applied.
    pub(super) fn late(&self, fresh: &Fresh<'_>) -> BTreeSet<(Interval, i64)> {
        let Some(newest) = &self.newest else { return BTreeSet::new() };
        let intervals = Interval::ALL.iter().zip(newest);
        intervals
            .flat_map(|(interval, newest)| {
                let starts = fresh.ticks.iter().map(|tick| interval.start_of(tick.time_ms));
                starts.filter(|start| *start < newest.start_ms).map(|start| (*interval, start))
            })
            .collect()
    }

    /// Applies ticks in their order. `stored` has those of [`Self::late`] that are there.
    pub(super) fn apply(&self, fresh: Fresh<'_>, stored: &Stored) -> Update {
        let mut finished = Vec::new();
        let newest = std::array::from_fn(|i| {
            let interval = Interval::ALL[i];
            let of_interval = stored.iter().filter(|((of, _), _)| *of == interval);
            let mut candles: BTreeMap<i64, Candle> =
                of_interval.map(|((_, start), candle)| (*start, *candle)).collect();
            candles.extend(self.newest.map(|newest| (newest[i].start_ms, newest[i])));
            for tick in &fresh.ticks {
                let candle = candles.entry(interval.start_of(tick.time_ms));
                candle.and_modify(|candle| candle.add(tick)).or_insert_with(|| Candle::of(interval, tick));
            }
            let (_, newest) = candles.pop_last().expect("there is at least one tick");
            finished.extend(candles.into_values().map(|candle| {
                let was_stored = stored.contains_key(&(interval, candle.start_ms));
                Finished { interval, candle, was_stored }
            }));
            newest
        });
        let prices = fresh.ticks.iter().map(|tick| Price { price: tick.price, time_ms: tick.time_ms });
        let price = prices.reduce(|kept, price| if price.replaces(&kept) { price } else { kept });
        Update {
            series: Self { applied: fresh.applied, newest: Some(newest) },
            price: price.expect("there is at least one tick"),
            finished,
        }
    }
}
