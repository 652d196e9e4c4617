//! Records for tests.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test that calls it")]

use tocsin_bus::Record;
use tocsin_engine::domain::{Conditions, Position, Symbol, Tick};

/// A tick at its place in the bus.
pub fn record(name: &str, partition: u32, offset: u64, price: f64, volume: f64, time_ms: i64) -> Record {
    let tick = Tick::new(Symbol::parse(name).unwrap(), price, volume, time_ms, Conditions::default()).unwrap();
    Record { position: Position { partition, offset }, published_ms: time_ms, tick }
}
