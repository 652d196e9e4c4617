//! The example rules as their users run them: uploaded as WebAssembly, evaluated on every recorded file through `tocsin
//! feed` and the Finnhub client. They fire exactly where their definitions say, with the same evidence bit for bit.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tocsin_testdata::reference::{self, Direction, Fired};
use tocsin_testdata::{Recording, Trade};

use crate::replay::{Deployment, Symbols, play};
use crate::server::Server;

/// The three rules, each with the names of its evidence.
const RULES: [(&str, [&str; 2]); 3] = [
    ("percent-move", ["change_percent", "reference_price"]),
    ("ema-cross", ["fast_ema", "slow_ema"]),
    ("volume-spike", ["z_score", "mean_volume"]),
];

/// An alert, and the trades on which it must fire.
struct Expected {
    symbol: String,
    evidence: [&'static str; 2],
    fired: Fired,
}

#[test]
fn example_rules_fire_by_their_definitions() {
    check_files(Deployment::Alone);
}

#[test]
fn by_role_example_rules_fire_by_their_definitions() {
    check_files(Deployment::ByRole);
}

fn check_files(deployment: Deployment) {
    let mut due: BTreeMap<&str, usize> = BTreeMap::new();
    for path in tocsin_testdata::tick_files() {
        for (rule, firings) in check_file(deployment, &path, &tocsin_testdata::read(&path)) {
            *due.entry(rule).or_default() += firings;
        }
    }
    assert!(RULES.iter().all(|(rule, _)| due[rule] > 5_000), "too few firings to compare: {due:?}");
}

/// Plays one file; returns how many firings of each rule were right.
fn check_file(deployment: Deployment, path: &Path, recording: &Recording) -> BTreeMap<&'static str, usize> {
    let symbols: Symbols<'_> = recording.by_symbol().into_iter().collect();
    let mut expected: BTreeMap<i64, Expected> = BTreeMap::new();
    let mut due = BTreeMap::new();
    let mut firings = play(deployment, path, &symbols, |server| {
        for (rule, evidence) in RULES {
            let (status, answer) = server.upload(module(rule));
            assert_eq!(status, 201, "{answer}");
            for (symbol, trades) in &symbols {
                for (params, fired) in cases(rule, trades) {
                    *due.entry(rule).or_default() += fired.len();
                    let alert = create(server, rule, symbol, &params);
                    expected.insert(alert, Expected { symbol: symbol.to_string(), evidence, fired });
                }
            }
        }
        due.values().sum()
    });
    // A symbol's ticks are on one partition, in their order.
    firings.sort_by_key(|firing| (firing["alert_id"].as_i64(), firing["offset"].as_u64()));
    for (alert, Expected { symbol, evidence, fired }) in expected {
        let trades = &symbols[symbol.as_str()];
        let of_alert = firings.iter().filter(|firing| firing["alert_id"] == alert);
        let got: Vec<[u64; 5]> = of_alert.map(|firing| of_firing(firing, &symbol, evidence)).collect();
        let must: Vec<[u64; 5]> = fired.iter().map(|(index, numbers)| of_trade(trades[*index], numbers)).collect();
        let case = format!("{}, {symbol}, alert {alert}", path.display());
        let differs = got.iter().zip(&must).position(|(got, must)| got != must);
        assert_eq!(differs, None, "{case}: the index of the first firing that is not as defined");
        assert_eq!(got.len(), must.len(), "{case}");
    }
    due
}

fn create(server: &Server, rule: &str, symbol: &str, params: &Value) -> i64 {
    let body = json!({
        "user_id": 1, "symbols": [symbol], "rule": rule, "params": params, "lifecycle": {"repeat": "every"},
    });
    let (status, answer) = server.post("/api/v1/alerts", &body);
    assert_eq!(status, 201, "{answer}");
    answer["id"].as_i64().unwrap()
}

/// A rule's module, as `cargo xtask rules` leaves it in the target folder.
fn module(rule: &str) -> Vec<u8> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the folder is in the target folder");
    let path = target.join("rules").join(rule).with_extension("wasm");
    std::fs::read(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; build the example rules first: cargo xtask rules", path.display());
    })
}

/// Params of a rule's alerts, each with what must fire.
fn cases(rule: &str, trades: &[&Trade]) -> Vec<(Value, Fired)> {
    let prices: Vec<f64> = trades.iter().map(|trade| trade.price).collect();
    let direction = |direction| match direction {
        Direction::Up => "up",
        Direction::Down => "down",
        Direction::Either => "either",
    };
    match rule {
        "percent-move" => {
            let ticks: Vec<(f64, i64)> = trades.iter().map(|trade| (trade.price, trade.time_ms)).collect();
            let params =
                [(0.05, 1_000, Direction::Up), (0.02, 2_000, Direction::Down), (0.1, 30_001, Direction::Either)];
            let case = |(percent, window_ms, way)| {
                let params = json!({"percent": percent, "window_ms": window_ms, "direction": direction(way)});
                (params, reference::percent_move(&ticks, percent, window_ms, way))
            };
            params.map(case).into()
        }
        "ema-cross" => {
            let params = [(12, 26, Direction::Up), (26, 12, Direction::Down), (50, 200, Direction::Either)];
            let case = |(fast, slow, way)| {
                let params = json!({"fast": fast, "slow": slow, "direction": direction(way)});
                (params, reference::ema_cross(&prices, fast, slow, way))
            };
            params.map(case).into()
        }
        "volume-spike" => {
            let volumes: Vec<f64> = trades.iter().map(|trade| trade.volume).collect();
            let case = |(window, z_score)| {
                let params = json!({"trades": window, "z_score": z_score});
                (params, reference::volume_spike(&volumes, window, z_score))
            };
            [(8, 12.5), (100, 4.0), (256, 3.0)].map(case).into()
        }
        other => panic!("no definition of {other}"),
    }
}

/// What a firing says of its tick and its evidence: time, price, volume and two numbers, as bits.
fn of_firing(firing: &Value, symbol: &str, evidence: [&str; 2]) -> [u64; 5] {
    assert_eq!(firing["symbol"], symbol);
    assert_eq!(firing["evidence"].as_object().unwrap().len(), evidence.len(), "{firing}");
    let bits = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{firing} lacks a number")).to_bits();
    let [first, second] = evidence.map(|name| bits(&firing["evidence"][name]));
    let time_ms = firing["timestamp"].as_u64().unwrap();
    [time_ms, bits(&firing["price"]), bits(&firing["volume"]), first, second]
}

/// The same of the trade that must fire.
fn of_trade(trade: &Trade, numbers: &[f64]) -> [u64; 5] {
    let time_ms = trade.time_ms.try_into().unwrap();
    [time_ms, trade.price.to_bits(), trade.volume.to_bits(), numbers[0].to_bits(), numbers[1].to_bits()]
}
