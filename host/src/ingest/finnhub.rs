//! Finnhub's trade stream on the wire: the URL, subscriptions and frames.
//!
//! Protocol: <https://finnhub.io/docs/api/websocket-trades>. What the documentation leaves out was taken from recorded
//! frames: `c` is absent, `null` or a list; `v` may be 0 (a price update); times may run backwards inside a frame; equal
//! trades are distinct trades, since they carry no id.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tocsin_engine::domain::{Conditions, Symbol, Tick};

use super::Secret;
use super::protocol::{Frame, reason_of, to_tick};
use super::status::RejectReason;

/// What Finnhub says when a plan's number of subscriptions is used up.
pub(crate) const TOO_MANY_SYMBOLS: &str = "Subscribing to too many symbols";

/// How much of an error's text is kept, in characters: it is shown to people and comes from outside.
const MAX_ERROR_CHARS: usize = 200;

/// A trade frame of the usual form.
#[derive(Deserialize)]
struct TradeFrame<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    data: Vec<WireTrade<'a>>,
}

/// Any frame: what [`TradeFrame`] could not read is taken apart with this.
#[derive(Deserialize)]
struct AnyFrame<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    msg: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireTrade<'a> {
    #[serde(borrow)]
    s: Cow<'a, str>,
    p: f64,
    t: i64,
    v: f64,
    #[serde(borrow, default)]
    c: Option<Vec<Code<'a>>>,
}

/// A trade condition: a number in a string as a rule, and it is not worth a trade if it is something else.
#[derive(Deserialize)]
#[serde(untagged)]
enum Code<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    Other(IgnoredAny),
}

/// The URL to connect to, with the key.
pub(super) fn url(base: &str, key: &Secret) -> String {
    let (place, query) = base.split_once('?').unwrap_or((base, ""));
    // Without a path the WebSocket library would ask for `?token=…`, which servers refuse as malformed.
    let path = if place.split_once("://").is_some_and(|(_, rest)| !rest.contains('/')) { "/" } else { "" };
    let separator = if query.is_empty() { "" } else { "&" };
    let token: String = form_urlencoded::byte_serialize(key.expose().as_bytes()).collect();
    format!("{place}{path}?{query}{separator}token={token}")
}

/// The message that subscribes to a symbol.
pub(super) fn subscription(symbol: &Symbol) -> String {
    serde_json::json!({ "type": "subscribe", "symbol": symbol.as_str() }).to_string()
}

/// Reads a text frame. A bad trade is left out, and the others of its frame are kept.
pub(super) fn parse(text: &str) -> Frame {
    match serde_json::from_str::<TradeFrame>(text) {
        Ok(frame) if frame.kind == "trade" => trades(frame.data.into_iter().map(Ok)),
        _ => parse_any(text),
    }
}

fn parse_any(text: &str) -> Frame {
    let frame = match serde_json::from_str::<AnyFrame>(text) {
        Ok(frame) => frame,
        Err(_) => return Frame::Rejected(reason_of(text)),
    };
    match (&*frame.kind, frame.data) {
        ("ping", _) => Frame::Ping,
        ("error", _) => complaint(frame.msg.map_or("", RawValue::get)),
        ("trade", Some(data)) => match serde_json::from_str::<Vec<&RawValue>>(data.get()) {
            Ok(raw) => trades(raw.into_iter().map(|trade| serde_json::from_str(trade.get()))),
            Err(_) => Frame::Rejected(RejectReason::BadFrame),
        },
        ("trade", None) => Frame::Rejected(RejectReason::BadFrame),
        _ => Frame::Rejected(RejectReason::UnknownType),
    }
}

/// The first trade of a trade frame that gives no tick, as it came.
pub(super) fn bad_trade(text: &str) -> Option<&str> {
    let data = serde_json::from_str::<AnyFrame>(text).ok()?.data?;
    let trades = serde_json::from_str::<Vec<&RawValue>>(data.get()).ok()?;
    let is_bad = |trade: &&RawValue| !serde_json::from_str(trade.get()).is_ok_and(|trade| from_wire(&trade).is_ok());
    trades.into_iter().find(is_bad).map(RawValue::get)
}

