//! What every member of [`Prices`] must do. A member's tests call `conformance::tests!` with an expression that makes a
//! fresh one, beside whatever must live as long as it.

use tocsin_engine::domain::Symbol;

use super::{Price, Prices};

/// Makes a test of each function here, on a member made afresh by `$open`.
macro_rules! tests {
    ($open:expr) => {
        $crate::prices::conformance::tests!(
            $open;
            an_unknown_symbol_has_no_price,
            the_newest_event_time_wins,
            the_same_puts_one_by_one_or_at_once_give_the_same,
            symbols_do_not_mix
        );
    };
    ($open:expr; $($test:ident),+) => {$(
        #[tokio::test]
        async fn $test() {
            let (prices, _keep) = $open;
            $crate::prices::conformance::$test(prices).await;
        }
    )+};
}
pub(super) use tests;

fn symbol(text: &str) -> Symbol {
    Symbol::parse(text).unwrap()
}

pub(super) async fn an_unknown_symbol_has_no_price(prices: Prices) {
    prices.put(&[]).await.unwrap();
    assert_eq!(prices.get(&symbol("AAPL")).await.unwrap(), None);
}

/// Puts (price, time) in turn, and says which price is there afterwards.
const CASES: [(&[(f64, i64)], f64); 6] = [
    (&[(1.0, 10)], 1.0),
    (&[(1.0, 10), (2.0, 11)], 2.0),
    (&[(1.0, 10), (2.0, 9)], 1.0),
    (&[(1.0, 10), (2.0, 10)], 2.0),
    (&[(1.0, 10), (2.0, 12), (3.0, 11), (4.0, 12), (-5.5, 0)], 4.0),
    (&[(0.0, 0), (-37.63, 0)], -37.63),
];

pub(super) async fn the_newest_event_time_wins(prices: Prices) {
    for (i, (puts, expect)) in CASES.iter().enumerate() {
        let symbol = symbol(&format!("CASE{i}"));
        for &(price, time_ms) in *puts {
            prices.put(&[(symbol.clone(), Price { price, time_ms })]).await.unwrap();
        }
        assert_eq!(prices.get(&symbol).await.unwrap().unwrap().price, *expect, "{puts:?}");
    }
}

pub(super) async fn the_same_puts_one_by_one_or_at_once_give_the_same(prices: Prices) {
    let of_case = |i: usize| symbol(&format!("CASE{i}"));
    let batch: Vec<_> = CASES
        .iter()
        .enumerate()
        .flat_map(|(i, (puts, _))| puts.iter().map(move |&(price, time_ms)| (of_case(i), Price { price, time_ms })))
        .collect();
    prices.put(&batch).await.unwrap();
    for (i, (puts, expect)) in CASES.iter().enumerate() {
        assert_eq!(prices.get(&of_case(i)).await.unwrap().unwrap().price, *expect, "{puts:?}");
    }
}

pub(super) async fn symbols_do_not_mix(prices: Prices) {
    let names = ["A", "AA", "BINANCE:BTCUSDT", "IC MARKETS:1"];
    let at = |i: usize| Price { price: i as f64, time_ms: 100 - i as i64 };
    let batch: Vec<_> = names.iter().enumerate().map(|(i, name)| (symbol(name), at(i))).collect();
    prices.put(&batch).await.unwrap();
    for (i, name) in names.iter().enumerate() {
        assert_eq!(prices.get(&symbol(name)).await.unwrap(), Some(at(i)));
    }
}
