//! Whatever is published, read, raised and restarted: the log says what a plain vector for each partition says.

use proptest::prelude::*;
use tocsin_engine::domain::Symbol;

use super::*;

/// Few partitions and symbols, so that some share a partition.
const PARTITIONS: u32 = 3;
const SYMBOLS: u8 = 6;

#[derive(Clone, Debug)]
enum Step {
    /// Publish ticks of these symbols.
    Publish(Vec<u8>),
    /// Read a partition from a place in it (a fraction of its length), in polls of so many records.
    Read {
        partition: u32,
        place: u8,
        max_records: usize,
    },
    Commit {
        partition: u32,
        offset: u64,
    },
    /// Raise a partition's end by so many offsets.
    Raise {
        partition: u32,
        by: u64,
    },
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::collection::vec(0..SYMBOLS, 0..40).prop_map(Step::Publish),
        6 => (0..PARTITIONS, any::<u8>(), 1..50usize)
            .prop_map(|(partition, place, max_records)| Step::Read { partition, place, max_records }),
        2 => (0..PARTITIONS, 0..5u64).prop_map(|(partition, offset)| Step::Commit { partition, offset }),
        1 => (0..PARTITIONS, 0..4u64).prop_map(|(partition, by)| Step::Raise { partition, by }),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..25)
}

/// By partition: the price at each offset, `None` where an end was raised past it.
#[derive(Default)]
struct Oracle {
    partitions: [Vec<Option<f64>>; PARTITIONS as usize],
    committed: std::collections::BTreeMap<u32, u64>,
    published: u32,
}

impl Oracle {
    fn check_read(&self, bus: &Bus, partition: u32, place: u8, max_records: usize) {
        let expect = &self.partitions[partition as usize];
        let mut offset = (expect.len() * usize::from(place)).div_ceil(255);
        let reader_at = |offset: usize| bus.reader(vec![Position { partition, offset: offset as u64 }]);
        let mut reader = match reader_at(offset) {
            // A segment of raised offsets alone may be dropped by retention at any time: no record goes with it.
            Err(BusError::OffsetOutOfRange { earliest, .. }) => {
                let dropped = &expect[offset..earliest as usize];
                assert!(dropped.iter().all(Option::is_none), "records below {earliest} are gone");
                offset = earliest as usize;
                reader_at(offset).unwrap()
            }
            reader => reader.unwrap(),
        };
        let (mut found, mut batch) = (Vec::new(), Vec::new());
        loop {
            reader.poll(&mut batch, max_records, Duration::ZERO).unwrap();
            assert!(batch.len() <= max_records);
            if batch.is_empty() {
                break;
            }
            found.extend(batch.iter().map(|record| (record.position.offset as usize, record.tick.price)));
        }
        let records = expect.iter().enumerate().skip(offset).filter_map(|(i, price)| price.map(|price| (i, price)));
        assert_eq!(found, records.collect::<Vec<_>>());
        assert_eq!(reader.position(partition), expect.len() as u64);
    }
}

async fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig { partitions: PARTITIONS, ..LogConfig::default() };
    let open = || open_with(dir.path(), config, system_clock());
    let mut bus = open();
    let mut oracle = Oracle::default();
    for step in steps {
        match step {
            Step::Publish(symbols) => {
                let mut ticks = Vec::new();
                for symbol in symbols {
                    let symbol = Symbol::parse(&format!("SYM{symbol}")).unwrap();
                    oracle.published += 1;
                    let price = f64::from(oracle.published);
                    oracle.partitions[bus.partition_of(&symbol) as usize].push(Some(price));
                    ticks.push(tick(symbol.as_str(), price));
                }
                bus.publish(ticks).await.unwrap();
            }
            Step::Read { partition, place, max_records } => oracle.check_read(&bus, partition, place, max_records),
            Step::Commit { partition, offset } => {
                let offset = offset.min(oracle.partitions[partition as usize].len() as u64);
                bus.join("g").unwrap().commit(&[Position { partition, offset }]).await.unwrap();
                oracle.committed.insert(partition, offset);
            }
            Step::Raise { partition, by } => {
                let expect = &mut oracle.partitions[partition as usize];
                expect.resize(expect.len() + by as usize, None);
                bus.ensure_end(Position { partition, offset: expect.len() as u64 }).await.unwrap();
            }
            Step::Restart => {
                drop(bus);
                bus = open();
            }
        }
        for (partition, expect) in (0..).zip(&oracle.partitions) {
            assert_eq!(bus.end(partition).await.unwrap(), expect.len() as u64);
        }
        let committed = bus.committed("g").await.unwrap();
        let pairs = committed.iter().map(|position| (position.partition, position.offset));
        assert!(pairs.eq(oracle.committed.clone()));
    }
}

proptest! {
    // A case opens databases and syncs them to the disk: fewer than the usual 256.
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn the_log_agrees_with_vectors(steps in steps()) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(run(steps));
    }
}
