//! Every recorded frame of `data/frames`, against what is written in it.

use std::path::PathBuf;

use serde_json::Value;
use tocsin_engine::domain::{Conditions, Symbol, Tick};

use super::binance::Streams;
use super::finnhub;
use super::protocol::Frame;
use super::status::RejectReason;

/// A file of the recorded data, which is not part of the repository.
pub(super) fn shared_data(name: &str) -> PathBuf {
    let folder = std::env::var_os("TOCSIN_SHARED_DATA")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")), PathBuf::from);
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is not there: this test needs the recorded market data; set TOCSIN_SHARED_DATA to its folder",
        path.display()
    );
    path
}

/// One file of frames.
pub(super) fn capture(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(shared_data(&format!("frames/{name}.json"))).unwrap()).unwrap()
}

/// The texts of a list of frames, whichever way the file holds them.
pub(super) fn texts(frames: &Value) -> Vec<&str> {
    frames.as_array().unwrap().iter().map(|frame| frame.as_str().or(frame["text"].as_str()).unwrap()).collect()
}

fn tick(symbol: &str, price: f64, volume: f64, time_ms: i64, codes: &[&str]) -> Tick {
    let conditions = Conditions::from_codes(codes.iter().copied());
    Tick::new(Symbol::parse(symbol).unwrap(), price, volume, time_ms, conditions).unwrap()
}

/// The trades of a Finnhub frame, read without the types under test.
fn finnhub_ticks(text: &str) -> Vec<Tick> {
    let frame: Value = serde_json::from_str(text).unwrap();
    let read = |trade: &Value| {
        let codes: Vec<_> = trade["c"].as_array().into_iter().flatten().map(|code| code.as_str().unwrap()).collect();
        let number = |key: &str| trade[key].as_f64().unwrap();
        tick(trade["s"].as_str().unwrap(), number("p"), number("v"), trade["t"].as_i64().unwrap(), &codes)
    };
    frame["data"].as_array().unwrap().iter().map(read).collect()
}

#[test]
fn finnhub_trades_parse_to_their_ticks() {
    for (file, trades) in [
        ("finnhub_trade_AAPL_20230331_consecutive_capture", &[10, 8, 10, 10, 9, 6, 3, 5][..]),
        ("finnhub_trade_crypto_null_conditions", &[10, 2, 6]),
        ("finnhub_docs_example_no_conditions", &[1, 1, 2]),
    ] {
        let file = capture(file);
        let frames = texts(&file["frames"]);
        assert_eq!(frames.len(), trades.len());
        for (text, count) in frames.into_iter().zip(trades) {
            let expect = finnhub_ticks(text);
            assert_eq!(expect.len(), *count, "{text}");
            assert_eq!(finnhub::parse(text), Frame::Trades { ticks: expect, rejected: vec![] }, "{text}");
        }
    }
}

#[test]
fn some_finnhub_ticks_in_full() {
    let first = |file: &str, frame: usize| {
        let file = capture(file);
        match finnhub::parse(texts(&file["frames"])[frame]) {
            Frame::Trades { ticks, .. } => ticks,
            other => panic!("{other:?}"),
        }
    };
    let aapl = first("finnhub_trade_AAPL_20230331_consecutive_capture", 0);
    assert_eq!(aapl[0], tick("AAPL", 164.0601, 5.0, 1680286537580, &["1", "12"]));
    assert_eq!(aapl[2], tick("AAPL", 164.06, 142.0, 1680286538064, &["1", "8"]));
    assert_eq!(aapl[5], aapl[6], "a repeated trade is a trade of its own");
    let crypto = first("finnhub_trade_crypto_null_conditions", 0);
    assert_eq!(crypto[1], tick("BINANCE:BTCUSDT", 66972.77, 0.00008, 1721555886208, &[]));
    let docs = first("finnhub_docs_example_no_conditions", 2);
    assert_eq!(docs[1], tick("MSFT", 220.82, 15.0, 1575526691167, &[]));
}