fn complaint(msg: &str) -> Frame {
    let text = serde_json::from_str::<String>(msg).unwrap_or_else(|_| msg.to_owned());
    if text == TOO_MANY_SYMBOLS {
        return Frame::TooManySymbols;
    }
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    Frame::Error(text.chars().map(clean).take(MAX_ERROR_CHARS).collect())
}

fn trades<'a>(wire: impl ExactSizeIterator<Item = serde_json::Result<WireTrade<'a>>>) -> Frame {
    let mut ticks = Vec::with_capacity(wire.len());
    let mut rejected = Vec::new();
    for trade in wire {
        match trade.map_err(|_| RejectReason::BadTrade).and_then(|trade| from_wire(&trade)) {
            Ok(tick) => ticks.push(tick),
            Err(reason) => rejected.push(reason),
        }
    }
    Frame::Trades { ticks, rejected }
}

fn from_wire(trade: &WireTrade) -> Result<Tick, RejectReason> {
    let codes = trade.c.iter().flatten().map(|code| match code {
        Code::Text(text) => text,
        Code::Other(_) => "", // counts as a code that is not a number
    });
    to_tick(&trade.s, trade.p, trade.v, trade.t, Conditions::from_codes(codes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(symbol: &str, price: f64, volume: f64, time_ms: i64, codes: &[&str]) -> Tick {
        to_tick(symbol, price, volume, time_ms, Conditions::from_codes(codes.iter().copied())).unwrap()
    }

    #[track_caller]
    fn check_trade(trade: &str, expect: Result<Tick, RejectReason>) {
        let good = r#"{"s":"A","p":1.5,"t":7,"v":2}"#;
        let frame = parse(&format!(r#"{{"type":"trade","data":[{good},{trade},{good}]}}"#));
        let good = tick("A", 1.5, 2.0, 7, &[]);
        let (ticks, rejected) = match expect {
            Ok(tick) => (vec![good.clone(), tick, good], vec![]),
            Err(reason) => (vec![good.clone(), good], vec![reason]),
        };
        assert_eq!(frame, Frame::Trades { ticks, rejected }, "{trade}");
    }

    #[test]
    fn a_trade_may_come_in_many_forms() {
        check_trade(r#"{"s":"A","p":1,"t":9,"v":3}"#, Ok(tick("A", 1.0, 3.0, 9, &[])));
        check_trade(r#"{"s":"a","p":1,"t":9,"v":3,"c":null}"#, Ok(tick("A", 1.0, 3.0, 9, &[])));
        check_trade(r#"{"s":"A","p":1,"t":9,"v":3,"c":[]}"#, Ok(tick("A", 1.0, 3.0, 9, &[])));
        check_trade(r#"{"c":["1","12"],"p":1,"s":"A","t":9,"v":3}"#, Ok(tick("A", 1.0, 3.0, 9, &["1", "12"])));
        check_trade(r#"{"c":["1",{},7],"p":1,"s":"A","t":9,"v":3}"#, Ok(tick("A", 1.0, 3.0, 9, &["1", ""])));
        check_trade(r#"{"s":"A","p":1,"t":9,"v":0}"#, Ok(tick("A", 1.0, 0.0, 9, &[])));
        check_trade(r#"{"s":"A","p":-37.63,"t":0,"v":1e-5}"#, Ok(tick("A", -37.63, 1e-5, 0, &[])));
        check_trade(r#"{"s":"IC MARKETS:1","p":1,"t":9,"v":3,"new":[{}]}"#, Ok(tick("IC MARKETS:1", 1.0, 3.0, 9, &[])));
        check_trade(r#"{"s":"\u0041","p":1,"t":9,"v":3}"#, Ok(tick("A", 1.0, 3.0, 9, &[])));
    }

    #[test]
    fn a_bad_trade_is_left_out_and_the_others_are_kept() {
        for (trade, reason) in [
            (r#"{"p":1,"t":9,"v":3}"#, RejectReason::BadTrade),
            (r#"{"s":"A","t":9,"v":3}"#, RejectReason::BadTrade),
            (r#"{"s":"A","p":"1","t":9,"v":3}"#, RejectReason::BadTrade),
            (r#"{"s":"A","p":null,"t":9,"v":3}"#, RejectReason::BadTrade),
            (r#"{"s":"A","p":1e999,"t":9,"v":3}"#, RejectReason::BadTrade),
            (r#"{"s":"A","p":1,"t":9.5,"v":3}"#, RejectReason::BadTrade),
            (r#"{"s":"A","p":1,"t":99999999999999999999,"v":3}"#, RejectReason::BadTrade),
            ("null", RejectReason::BadTrade),
            ("7", RejectReason::BadTrade),
            (r#"{"s":"","p":1,"t":9,"v":3}"#, RejectReason::BadSymbol),
            (r#"{"s":"é","p":1,"t":9,"v":3}"#, RejectReason::BadSymbol),
            (r#"{"s":"A","p":1,"t":9,"v":-1}"#, RejectReason::BadVolume),
            (r#"{"s":"A","p":1,"t":-1,"v":1}"#, RejectReason::BadTime),
            (r#"{"s":"A","p":1,"t":253402300800000,"v":1}"#, RejectReason::BadTime),
        ] {
            check_trade(trade, Err(reason));
        }
    }

    #[test]
    fn other_frames_are_told_apart() {
        let long = format!(r#"{{"type":"error","msg":"a\n{}"}}"#, "x".repeat(500));
        for (text, expect) in [
            (r#"{"type":"ping"}"#, Frame::Ping),
            (r#"{"msg":"Subscribing to too many symbols","type":"error"}"#, Frame::TooManySymbols),
            (r#"{"msg":"Invalid symbol","type":"error"}"#, Frame::Error("Invalid symbol".into())),
            (r#"{"msg":{"code":7},"type":"error"}"#, Frame::Error(r#"{"code":7}"#.into())),
            (r#"{"type":"error"}"#, Frame::Error(String::new())),
            (&long, Frame::Error(format!("a {}", "x".repeat(198)))),
            (r#"{"type":"trade","data":[]}"#, Frame::Trades { ticks: vec![], rejected: vec![] }),
            (r#"{"type":"trade"}"#, Frame::Rejected(RejectReason::BadFrame)),
            (r#"{"type":"trade","data":{}}"#, Frame::Rejected(RejectReason::BadFrame)),
            (r#"{"type":"news","data":[{"s":"A"}]}"#, Frame::Rejected(RejectReason::UnknownType)),
            (r#"{"type":7}"#, Frame::Rejected(RejectReason::BadFrame)),
            ("{}", Frame::Rejected(RejectReason::BadFrame)),
            ("null", Frame::Rejected(RejectReason::BadFrame)),
            ("", Frame::Rejected(RejectReason::NotJson)),
            (r#""type":"ping"}"#, Frame::Rejected(RejectReason::NotJson)),
            (r#"{"type":"trade","data":[{"s":"A","p":NaN,"t":1,"v":1}]}"#, Frame::Rejected(RejectReason::NotJson)),
            (r#"{"type":"trade","data":[{"s":"A","p":1,"t":1,"v":1"#, Frame::Rejected(RejectReason::NotJson)),
        ] {
            assert_eq!(parse(text), expect, "{text}");
        }
    }

    #[test]
    fn a_price_is_the_nearest_number_to_its_text() {
        // serde_json without `float_roundtrip` reads this one bit off.
        let text = "31.245270191439438";
        let Frame::Trades { ticks, .. } =
            parse(&format!(r#"{{"type":"trade","data":[{{"s":"A","p":{text},"t":1,"v":1}}]}}"#))
        else {
            panic!("a trade frame");
        };
        assert_eq!(ticks[0].price.to_bits(), text.parse::<f64>().unwrap().to_bits());
    }

    #[test]
    fn the_key_is_encoded_into_the_query() {
        assert_eq!(url("wss://ws.finnhub.io", &Secret::new("abc")), "wss://ws.finnhub.io/?token=abc");
        assert_eq!(url("ws://h:1/", &Secret::new("abc")), "ws://h:1/?token=abc");
        assert_eq!(url("ws://h/p?a=1", &Secret::new("a&b c")), "ws://h/p?a=1&token=a%26b+c");
        assert_eq!(subscription(&Symbol::parse("AAPL").unwrap()), r#"{"symbol":"AAPL","type":"subscribe"}"#);
    }
}
