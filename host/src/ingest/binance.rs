//! Binance's trade streams on the wire: stream names, the combined URL, and `aggTrade` and `trade` events.
//!
//! Protocol: <https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams>. Spot, US and both futures
//! markets write the same members; keys are added over the years and ignored. Events come bare or as
//! `{"stream","data"}`. The subscriptions are in the URL, so that nothing has to be sent and the limit of 5 incoming
//! messages a second is no concern.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use tocsin_engine::domain::{Conditions, Symbol, Tick};

use super::protocol::{Frame, reason_of, to_tick};
use super::status::RejectReason;

/// The most streams that Binance serves on one connection.
const MAX_STREAMS: usize = 1024;

/// The prefix that Finnhub gives to Binance's symbols. With it or without, a symbol names the same stream here.
const PREFIX: &str = "BINANCE:";

/// Which streams are read, and as which symbols.
pub(super) struct Streams {
    /// Binance's own symbol, upper case, and the symbols that its trades are published as: two if it was asked for with the
    /// prefix and without.
    symbols: BTreeMap<String, Vec<Symbol>>,
}

#[derive(Deserialize)]
struct Wrapper<'a> {
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    e: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct WireTrade<'a> {
    #[serde(borrow)]
    s: Cow<'a, str>,
    #[serde(borrow)]
    p: Cow<'a, str>,
    #[serde(borrow)]
    q: Cow<'a, str>,
    /// When the trade was made, Unix milliseconds; `E` is when its event was sent.
    #[serde(rename = "T")]
    t: i64,
}

impl Streams {
    /// The streams of the symbols, and the symbols that Binance cannot have or that are too many.
    pub(super) fn of(symbols: &[Symbol]) -> (Self, Vec<Symbol>) {
        let mut streams = Self { symbols: BTreeMap::new() };
        let mut refused = Vec::new();
        for symbol in symbols {
            let name = symbol.as_str().strip_prefix(PREFIX).unwrap_or(symbol.as_str());
            let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            let room = streams.len() < MAX_STREAMS || streams.symbols.contains_key(name);
            if good && room {
                let known = streams.symbols.entry(name.to_owned()).or_default();
                if !known.contains(symbol) {
                    known.push(symbol.clone());
                }
            } else {
                refused.push(symbol.clone());
            }
        }
        (streams, refused)
    }

    pub(super) fn len(&self) -> usize {
        self.symbols.len()
    }

    /// The URL of the combined stream.
    pub(super) fn url(&self, base: &str) -> String {
        let names: Vec<_> = self.symbols.keys().map(|name| format!("{}@aggTrade", name.to_lowercase())).collect();
        format!("{}/stream?streams={}", base.trim_end_matches('/'), names.join("/"))
    }

    /// Reads a text frame.
    pub(super) fn parse(&self, text: &str) -> Frame {
        match trade_of(text) {
            Ok(tick) => Frame::Trades { ticks: self.name(tick), rejected: Vec::new() },
            Err(reason) => Frame::Rejected(reason),
        }
    }

    /// The tick under the symbols that were asked for; under Binance's own if none was.
    fn name(&self, tick: Tick) -> Vec<Tick> {
        match self.symbols.get(tick.symbol.as_str()) {
            Some(symbols) => symbols.iter().map(|symbol| Tick { symbol: symbol.clone(), ..tick.clone() }).collect(),
            None => vec![tick],
        }
    }
}

