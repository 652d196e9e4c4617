//! A tick as it travels: the protobuf message `stock.StockTick`, on Kafka and in the embedded log alike.
//!
//! GoStocks' producers send symbol, price and timestamp only. protobuf reads the absent fields as zero, which is a tick
//! of volume 0 without conditions.

use prost::Message;
use tocsin_engine::domain::{Conditions, Symbol, SymbolError, Tick, TickError};
use tocsin_proto::stock::StockTick;

/// Why a message is not a tick.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(super) enum StockTickError {
    /// Not protobuf, or fields of other types.
    #[error("not a StockTick message: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// The symbol breaks a rule.
    #[error("the symbol {0}")]
    Symbol(#[from] SymbolError),
    /// A number breaks a rule.
    #[error(transparent)]
    Tick(#[from] TickError),
}

/// Appends the message of `tick` to `bytes`.
pub(super) fn from_tick(tick: &Tick, bytes: &mut Vec<u8>) {
    let message = StockTick {
        symbol: tick.symbol.as_str().to_owned(),
        price: tick.price,
        timestamp: tick.time_ms,
        volume: tick.volume,
        conditions: tick.conditions.0,
    };
    message.encode(bytes).expect("a Vec grows as needed");
}

/// The tick that a message's bytes say.
pub(super) fn into_tick(bytes: &[u8]) -> Result<Tick, StockTickError> {
    let message = StockTick::decode(bytes)?;
    let symbol = Symbol::parse(&message.symbol)?;
    Ok(Tick::new(symbol, message.price, message.volume, message.timestamp, Conditions(message.conditions))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message that GoStocks' producer writes: fields 1 to 3.
    fn three_fields(symbol: &str, price: f64, timestamp: i64) -> Vec<u8> {
        StockTick { symbol: symbol.into(), price, timestamp, ..StockTick::default() }.encode_to_vec()
    }

    #[test]
    fn a_tick_survives_the_wire() {
        let symbol = Symbol::parse("IC MARKETS:1").unwrap();
        let tick = Tick::new(symbol, -37.63, 0.006, 1_587_420_000_123, Conditions(1 << 12 | 1)).unwrap();
        let mut bytes = Vec::new();
        from_tick(&tick, &mut bytes);
        assert_eq!(into_tick(&bytes), Ok(tick));
    }

    #[test]
    fn three_fields_are_a_tick_of_volume_0() {
        let tick = into_tick(&three_fields("aapl", 150.25, 1_700_000_000_000)).unwrap();
        assert_eq!((tick.symbol.as_str(), tick.price, tick.time_ms), ("AAPL", 150.25, 1_700_000_000_000));
        assert_eq!((tick.volume, tick.conditions), (0.0, Conditions::default()));
    }

    #[test]
    fn what_is_no_tick_is_refused_with_its_reason() {
        let check = |bytes: &[u8], expect: &str| {
            let error = into_tick(bytes).unwrap_err().to_string();
            assert!(error.contains(expect), "{error:?} does not say {expect:?}");
        };
        check(b"\xff\xff\xff", "not a StockTick");
        check(b"", "the symbol is empty");
        check(&three_fields("", 1.0, 1), "the symbol is empty");
        check(&three_fields(&"X".repeat(65), 1.0, 1), "65 bytes");
        check(&three_fields("A", f64::NAN, 1), "price NaN");
        check(&three_fields("A", f64::INFINITY, 1), "price inf");
        check(&three_fields("A", 1.0, -1), "timestamp -1");
        let negative_volume = StockTick { symbol: "A".into(), volume: -1.0, ..StockTick::default() };
        check(&negative_volume.encode_to_vec(), "volume -1");
    }
}
