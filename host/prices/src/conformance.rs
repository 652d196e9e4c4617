//! What every member of [`Prices`] must do.

mod oracle;

use tocsin_bus::Record;
use tocsin_engine::domain::Symbol;

use super::testing::{TestPrices, on_each_backend, record};
use super::{Candle, Interval, Price, Prices, Span};

pub(super) use self::oracle::{History, check_against_oracle, for_each_history};

on_each_backend!(
    an_unknown_symbol_has_no_price_and_no_candles,
    the_newest_event_time_wins,
    the_same_ticks_one_by_one_or_at_once_give_the_same,
    symbols_do_not_mix,
    what_was_applied_is_passed_over_and_told,
    candles_come_in_pages,
    the_newest_candles_are_kept,
    candles_are_an_oracles_however_ticks_are_batched_and_replayed,
);

pub(super) const ALL: Span = Span { from_ms: None, to_ms: None };

async fn an_unknown_symbol_has_no_price_and_no_candles(test_prices: TestPrices) {
    assert_eq!(test_prices.prices.apply(&[]).await.unwrap(), []);
    assert_eq!(test_prices.prices.get(&test_prices.symbol("AAPL")).await.unwrap(), None);
    assert_eq!(test_prices.prices.candles(&test_prices.symbol("AAPL"), Interval::Second, ALL, 10).await.unwrap(), None);
}

/// Applies (price, time) in turn, and says which price is there afterwards.
const CASES: [(&[(f64, i64)], f64); 7] = [
    (&[(1.0, 10)], 1.0),
    (&[(1.0, 10), (2.0, 11)], 2.0),
    (&[(1.0, 10), (2.0, 9)], 1.0),
    (&[(1.0, 10), (2.0, 10)], 2.0),
    (&[(1.0, 10), (2.0, 12), (3.0, 11), (4.0, 12), (-5.5, 0)], 4.0),
    (&[(0.0, 0), (-37.63, 0)], -37.63),
    (&[(0.1 + 0.2, 0), (5e-324, 253_402_300_799_999)], 5e-324),
];

fn records_of_cases(test_prices: &TestPrices) -> Vec<Record> {
    let cases = CASES.iter().enumerate();
    let ticks =
        cases.flat_map(|(i, (ticks, _))| ticks.iter().map(move |tick| (test_prices.name(&format!("CASE{i}")), *tick)));
    ticks.zip(0..).map(|((name, (price, time_ms)), offset)| record(&name, 0, offset, price, 1.0, time_ms)).collect()
}

async fn check_cases(test_prices: &TestPrices) {
    for (i, (ticks, expect)) in CASES.iter().enumerate() {
        let price = test_prices.prices.get(&test_prices.symbol(&format!("CASE{i}"))).await.unwrap().unwrap();
        assert_eq!(price.price, *expect, "{ticks:?}");
    }
}

async fn the_newest_event_time_wins(test_prices: TestPrices) {
    for record in records_of_cases(&test_prices) {
        test_prices.prices.apply(&[record]).await.unwrap();
    }
    check_cases(&test_prices).await;
}

async fn the_same_ticks_one_by_one_or_at_once_give_the_same(test_prices: TestPrices) {
    test_prices.prices.apply(&records_of_cases(&test_prices)).await.unwrap();
    check_cases(&test_prices).await;
}

async fn symbols_do_not_mix(test_prices: TestPrices) {
    let names = ["A", "AA", "BINANCE:BTCUSDT", "IC MARKETS:1", "A:1M"];
    let batch: Vec<_> = names
        .iter()
        .zip(0..)
        .map(|(name, i)| record(&test_prices.name(name), 0, i, i as f64, 1.0, 100 - i as i64))
        .collect();
    test_prices.prices.apply(&batch).await.unwrap();
    for (i, name) in names.iter().enumerate() {
        let expect = Price { price: i as f64, time_ms: 100 - i as i64 };
        assert_eq!(test_prices.prices.get(&test_prices.symbol(name)).await.unwrap(), Some(expect));
        let candles = candles(&test_prices.prices, &test_prices.symbol(name), Interval::Hour, ALL).await;
        assert_eq!(candles.iter().map(|candle| candle.open).collect::<Vec<_>>(), [expect]);
    }
}

