//! The record of a symbol as bytes: price and its time, count and beginning of the finished candles of each interval, the
//! series. A record of before there were candles ends behind the price.

use crate::series::Series;
use crate::{Interval, Price, encoding};

/// What the embedded prices keep of a symbol in one place.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct SymbolRecord {
    /// None before the first tick.
    pub(super) price: Option<Price>,
    finished: [Finished; 4],
    pub(super) series: Series,
}

/// Finished candles of an interval that are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Finished {
    pub(super) count: u64,
    /// The least of their starts, or less; the greatest number where there are none.
    pub(super) oldest_ms: i64,
}

impl Default for Finished {
    fn default() -> Self {
        Self { count: 0, oldest_ms: i64::MAX }
    }
}

impl Finished {
    pub(super) fn insert(&mut self, start_ms: i64) {
        self.count += 1;
        self.oldest_ms = self.oldest_ms.min(start_ms);
    }
}

impl SymbolRecord {
    pub(super) fn finished(&self, interval: Interval) -> Finished {
        self.finished[interval as usize]
    }

    pub(super) fn finished_mut(&mut self, interval: Interval) -> &mut Finished {
        &mut self.finished[interval as usize]
    }

    /// Candles of an interval that are more than are kept; the newest is none of the finished.
    pub(super) fn surplus(&self, interval: Interval) -> u64 {
        self.finished(interval).count.saturating_sub(interval.kept_candles() as u64 - 1)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let price = self.price.map(|price| [price.price.to_be_bytes(), price.time_ms.to_be_bytes()]);
        let finished = self.finished.map(|finished| [finished.count.to_be_bytes(), finished.oldest_ms.to_be_bytes()]);
        let mut bytes = price.iter().chain(&finished).flatten().copied().collect::<Vec<_>>().concat();
        bytes.extend(encoding::series_to_bytes(&self.series));
        bytes
    }

    /// The record of its bytes; None if they are none.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (price, rest) = pair(bytes)?;
        let price = Price { price: f64::from_be_bytes(price[0]), time_ms: i64::from_be_bytes(price[1]) };
        let mut record = Self { price: Some(price), ..Self::default() };
        let mut rest = rest;
        if !rest.is_empty() {
            for finished in &mut record.finished {
                let (numbers, behind) = pair(rest)?;
                *finished =
                    Finished { count: u64::from_be_bytes(numbers[0]), oldest_ms: i64::from_be_bytes(numbers[1]) };
                rest = behind;
            }
        }
        record.series = encoding::series_from_bytes(rest)?;
        Some(record)
    }
}

/// Two numbers, and what is behind them.
fn pair(bytes: &[u8]) -> Option<([[u8; 8]; 2], &[u8])> {
    let (first, rest) = bytes.split_first_chunk()?;
    let (second, rest) = rest.split_first_chunk()?;
    Some(([*first, *second], rest))
}
