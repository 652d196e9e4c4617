//! A log of ticks, with offsets that hold none.

use tocsin_bus::Record;
use tocsin_engine::domain::{Conditions, Position, Symbol, Tick};

use crate::evaluator::tests::NOW_MS;

pub(super) const PARTITIONS: u32 = 3;

#[derive(Debug)]
pub(super) struct Log {
    records: Vec<Vec<Record>>,
    ends: Vec<u64>,
}

impl Log {
    pub(super) fn new() -> Self {
        let partitions = PARTITIONS as usize;
        Self { records: vec![Vec::new(); partitions], ends: vec![0; partitions] }
    }

    pub(super) fn publish(&mut self, partition: u32, symbol: &Symbol, price: f64) {
        let end = &mut self.ends[partition as usize];
        let position = Position { partition, offset: *end };
        *end += 1;
        let tick = Tick::new(symbol.clone(), price, 1.0, NOW_MS, Conditions::default()).unwrap();
        self.records[partition as usize].push(Record { position, published_ms: NOW_MS, tick });
    }

    /// Appends an offset without a tick, such as a transaction's marker.
    pub(super) fn publish_nothing(&mut self, partition: u32) {
        self.ends[partition as usize] += 1;
    }

    pub(super) fn ends(&self) -> &[u64] {
        &self.ends
    }

    pub(super) fn end(&self, partition: u32) -> u64 {
        self.ends[partition as usize]
    }

    /// The records of a partition from an offset on.
    pub(super) fn records_from(&self, partition: u32, offset: u64) -> impl Iterator<Item = &Record> {
        self.records[partition as usize].iter().filter(move |record| record.position.offset >= offset)
    }

    /// The offset of the next record from an offset on, or the end.
    pub(super) fn next_from(&self, partition: u32, offset: u64) -> u64 {
        self.records_from(partition, offset).next().map_or(self.end(partition), |record| record.position.offset)
    }
}
