//! What every member of [`Bus`] must do. A member's tests call `conformance::tests!` with an expression that makes a
//! fresh and empty one, beside whatever must live as long as it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tocsin_engine::domain::{Conditions, Position, Symbol, Tick};

use super::{Assignment, Bus, BusError, Membership, Reader, Record};

/// Makes a test of each function here, on a member made afresh by `$open`.
macro_rules! tests {
    ($open:expr) => {
        $crate::conformance::tests!(
            $open;
            a_fresh_bus_is_empty,
            what_is_published_is_read_whole,
            offsets_are_dense_from_0_and_order_holds_per_symbol,
            a_symbol_stays_on_the_partition_of_its_key,
            a_reader_starts_at_any_offset,
            partitions_take_turns,
            an_append_wakes_a_waiting_reader,
            a_waker_wakes_a_waiting_reader_and_the_next_poll,
            positions_out_of_range_are_refused,
            the_only_member_of_a_group_gets_all_partitions,
            groups_commit_apart_from_each_other,
            concurrent_publishers_keep_their_order
        );
    };
    ($open:expr; $($test:ident),+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            let (bus, _keep) = $open;
            $crate::conformance::$test(bus).await;
        }
    )+};
}
pub(super) use tests;

/// Long enough that a poll which is never woken makes the test run into its time limit.
const FOREVER: Duration = Duration::from_secs(3600);

pub(super) fn tick(symbol: &str, price: f64) -> Tick {
    Tick::new(Symbol::parse(symbol).unwrap(), price, 1.0, 1_700_000_000_000, Conditions::default()).unwrap()
}

/// A reader of all partitions from their earliest offsets.
pub(super) async fn reader_from_earliest(bus: &Bus) -> Reader {
    let mut from = Vec::new();
    for partition in 0..bus.partitions() {
        from.push(Position { partition, offset: bus.earliest(partition).await.unwrap() });
    }
    bus.reader(from).unwrap()
}

/// Everything from the earliest offsets on, in the order in which it is read.
pub(super) async fn read_all(bus: &Bus) -> Vec<Record> {
    let mut reader = reader_from_earliest(bus).await;
    let (mut all, mut batch) = (Vec::new(), Vec::new());
    for partition in 0..bus.partitions() {
        let end = bus.end(partition).await.unwrap();
        while reader.position(partition) < end {
            reader.poll(&mut batch, 100, FOREVER).unwrap();
            all.append(&mut batch);
        }
    }
    all
}

/// The prices of a symbol, in the order in which they were read.
fn prices_of(records: &[Record], symbol: &str) -> Vec<f64> {
    let of_symbol = records.iter().filter(|record| record.tick.symbol.as_str() == symbol);
    of_symbol.map(|record| record.tick.price).collect()
}

/// The offsets read, by partition.
pub(super) fn offsets(records: &[Record]) -> HashMap<u32, Vec<u64>> {
    let mut offsets: HashMap<u32, Vec<u64>> = HashMap::new();
    for record in records {
        offsets.entry(record.position.partition).or_default().push(record.position.offset);
    }
    offsets
}

/// Publishes `count` ticks of one symbol, with the prices from 0 on, and says on which partition they are.
pub(super) async fn publish_count(bus: &Bus, symbol: &str, count: u64) -> u32 {
    bus.publish((0..count).map(|i| tick(symbol, i as f64)).collect()).await.unwrap();
    bus.partition_of(&Symbol::parse(symbol).unwrap())
}

pub(super) async fn a_fresh_bus_is_empty(bus: Bus) {
    for partition in 0..bus.partitions() {
        assert_eq!(bus.earliest(partition).await.unwrap(), 0);
        assert_eq!(bus.end(partition).await.unwrap(), 0);
        assert_eq!(bus.ends().await.unwrap()[partition as usize], 0);
    }
    bus.publish(Vec::new()).await.unwrap();
    assert_eq!(read_all(&bus).await, []);
}

pub(super) async fn what_is_published_is_read_whole(bus: Bus) {
    let symbol = Symbol::parse("IC MARKETS:1").unwrap();
    let tick = Tick::new(symbol, -37.63, 0.006, 1_587_420_000_123, Conditions(1 << 12 | 1)).unwrap();
    bus.publish(vec![tick.clone()]).await.unwrap();
    let records = read_all(&bus).await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].tick, tick);
    assert!(records[0].published_ms > 0);
}