async fn what_was_applied_is_passed_over_and_told(test_prices: TestPrices) {
    let tick = |partition, offset, price| record(&test_prices.name("X"), partition, offset, price, 1.0, 10);
    assert_eq!(test_prices.prices.apply(&[tick(0, 5, 1.0), tick(3, 0, 2.0)]).await.unwrap(), []);
    let told =
        test_prices.prices.apply(&[tick(0, 4, 3.0), tick(0, 5, 4.0), tick(3, 1, 5.0), tick(3, 1, 6.0)]).await.unwrap();
    let told: Vec<_> = told.into_iter().map(|position| (position.partition, position.offset)).collect();
    assert_eq!(told, [(0, 6), (3, 2)]);
    let candle = candles(&test_prices.prices, &test_prices.symbol("X"), Interval::Second, ALL).await[0];
    assert_eq!((candle.trades, candle.close.price, candle.high), (3, 5.0, 5.0));
    assert_eq!(test_prices.prices.get(&test_prices.symbol("X")).await.unwrap().unwrap().price, 5.0);
}

async fn candles_come_in_pages(test_prices: TestPrices) {
    let symbol = test_prices.symbol("X");
    let ticks: Vec<_> = (0..10).map(|i| record(&test_prices.name("X"), 0, i, 1.0, 1.0, i as i64 * 2_000 + 7)).collect();
    test_prices.prices.apply(&ticks).await.unwrap();
    let check = async |from_ms, to_ms, limit, expect: &[i64]| {
        let span = Span { from_ms, to_ms };
        let candles = test_prices.prices.candles(&symbol, Interval::Second, span, limit).await.unwrap().unwrap();
        let starts: Vec<_> = candles.iter().map(|candle| candle.start_ms / 1_000).collect();
        assert_eq!(starts, expect, "{span:?}, {limit}");
    };
    check(None, None, 100, &[0, 2, 4, 6, 8, 10, 12, 14, 16, 18]).await;
    check(None, None, 3, &[14, 16, 18]).await;
    check(None, None, 1, &[18]).await;
    check(None, Some(18_000), 2, &[14, 16]).await;
    check(None, Some(18_001), 2, &[16, 18]).await;
    check(None, Some(0), 2, &[]).await;
    check(Some(i64::MIN), None, 2, &[0, 2]).await;
    check(Some(2_000), None, 2, &[2, 4]).await;
    check(Some(2_001), Some(8_000), 9, &[4, 6]).await;
    check(Some(14_000), None, 3, &[14, 16, 18]).await;
    check(Some(14_000), None, 2, &[14, 16]).await;
    check(Some(18_000), Some(i64::MAX), 2, &[18]).await;
    check(Some(18_001), None, 2, &[]).await;
    check(Some(8_000), Some(8_000), 2, &[]).await;
    check(Some(9_000), Some(2_000), 2, &[]).await;
}

async fn the_newest_candles_are_kept(test_prices: TestPrices) {
    let (interval, symbol) = (Interval::FiveMinutes, test_prices.symbol("X"));
    let kept = interval.kept_candles() as u64;
    // Later ticks than there is room for, the first of them as one batch and the rest one by one.
    let at = |offset, i: u64| record(&test_prices.name("X"), 0, offset, 1.0, 1.0, i as i64 * interval.length_ms());
    let ticks: Vec<_> = (0..kept + 40).map(|i| at(i, i + 10)).collect();
    let (batch, single) = ticks.split_at(kept as usize + 20);
    test_prices.prices.apply(batch).await.unwrap();
    for tick in single {
        test_prices.prices.apply(std::slice::from_ref(tick)).await.unwrap();
    }
    // One is too late, the other just not.
    test_prices.prices.apply(&[at(9_000, 3), at(9_001, 50), at(9_002, 49)]).await.unwrap();
    let candles = candles(&test_prices.prices, &symbol, interval, Span { from_ms: Some(0), to_ms: None }).await;
    assert_eq!(candles.len() as u64, kept);
    assert_eq!(candles[0].start_ms, 50 * interval.length_ms());
    assert_eq!(candles.iter().map(|candle| candle.trades).sum::<u64>(), kept + 1);
}

async fn candles_are_an_oracles_however_ticks_are_batched_and_replayed(test_prices: TestPrices) {
    let cases = if matches!(test_prices.prices, Prices::Embedded(_)) { 200 } else { 100 };
    for_each_history(cases, async |history: History, case| {
        let name = test_prices.name(&format!("CASE{case}"));
        let records = history.records(&name);
        for batch in history.deliveries() {
            test_prices.prices.apply(&records[batch]).await.unwrap();
        }
        check_against_oracle(&test_prices.prices, &records).await
    });
}

/// All candles of a span, whatever their number.
pub(super) async fn candles(prices: &Prices, symbol: &Symbol, interval: Interval, span: Span) -> Vec<Candle> {
    prices.candles(symbol, interval, span, usize::MAX >> 1).await.unwrap().unwrap()
}
