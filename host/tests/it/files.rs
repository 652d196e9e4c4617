//! Every recorded file, through `tocsin feed` and the Finnhub client: each alert fires exactly once, at the first trade
//! that qualifies, or never, as a naive scan of the file says.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use tocsin_testdata::{Recording, Trade};

use crate::replay::{Deployment, Symbols, play};

/// Alerts on each symbol.
const ALERTS: usize = 1000;

/// An alert, and the trade on which it must fire.
struct Expected {
    condition: &'static str,
    target: f64,
    /// Index among the symbol's trades.
    first: Option<usize>,
}

#[test]
fn price_alerts_fire_once_at_the_first_trade_that_qualifies() {
    check_files(Deployment::Alone);
}

#[test]
fn by_role_price_alerts_fire_once_at_the_first_trade_that_qualifies() {
    check_files(Deployment::ByRole);
}

fn check_files(deployment: Deployment) {
    for path in tocsin_testdata::tick_files() {
        let recording = tocsin_testdata::read(&path);
        check_file(deployment, &path, &recording);
    }
}

fn check_file(deployment: Deployment, path: &Path, recording: &Recording) {
    let symbols: Symbols<'_> = recording.by_symbol().into_iter().collect();
    let mut expected = BTreeMap::new();
    let firings = play(deployment, path, &symbols, |server| {
        for (symbol, trades) in &symbols {
            for alert in expectations(trades) {
                let body = json!({
                    "user_id": 1, "symbol": symbol, "target_price": alert.target, "condition": alert.condition,
                });
                let (status, answer) = server.post("/alerts", &body);
                assert_eq!(status, 201, "{answer}");
                expected.insert(answer["alert_id"].as_i64().unwrap(), (symbol.to_string(), alert));
            }
        }
        expected.values().filter(|(_, alert)| alert.first.is_some()).count()
    });
    for firing in &firings {
        let (symbol, alert) = expected.remove(&firing["alert_id"].as_i64().unwrap()).expect("no alert fires twice");
        let trade = &symbols[symbol.as_str()][alert.first.expect("an alert fired that never qualifies")];
        assert_eq!(firing["symbol"], symbol);
        assert_eq!(firing["price"], trade.price);
        assert_eq!(firing["volume"], trade.volume);
        assert_eq!(firing["timestamp"], trade.time_ms);
    }
    let missing = expected.values().filter(|(_, alert)| alert.first.is_some()).count();
    assert_eq!(missing, 0, "alerts of {} that did not fire", path.display());
}

/// Targets spread over the symbol's range and a little beyond it, and what a scan says of each.
fn expectations(trades: &[&Trade]) -> Vec<Expected> {
    let prices = trades.iter().map(|trade| trade.price);
    let (low, high) = prices.fold((f64::MAX, f64::MIN), |(low, high), price| (low.min(price), high.max(price)));
    let margin = (high - low) * 0.05;
    let step = (high - low + 2.0 * margin) / ALERTS as f64;
    let at = |i: usize| low - margin + step * i as f64;
    (0..ALERTS)
        .map(|i| {
            let target = at(i);
            let above = i % 2 == 0;
            let qualifies = |trade: &&Trade| if above { trade.price >= target } else { trade.price <= target };
            let first = trades.iter().position(qualifies);
            Expected { condition: if above { "ABOVE" } else { "BELOW" }, target, first }
        })
        .collect()
}
