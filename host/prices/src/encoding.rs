//! Candles and series as bytes of fixed places, for both members. Numbers are big-endian.

use tocsin_engine::domain::Position;

use super::series::Series;
use super::{Candle, Price};

/// Bytes of a candle: ten numbers.
pub(super) const CANDLE_BYTES: usize = 80;

/// Bytes of a partition and the offset that is applied of it.
const APPLIED_BYTES: usize = 12;

/// The bytes of a candle.
pub(super) fn candle_to_bytes(candle: &Candle) -> [u8; CANDLE_BYTES] {
    let Candle { start_ms, open, close, high, low, volume, turnover, trades } = *candle;
    let words = [
        start_ms.to_be_bytes(),
        open.price.to_be_bytes(),
        open.time_ms.to_be_bytes(),
        close.price.to_be_bytes(),
        close.time_ms.to_be_bytes(),
        high.to_be_bytes(),
        low.to_be_bytes(),
        volume.to_be_bytes(),
        turnover.to_be_bytes(),
        trades.to_be_bytes(),
    ];
    let mut bytes = [0; CANDLE_BYTES];
    bytes.as_chunks_mut().0.copy_from_slice(&words);
    bytes
}

/// The candle of its bytes; None if they are none.
pub(super) fn candle_from_bytes(bytes: &[u8]) -> Option<Candle> {
    let (words, []) = bytes.as_chunks::<8>() else { return None };
    let [start, open, open_at, close, close_at, high, low, volume, turnover, trades] = *words else { return None };
    let price = |price, time_ms| Price { price: f64::from_be_bytes(price), time_ms: i64::from_be_bytes(time_ms) };
    Some(Candle {
        start_ms: i64::from_be_bytes(start),
        open: price(open, open_at),
        close: price(close, close_at),
        high: f64::from_be_bytes(high),
        low: f64::from_be_bytes(low),
        volume: f64::from_be_bytes(volume),
        turnover: f64::from_be_bytes(turnover),
        trades: u64::from_be_bytes(trades),
    })
}

/// The bytes of a series: none before the first tick, otherwise the newest candles and what is applied.
pub(super) fn series_to_bytes(series: &Series) -> Vec<u8> {
    let mut bytes = Vec::new();
    for candle in series.newest.iter().flatten() {
        bytes.extend(candle_to_bytes(candle));
    }
    for applied in &series.applied {
        bytes.extend(applied.partition.to_be_bytes());
        bytes.extend(applied.offset.to_be_bytes());
    }
    bytes
}

/// The series of its bytes; None if they are none.
pub(super) fn series_from_bytes(bytes: &[u8]) -> Option<Series> {
    if bytes.is_empty() {
        return Some(Series::default());
    }
    let (candles, applied) = bytes.split_at_checked(4 * CANDLE_BYTES)?;
    let newest: Option<Vec<_>> = candles.chunks(CANDLE_BYTES).map(candle_from_bytes).collect();
    let (applied, []) = applied.as_chunks::<APPLIED_BYTES>() else { return None };
    let position = |bytes: &[u8; APPLIED_BYTES]| {
        let (partition, offset) = bytes.split_first_chunk()?;
        Some(Position {
            partition: u32::from_be_bytes(*partition),
            offset: u64::from_be_bytes(offset.try_into().ok()?),
        })
    };
    let applied: Option<Vec<_>> = applied.iter().map(position).collect();
    Some(Series { applied: applied?, newest: Some(newest?.try_into().ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_nothing_else_is() {
        let price = |price, time_ms| Price { price, time_ms };
        let candle = |start_ms| Candle {
            start_ms,
            open: price(-0.1, start_ms + 1),
            close: price(1e308, start_ms + 2),
            high: 3.5,
            low: f64::MIN,
            volume: 5e-324,
            turnover: -4.25,
            trades: u64::MAX,
        };
        let applied = [(0, 1), (7, u64::MAX)].map(|(partition, offset)| Position { partition, offset });
        let series = Series { applied: applied.into(), newest: Some([1, 2, 3, 4].map(candle)) };
        let bytes = series_to_bytes(&series);
        assert_eq!(bytes.len(), 344);
        assert_eq!(series_from_bytes(&bytes).as_ref(), Some(&series));
        assert_eq!(series_from_bytes(&series_to_bytes(&Series::default())), Some(Series::default()));
        for wrong in [&bytes[1..], &bytes[..343], &bytes[..320 - 80], b"150.25"] {
            assert_eq!(series_from_bytes(wrong), None, "{} bytes", wrong.len());
        }
        assert_eq!(candle_from_bytes(&bytes[..79]), None);
    }
}
