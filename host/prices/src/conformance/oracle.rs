//! Candles as one would make them by hand, from all ticks at once; and random histories to compare by.

use std::collections::BTreeMap;
use std::ops::Range;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tocsin_bus::Record;
use tocsin_engine::domain::Tick;

use super::{ALL, candles};
use crate::testing::record;
use crate::{Candle, Interval, Price, Prices};

/// Ticks of a symbol, and how they are delivered.
#[derive(Clone, Debug)]
pub(crate) struct History {
    /// Partition, price, volume and time of each.
    ticks: Vec<(u32, f64, f64, i64)>,
    /// In turn: how many new ones come in a batch, and how many of before it come again with it.
    steps: Vec<(usize, usize)>,
}

impl History {
    /// Offsets rise, and have gaps where another partition's tick or another symbol's lies between.
    pub(crate) fn records(&self, name: &str) -> Vec<Record> {
        let ticks = self.ticks.iter().zip(0..);
        ticks
            .map(|(&(partition, price, volume, time_ms), i)| record(name, partition, i * 3, price, volume, time_ms))
            .collect()
    }

    /// Which records each batch has; every one is delivered at least once, for the first time in its order.
    pub(crate) fn deliveries(&self) -> Vec<Range<usize>> {
        let (mut done, mut batches) = (0, Vec::new());
        for (new, again) in self.steps.iter().cycle() {
            let end = (done + new).min(self.ticks.len());
            batches.push(done.saturating_sub(*again)..end);
            done = end;
            if done == self.ticks.len() {
                break;
            }
        }
        batches
    }
}

fn histories() -> impl Strategy<Value = History> {
    // Sums of tenths depend on their order.
    let price = (-20..80).prop_map(|tenths| f64::from(tenths) * 0.1);
    let volume = prop_oneof![Just(0.0), Just(1.0), (1..50).prop_map(|tenths| f64::from(tenths) * 0.1)];
    let time_ms = prop_oneof![4 => 0..20_000_i64, 2 => (0..40_i64).prop_map(|half| half * 500), 1 => 0..20_000_000_i64];
    let partition = prop_oneof![6 => Just(0_u32), 1 => Just(5)];
    let ticks = prop::collection::vec((partition, price, volume, time_ms), 1..80);
    let steps = prop::collection::vec((1..20_usize, prop_oneof![2 => Just(0), 1 => 0..30_usize]), 1..10);
    (ticks, steps).prop_map(|(ticks, steps)| History { ticks, steps })
}

/// Runs a check on random histories, each with its number.
pub(crate) fn for_each_history(cases: u32, check: impl AsyncFn(History, usize) -> Result<(), TestCaseError>) {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(cases) });
    let case = std::cell::Cell::new(0);
    let ran = runner.run(&histories(), |history| {
        case.set(case.get() + 1);
        let runtime = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| runtime.block_on(check(history, case.get())))
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
}

/// Compares what prices have of one symbol with what all its ticks, in their order, amount to.
pub(crate) async fn check_against_oracle(prices: &Prices, records: &[Record]) -> Result<(), TestCaseError> {
    let ticks: Vec<_> = records.iter().map(|record| &record.tick).collect();
    let symbol = &ticks[0].symbol;
    let newest = ticks.iter().max_by_key(|tick| tick.time_ms).copied().map(price_of);
    prop_assert_eq!(prices.get(symbol).await.unwrap(), newest);
    for interval in Interval::ALL {
        prop_assert_eq!(candles(prices, symbol, interval, ALL).await, made_by_hand(interval, &ticks));
    }
    Ok(())
}

fn price_of(tick: &Tick) -> Price {
    Price { price: tick.price, time_ms: tick.time_ms }
}

fn made_by_hand(interval: Interval, ticks: &[&Tick]) -> Vec<Candle> {
    let mut buckets: BTreeMap<i64, Vec<&Tick>> = BTreeMap::new();
    for tick in ticks {
        buckets.entry(tick.time_ms / interval.length_ms() * interval.length_ms()).or_default().push(tick);
    }
    let candle = |(start_ms, ticks): (i64, Vec<&Tick>)| {
        let prices = || ticks.iter().map(|tick| tick.price);
        Candle {
            start_ms,
            // Of equals the first, and the last.
            open: price_of(ticks.iter().min_by_key(|tick| tick.time_ms).unwrap()),
            close: price_of(ticks.iter().max_by_key(|tick| tick.time_ms).unwrap()),
            high: prices().max_by(f64::total_cmp).unwrap(),
            low: prices().min_by(f64::total_cmp).unwrap(),
            // From 0.0 on: an empty sum of floats is -0.0.
            volume: ticks.iter().fold(0.0, |sum, tick| sum + tick.volume),
            turnover: ticks.iter().fold(0.0, |sum, tick| sum + tick.price * tick.volume),
            trades: ticks.iter().filter(|tick| tick.volume != 0.0).count() as u64,
        }
    };
    buckets.into_iter().map(candle).collect()
}