pub(super) async fn offsets_are_dense_from_0_and_order_holds_per_symbol(bus: Bus) {
    let symbols = ["AAPL", "BINANCE:BTCUSDT", "IC MARKETS:1", "MSFT", "IBM"];
    for round in 0..100 {
        bus.publish(symbols.iter().map(|symbol| tick(symbol, f64::from(round))).collect()).await.unwrap();
    }
    let records = read_all(&bus).await;
    assert_eq!(records.len(), 500);
    for symbol in symbols {
        assert_eq!(prices_of(&records, symbol), (0..100).map(f64::from).collect::<Vec<_>>(), "{symbol}");
    }
    let ends = bus.ends().await.unwrap();
    assert_eq!(ends.len(), bus.partitions() as usize);
    for (partition, offsets) in offsets(&records) {
        assert_eq!(offsets, (0..bus.end(partition).await.unwrap()).collect::<Vec<_>>());
        assert_eq!(offsets.len() as u64, ends[partition as usize]);
    }
}

pub(super) async fn a_symbol_stays_on_the_partition_of_its_key(bus: Bus) {
    let symbols: Vec<String> = (0..50).map(|i| format!("SYM{i}")).collect();
    bus.publish(symbols.iter().map(|symbol| tick(symbol, 1.0)).collect()).await.unwrap();
    for record in read_all(&bus).await {
        assert_eq!(record.position.partition, bus.partition_of(&record.tick.symbol));
    }
}

pub(super) async fn a_reader_starts_at_any_offset(bus: Bus) {
    let partition = publish_count(&bus, "AAPL", 20).await;
    let mut batch = Vec::new();
    for offset in 0..=20 {
        let mut reader = bus.reader(vec![Position { partition, offset }]).unwrap();
        assert_eq!(reader.position(partition), offset);
        let mut read = Vec::new();
        while reader.position(partition) < 20 {
            reader.poll(&mut batch, 100, FOREVER).unwrap();
            read.append(&mut batch);
        }
        assert_eq!(prices_of(&read, "AAPL"), (offset..20).map(|i| i as f64).collect::<Vec<_>>());
        reader.poll(&mut batch, 100, Duration::ZERO).unwrap();
        assert_eq!((batch.len(), reader.position(partition)), (0, 20));
    }
}

pub(super) async fn partitions_take_turns(bus: Bus) {
    let busy = publish_count(&bus, "AAPL", 1000).await;
    let other =
        (0..).map(|i| format!("OTHER{i}")).find(|symbol| bus.partition_of(&Symbol::parse(symbol).unwrap()) != busy);
    let quiet = publish_count(&bus, &other.unwrap(), 10).await;
    let mut reader = reader_from_earliest(&bus).await;
    let mut batch = Vec::new();
    // What is on its way from a broker may come later; what is there takes turns.
    while reader.position(quiet) == 0 {
        reader.poll(&mut batch, 1, FOREVER).unwrap();
        assert_eq!(batch.len(), 1);
    }
    let before = reader.position(busy);
    while reader.position(quiet) < 10 {
        reader.poll(&mut batch, 10, FOREVER).unwrap();
        assert!(batch.len() <= 10);
    }
    let meanwhile = reader.position(busy) - before;
    assert!(meanwhile <= 20, "{meanwhile} of the busy partition came before 10 of the quiet one");
    while reader.position(busy) < 1000 {
        reader.poll(&mut batch, 5000, FOREVER).unwrap();
    }
}

pub(super) async fn an_append_wakes_a_waiting_reader(bus: Bus) {
    let mut reader = reader_from_earliest(&bus).await;
    let waiting = std::thread::spawn(move || {
        let mut batch = Vec::new();
        reader.poll(&mut batch, 10, FOREVER).unwrap();
        batch
    });
    bus.publish(vec![tick("AAPL", 1.0)]).await.unwrap();
    assert_eq!(prices_of(&waiting.join().unwrap(), "AAPL"), [1.0]);
}

pub(super) async fn a_waker_wakes_a_waiting_reader_and_the_next_poll(bus: Bus) {
    let mut reader = reader_from_earliest(&bus).await;
    let waker = reader.waker();
    let mut batch = Vec::new();
    waker.wake();
    reader.poll(&mut batch, 10, FOREVER).unwrap();
    assert_eq!(batch, []);
    let waiting = std::thread::spawn(move || {
        reader.poll(&mut batch, 10, FOREVER).unwrap();
        (reader, batch)
    });
    waker.wake();
    let (mut reader, mut batch) = waiting.join().unwrap();
    assert_eq!(batch, []);
    // A wake is used up by the poll that it ended.
    reader.poll(&mut batch, 10, Duration::from_millis(1)).unwrap();
    assert_eq!(batch, []);
}