fn trade_of(text: &str) -> Result<Tick, RejectReason> {
    let wrapper: Wrapper = serde_json::from_str(text).map_err(|_| reason_of(text))?;
    let event_text = wrapper.data.map_or(text, RawValue::get);
    let event: Event = serde_json::from_str(event_text).map_err(|_| reason_of(text))?;
    // A bookTicker of the spot market has no `e` at all.
    if !matches!(event.e.as_deref(), Some("aggTrade" | "trade")) {
        return Err(RejectReason::UnknownType);
    }
    let trade: WireTrade = serde_json::from_str(event_text).map_err(|_| RejectReason::BadTrade)?;
    let price = trade.p.parse().map_err(|_| RejectReason::BadPrice)?;
    let volume = trade.q.parse().map_err(|_| RejectReason::BadVolume)?;
    to_tick(&trade.s, price, volume, trade.t, Conditions::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbols(texts: &[&str]) -> Vec<Symbol> {
        texts.iter().map(|text| Symbol::parse(text).unwrap()).collect()
    }

    #[test]
    fn symbols_become_streams() {
        let (streams, refused) = Streams::of(&symbols(&["BTCUSDT", "BINANCE:ETHUSDT", "IC MARKETS:1", "btcusd_perp"]));
        assert_eq!(refused, symbols(&["IC MARKETS:1"]));
        assert_eq!(
            streams.url("wss://stream.example:9443/"),
            "wss://stream.example:9443/stream?streams=btcusdt@aggTrade/btcusd_perp@aggTrade/ethusdt@aggTrade"
        );
    }

    #[test]
    fn no_more_streams_are_asked_for_than_a_connection_has() {
        let many: Vec<_> = (0..MAX_STREAMS + 2).map(|n| Symbol::parse(&format!("S{n}")).unwrap()).collect();
        let (streams, refused) = Streams::of(&many);
        assert_eq!((streams.len(), refused.len()), (MAX_STREAMS, 2));
    }

    #[test]
    fn a_trade_is_told_as_every_symbol_that_was_asked_for() {
        let event =
            r#"{"e":"aggTrade","E":2,"s":"BTCUSDT","a":1,"p":"67459.36000000","q":"0.00045000","T":1,"m":true}"#;
        for (asked, told) in [
            (&["BTCUSDT"][..], &["BTCUSDT"][..]),
            (&["BINANCE:BTCUSDT"], &["BINANCE:BTCUSDT"]),
            (&["BTCUSDT", "BINANCE:BTCUSDT", "BTCUSDT"], &["BTCUSDT", "BINANCE:BTCUSDT"]),
            (&["ETHUSDT"], &["BTCUSDT"]),
        ] {
            let expect = symbols(told)
                .into_iter()
                .map(|symbol| Tick::new(symbol, 67459.36, 0.00045, 1, Conditions::default()).unwrap())
                .collect();
            let (streams, _) = Streams::of(&symbols(asked));
            assert_eq!(streams.parse(event), Frame::Trades { ticks: expect, rejected: vec![] }, "{asked:?}");
        }
    }

    #[test]
    fn what_is_no_trade_is_rejected_with_its_reason() {
        let (streams, _) = Streams::of(&[]);
        for (text, reason) in [
            ("", RejectReason::NotJson),
            (r#"{"stream":"x","data":{"e":"aggTr"#, RejectReason::NotJson),
            ("7", RejectReason::BadFrame),
            (r#"{"result":null,"id":1}"#, RejectReason::UnknownType),
            (r#"{"stream":"x","data":{"e":"kline","k":{}}}"#, RejectReason::UnknownType),
            (r#"{"stream":"x","data":7}"#, RejectReason::BadFrame),
            (r#"{"e":"aggTrade","s":"X","p":1.5,"q":"1","T":1}"#, RejectReason::BadTrade),
            (r#"{"e":"aggTrade","s":"X","p":"1.5","q":"1"}"#, RejectReason::BadTrade),
            (r#"{"e":"trade","s":"","p":"1.5","q":"1","T":1}"#, RejectReason::BadSymbol),
            (r#"{"e":"trade","s":"X","p":"much","q":"1","T":1}"#, RejectReason::BadPrice),
            (r#"{"e":"trade","s":"X","p":"NaN","q":"1","T":1}"#, RejectReason::BadPrice),
            (r#"{"e":"trade","s":"X","p":"1","q":"-1","T":1}"#, RejectReason::BadVolume),
            (r#"{"e":"trade","s":"X","p":"1","q":"","T":1}"#, RejectReason::BadVolume),
            (r#"{"e":"trade","s":"X","p":"1","q":"1","T":-1}"#, RejectReason::BadTime),
        ] {
            assert_eq!(streams.parse(text), Frame::Rejected(reason), "{text}");
        }
    }
}