#[test]
fn finnhub_reject_cases_are_rejected() {
    let file = capture("finnhub_negative_cases_from_unit_test");
    for case in file["cases"].as_array().unwrap() {
        let text = case["frame"].as_str().unwrap();
        let expect = match case["name"].as_str().unwrap() {
            "ok" | "empty conditions" => Frame::Trades { ticks: finnhub_ticks(text), rejected: vec![] },
            "not JSON" => Frame::Rejected(RejectReason::NotJson),
            "unknown type" => Frame::Rejected(RejectReason::UnknownType),
            "misspelt data key" => Frame::Rejected(RejectReason::BadFrame),
            other => panic!("a new case: {other}"),
        };
        assert_eq!(finnhub::parse(text), expect, "{}", case["name"]);
    }
    let file = capture("finnhub_ping_and_error");
    let frames: Vec<_> = texts(&file["frames"]).into_iter().map(finnhub::parse).collect();
    assert_eq!(frames, [Frame::Ping, Frame::TooManySymbols]);
}

#[test]
fn binance_trades_parse_to_their_ticks_and_other_events_are_rejected() {
    let (streams, _) = Streams::of(&[]);
    for (file, list, trades, others) in [
        ("binance_aggTrade_recent_captures", "frames", 5, 0),
        ("binance_coinm_aggTrade_cryptofeed", "aggTrade_frames", 51, 0),
        ("binance_coinm_aggTrade_cryptofeed", "first_60_mixed_frames", 1, 59),
        ("binance_spot_aggTrade_cryptofeed", "aggTrade_frames", 2, 0),
        ("binance_spot_aggTrade_cryptofeed", "first_60_mixed_frames", 0, 60),
        ("binance_us_aggTrade_cryptofeed", "aggTrade_frames", 11, 0),
        ("binance_us_aggTrade_cryptofeed", "first_60_mixed_frames", 0, 60),
        ("binance_usdm_aggTrade_cryptofeed", "aggTrade_frames", 91, 0),
        ("binance_usdm_aggTrade_cryptofeed", "first_60_mixed_frames", 3, 57),
        ("binance_spot_btcusdt_trade_hftbacktest", "trade_frames", 200, 0),
        ("binance_spot_btcusdt_trade_hftbacktest", "first_100_mixed_frames", 16, 84),
        ("binance_usdm_btcusdt_trade_hftbacktest", "trade_frames", 200, 0),
        ("binance_usdm_btcusdt_trade_hftbacktest", "first_100_mixed_frames", 24, 76),
    ] {
        let file_name = file;
        let file = capture(file);
        let mut counts = (0, 0);
        for text in texts(&file[list]) {
            let frame: Value = serde_json::from_str(text).unwrap();
            let event = if frame["data"].is_object() { &frame["data"] } else { &frame };
            let expect = match event["e"].as_str() {
                Some("aggTrade" | "trade") => {
                    counts.0 += 1;
                    let number = |key: &str| event[key].as_str().unwrap().parse().unwrap();
                    let symbol = event["s"].as_str().unwrap();
                    let tick = tick(symbol, number("p"), number("q"), event["T"].as_i64().unwrap(), &[]);
                    Frame::Trades { ticks: vec![tick], rejected: vec![] }
                }
                _ => {
                    counts.1 += 1;
                    Frame::Rejected(RejectReason::UnknownType)
                }
            };
            assert_eq!(streams.parse(text), expect, "{text}");
        }
        assert_eq!(counts, (trades, others), "{file_name} {list}");
    }
}

#[test]
fn some_binance_ticks_in_full() {
    let (streams, _) = Streams::of(&[]);
    for (file, list, expect) in [
        ("binance_aggTrade_recent_captures", "frames", tick("BTCUSDT", 67459.36, 0.00045, 1712325202400, &[])),
        ("binance_coinm_aggTrade_cryptofeed", "aggTrade_frames", tick("BCHUSD_PERP", 427.91, 3.0, 1626916403852, &[])),
        ("binance_usdm_btcusdt_trade_hftbacktest", "trade_frames", tick("BTCUSDT", 61800.3, 0.006, 1723161256322, &[])),
    ] {
        let file = capture(file);
        let frame = streams.parse(texts(&file[list])[0]);
        assert_eq!(frame, Frame::Trades { ticks: vec![expect], rejected: vec![] });
    }
}