pub(super) async fn positions_out_of_range_are_refused(bus: Bus) {
    let partition = publish_count(&bus, "AAPL", 5).await;
    let position = Position { partition, offset: 6 };
    let error = bus.reader(vec![position]).err().unwrap();
    match error {
        BusError::OffsetOutOfRange { position: at, earliest: 0, end: 5 } => assert_eq!(at, position),
        other => panic!("{other}"),
    }
    let beyond = Position { partition: bus.partitions(), offset: 0 };
    assert!(matches!(bus.reader(vec![beyond]).err(), Some(BusError::UnknownPartition { .. })));
    assert!(matches!(bus.end(beyond.partition).await, Err(BusError::UnknownPartition { .. })));
    assert!(matches!(bus.earliest(beyond.partition).await, Err(BusError::UnknownPartition { .. })));
    let twice = vec![Position { partition, offset: 1 }, Position { partition, offset: 2 }];
    assert!(matches!(bus.reader(twice).err(), Some(BusError::DuplicatePartition(at)) if at == partition));
}

pub(super) async fn the_only_member_of_a_group_gets_all_partitions(bus: Bus) {
    let all: Vec<u32> = (0..bus.partitions()).collect();
    let (_membership, assigned) = join(&bus, &group()).await;
    assert_eq!(assigned, all);
}

pub(super) async fn groups_commit_apart_from_each_other(bus: Bus) {
    let at = |partition, offset| Position { partition, offset };
    let partition = publish_count(&bus, "AAPL", 5).await;
    let (a, all) = (group(), group());
    let ab = format!("{a}b");
    let (of_a, _) = join(&bus, &a).await;
    let (of_ab, _) = join(&bus, &ab).await;
    let (of_all, _) = join(&bus, &all).await;
    assert_eq!(bus.committed(&a).await.unwrap(), []);
    of_a.commit(&[at(partition, 3)]).await.unwrap();
    of_ab.commit(&[at(partition, 4)]).await.unwrap();
    of_a.commit(&[at(partition, 5)]).await.unwrap();
    assert_eq!(bus.committed(&a).await.unwrap(), [at(partition, 5)]);
    assert_eq!(bus.committed(&ab).await.unwrap(), [at(partition, 4)]);
    let each: Vec<Position> = (0..bus.partitions()).map(|partition| at(partition, 0)).collect();
    of_all.commit(&each).await.unwrap();
    assert_eq!(bus.committed(&all).await.unwrap(), each);
    assert!(of_a.commit(&[at(bus.partitions(), 0)]).await.is_err());
    assert!(bus.join("").is_err());
    for membership in [of_a, of_ab, of_all] {
        membership.leave().await;
    }
}

/// A name that no other group has.
fn group() -> String {
    static GROUPS: AtomicU32 = AtomicU32::new(0);
    format!("g-{}-{}-", std::process::id(), GROUPS.fetch_add(1, Relaxed))
}

/// A membership, and the partitions that it begins with.
async fn join(bus: &Bus, group: &str) -> (Membership, Vec<u32>) {
    let mut membership = bus.join(group).unwrap();
    loop {
        match membership.changed().await.unwrap() {
            Assignment::Assigned(partitions) if !partitions.is_empty() => return (membership, partitions),
            _ => {}
        }
    }
}

pub(super) async fn concurrent_publishers_keep_their_order(bus: Bus) {
    let publishers = (0..8).map(|publisher| {
        let bus = bus.clone();
        tokio::spawn(async move {
            for i in 0..200 {
                bus.publish(vec![tick(&format!("SYM{publisher}"), f64::from(i))]).await.unwrap();
            }
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.unwrap();
    }
    let records = read_all(&bus).await;
    assert_eq!(records.len(), 1600);
    for publisher in 0..8 {
        let prices = prices_of(&records, &format!("SYM{publisher}"));
        assert_eq!(prices, (0..200).map(f64::from).collect::<Vec<_>>());
    }
    for (partition, offsets) in offsets(&records) {
        assert_eq!(offsets, (0..bus.end(partition).await.unwrap()).collect::<Vec<_>>());
    }
}
