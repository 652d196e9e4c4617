//! Ticks.

use super::Symbol;

/// The latest event time of a tick: the end of the year 9999, Unix milliseconds.
pub const MAX_TIME_MS: i64 = 253_402_300_799_999;

/// A trade print, or a price update without a trade if `volume` is 0. [`Tick::new`] checks the ranges below.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// The traded instrument.
    pub symbol: Symbol,
    /// Price: finite, never `-0.0`; may be negative.
    pub price: f64,
    /// Traded volume: finite, at least 0.
    pub volume: f64,
    /// Event time, Unix milliseconds, 0 to [`MAX_TIME_MS`].
    pub time_ms: i64,
    /// The conditions of the trade.
    pub conditions: Conditions,
}

/// Trade conditions as a set of numbers: bit n stands for condition n (1 to 63), bit 0 for any that is out of that
/// range or not a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions(pub u64);

/// The error for numbers outside of a tick's ranges.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum TickError {
    /// NaN or infinite.
    #[error("price {0} is not a finite number")]
    Price(f64),
    /// NaN, infinite or negative.
    #[error("volume {0} is not a finite number of at least 0")]
    Volume(f64),
    /// Negative, or after the year 9999.
    #[error("timestamp {0} is not between 0 and {MAX_TIME_MS} Unix milliseconds")]
    Time(i64),
}

impl Tick {
    /// Creates a tick if its numbers are in range. A negative zero becomes a positive one, so that equal prices have equal
    /// bytes.
    ///
    /// # Errors
    /// Where a number is out of range.
    pub fn new(
        symbol: Symbol,
        price: f64,
        volume: f64,
        time_ms: i64,
        conditions: Conditions,
    ) -> Result<Self, TickError> {
        if !price.is_finite() {
            return Err(TickError::Price(price));
        }
        if !volume.is_finite() || volume < 0.0 {
            return Err(TickError::Volume(volume));
        }
        if !(0..=MAX_TIME_MS).contains(&time_ms) {
            return Err(TickError::Time(time_ms));
        }
        // Adding +0.0 turns -0.0 into +0.0 and leaves every other number as it is.
        Ok(Self { symbol, price: price + 0.0, volume: volume + 0.0, time_ms, conditions })
    }
}

impl Conditions {
    /// Returns the set of the given condition codes, in Finnhub's notation (`"12"`).
    pub fn from_codes<'a>(codes: impl IntoIterator<Item = &'a str>) -> Self {
        let bit = |code: &str| code.parse::<u32>().ok().filter(|n| (1..64).contains(n)).unwrap_or(0);
        Self(codes.into_iter().fold(0, |set, code| set | 1 << bit(code)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(price: f64, volume: f64, time_ms: i64) -> Result<Tick, TickError> {
        Tick::new(Symbol::parse("X").unwrap(), price, volume, time_ms, Conditions::default())
    }

    #[test]
    fn numbers_out_of_range_make_no_tick() {
        for price in [0.0, -1.5, 1e308, 5e-324] {
            assert_eq!(tick(price, 1.0, 1).unwrap().price, price);
        }
        for price in [f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(tick(price, 1.0, 1), Err(TickError::Price(price)));
        }
        assert!(matches!(tick(f64::NAN, 1.0, 1), Err(TickError::Price(_))));
        assert_eq!(tick(1.0, -1.0, 1), Err(TickError::Volume(-1.0)));
        assert!(matches!(tick(1.0, f64::NAN, 1), Err(TickError::Volume(_))));
        for time_ms in [-1, i64::MIN, i64::MAX, MAX_TIME_MS + 1] {
            assert_eq!(tick(1.0, 1.0, time_ms), Err(TickError::Time(time_ms)));
        }
        assert!(tick(1.0, 0.0, 0).is_ok());
    }

    #[test]
    fn a_zero_has_no_sign() {
        let tick = tick(-0.0, -0.0, 0).unwrap();
        assert_eq!((tick.price.to_bits(), tick.volume.to_bits()), (0, 0));
    }

    #[test]
    fn conditions_are_a_set() {
        assert_eq!(Conditions::from_codes([]).0, 0);
        assert_eq!(Conditions::from_codes(["1", "12", "1"]).0, 1 << 1 | 1 << 12);
        assert_eq!(Conditions::from_codes(["0", "64", "odd", "-1"]).0, 1);
    }
}
