//! What the supervisor needs to know of a WebSocket feed: where to connect, what to send first, how to read a frame.
//!
//! The supervisor and the session know no provider; [`Protocol`] is the closed set of those that there are.

use serde::de::IgnoredAny;
use tocsin_engine::domain::{Conditions, Symbol, Tick, TickError};
use tokio_tungstenite::tungstenite::http::Uri;

use super::binance::Streams;
use super::status::{FeedKind, RejectReason};
use super::{Secret, finnhub};

/// A feed that speaks over a WebSocket.
pub(super) enum Protocol {
    /// Finnhub: a key in the URL, a message for each subscription.
    Finnhub {
        /// Without a token.
        url: String,
        key: Secret,
        symbols: Vec<Symbol>,
    },
    /// Binance: no key, the subscriptions in the URL.
    Binance { url: String, streams: Streams },
}

/// What one text frame turned out to be.
#[derive(Debug, PartialEq)]
pub(super) enum Frame {
    /// Trades, in the frame's order, and why the others of the frame are none.
    Trades { ticks: Vec<Tick>, rejected: Vec<RejectReason> },
    /// A sign of life.
    Ping,
    /// The provider refuses further subscriptions; it does not say which one.
    TooManySymbols,
    /// The provider complains, in its own words (cleaned and cut).
    Error(String),
    /// Nothing that can be used.
    Rejected(RejectReason),
}

impl Protocol {
    pub(super) fn kind(&self) -> FeedKind {
        match self {
            Self::Finnhub { .. } => FeedKind::Finnhub,
            Self::Binance { .. } => FeedKind::Binance,
        }
    }

    /// The URL to connect to. It may hold the key: it goes to the socket and nowhere else.
    pub(super) fn secret_url(&self) -> String {
        match self {
            Self::Finnhub { url, key, .. } => finnhub::url(url, key),
            Self::Binance { url, streams } => streams.url(url),
        }
    }

    /// The server's scheme, host and port, for people. Nothing else of the URL is shown: it may hold a key.
    pub(super) fn server(&self) -> String {
        let (Self::Finnhub { url, .. } | Self::Binance { url, .. }) = self;
        let uri = url.parse::<Uri>().ok();
        match uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.host()?, uri.port()))) {
            Some((scheme, host, Some(port))) => format!("{scheme}://{host}:{port}"),
            Some((scheme, host, None)) => format!("{scheme}://{host}"),
            None => "(not a URL)".to_owned(),
        }
    }

    /// How many symbols are asked for.
    pub(super) fn symbol_count(&self) -> usize {
        match self {
            Self::Finnhub { symbols, .. } => symbols.len(),
            Self::Binance { streams, .. } => streams.len(),
        }
    }

    /// The messages to send once connected.
    pub(super) fn greetings(&self) -> Vec<String> {
        match self {
            Self::Finnhub { symbols, .. } => symbols.iter().map(finnhub::subscription).collect(),
            Self::Binance { .. } => Vec::new(),
        }
    }

    /// Reads a text frame.
    pub(super) fn parse(&self, text: &str) -> Frame {
        match self {
            Self::Finnhub { .. } => finnhub::parse(text),
            Self::Binance { streams, .. } => streams.parse(text),
        }
    }

    /// The part of a text frame for which it was rejected: the bad trade, if it is about one, or else all of it.
    pub(super) fn rejected_part<'a>(&self, text: &'a str) -> &'a str {
        match self {
            Self::Finnhub { .. } => finnhub::bad_trade(text).unwrap_or(text),
            Self::Binance { .. } => text,
        }
    }

    /// A text without the key.
    pub(super) fn redact(&self, text: &str) -> String {
        match self {
            Self::Finnhub { key, .. } => key.redact(text),
            Self::Binance { .. } => text.to_owned(),
        }
    }
}

/// Checks what a trade says.
pub(super) fn to_tick(
    symbol: &str,
    price: f64,
    volume: f64,
    time_ms: i64,
    conditions: Conditions,
) -> Result<Tick, RejectReason> {
    let symbol = Symbol::parse(symbol).map_err(|_| RejectReason::BadSymbol)?;
    Tick::new(symbol, price, volume, time_ms, conditions).map_err(|error| match error {
        TickError::Price(_) => RejectReason::BadPrice,
        TickError::Volume(_) => RejectReason::BadVolume,
        TickError::Time(_) => RejectReason::BadTime,
    })
}

/// Why a text could not be read as a frame: whether it is JSON at all.
pub(super) fn reason_of(text: &str) -> RejectReason {
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => RejectReason::BadFrame,
        Err(_) => RejectReason::NotJson,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_url_holds_no_key() {
        let shown =
            |url: &str| Protocol::Finnhub { url: url.into(), key: Secret::new("sesame"), symbols: Vec::new() }.server();
        assert_eq!(shown("wss://ws.finnhub.io"), "wss://ws.finnhub.io");
        assert_eq!(shown("ws://me:sesame@127.0.0.1:99/sesame?token=sesame"), "ws://127.0.0.1:99");
        assert_eq!(shown("sesame"), "(not a URL)");
        assert_eq!(shown("ws://\u{1}sesame"), "(not a URL)");
    }
}
