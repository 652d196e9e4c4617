//! The embedded bus does what every bus must, and what only it can do: restart, retention, repair.

mod crash;
mod oracle;
mod retention;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::Duration;

use prost::Message;
use tempfile::TempDir;
use tocsin_engine::domain::Position;
use tocsin_proto::stock::StockTick;

use super::segment::{keyspace_name, record_key};
use super::{EmbeddedBus, LogConfig, Retention};
use crate::conformance::{self, offsets, publish_count, read_all, tick};
use crate::{Bus, BusError, Clock, EmbeddedDb, system_clock};

/// A clock that tests move.
#[derive(Clone)]
struct HeldClock(Arc<AtomicI64>);

impl HeldClock {
    fn at(now_ms: i64) -> Self {
        Self(Arc::new(AtomicI64::new(now_ms)))
    }

    fn set(&self, now_ms: i64) {
        self.0.store(now_ms, SeqCst);
    }

    fn clock(&self) -> Clock {
        let now_ms = self.0.clone();
        Arc::new(move || now_ms.load(SeqCst))
    }
}

/// Opens the bus in a folder.
fn open(dir: &Path) -> Bus {
    open_with(dir, LogConfig::default(), system_clock())
}

fn open_with(dir: &Path, config: LogConfig, clock: Clock) -> Bus {
    Bus::Embedded(EmbeddedBus::open(&EmbeddedDb::open(dir).unwrap(), config, clock).unwrap())
}

fn fresh() -> (Bus, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (open(dir.path()), dir)
}

conformance::tests!(fresh());

#[tokio::test]
async fn a_log_has_an_identity_of_its_own() {
    let (bus, dir) = fresh();
    let (other, _other_dir) = fresh();
    let identity = bus.identity().await.unwrap();
    assert_ne!(other.identity().await.unwrap(), identity);
    drop(bus);
    assert_eq!(open(dir.path()).identity().await.unwrap(), identity);
}

#[tokio::test]
async fn a_restart_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let group = [Position { partition: 0, offset: 1 }, Position { partition: 7, offset: 0 }];
    for round in 1..=4 {
        let bus = open(dir.path());
        let before = read_all(&bus).await;
        assert_eq!(before.len(), 10 * (round - 1));
        let partition = publish_count(&bus, "AAPL", 10).await;
        let after = read_all(&bus).await;
        assert_eq!(after[..before.len()], before);
        assert_eq!(offsets(&after)[&partition], (0..10 * round as u64).collect::<Vec<_>>());
        bus.join("g").unwrap().commit(&group).await.unwrap();
        drop(bus);
        assert_eq!(open(dir.path()).committed("g").await.unwrap(), group);
    }
}

#[tokio::test]
async fn the_number_of_partitions_is_fixed() {
    let dir = tempfile::tempdir().unwrap();
    let open = |partitions| {
        let config = LogConfig { partitions, ..LogConfig::default() };
        EmbeddedBus::open(&EmbeddedDb::open(dir.path()).unwrap(), config, system_clock()).map(Bus::Embedded)
    };
    assert!(matches!(open(0).err(), Some(BusError::BadPartitionCount(0))));
    assert_eq!(open(3).unwrap().partitions(), 3);
    let error = open(8).err().unwrap();
    assert!(matches!(error, BusError::PartitionCount { stored: 3, asked: 8 }));
    assert!(error.to_string().contains("configure 3"), "{error}");
    assert_eq!(open(3).unwrap().partitions(), 3);
}

#[tokio::test]
async fn messages_that_are_no_ticks_are_skipped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let message = |symbol: &str, price| StockTick { symbol: symbol.into(), price, ..StockTick::default() };
    let stamped = |message: &[u8]| [&7i64.to_be_bytes()[..], message].concat();
    let values = [
        stamped(b"\xff\xff\xff"),
        stamped(&message("A", 1.0).encode_to_vec()),
        stamped(&message("A", f64::NAN).encode_to_vec()),
        stamped(&message("", 1.0).encode_to_vec()),
        b"short".to_vec(),
        Vec::new(),
    ];
    {
        let db = EmbeddedDb::open(dir.path()).unwrap();
        let records = db.small_keyspace(&keyspace_name(0)).unwrap();
        for (offset, value) in values.iter().enumerate() {
            records.insert(record_key(Position { partition: 2, offset: offset as u64 }), &value[..]).unwrap();
        }
    }
    let bus = open(dir.path());
    let mut reader = bus.reader(vec![Position { partition: 2, offset: 0 }]).unwrap();
    let mut batch = Vec::new();
    reader.poll(&mut batch, 100, Duration::ZERO).unwrap();
    assert_eq!(batch.len(), 1);
    assert_eq!((batch[0].position.offset, batch[0].published_ms), (1, 7));
    assert_eq!(reader.position(2), 6);
    assert_eq!(bus.stats().unwrap().skipped_messages, 5);
}

#[tokio::test]
async fn ticks_wait_while_the_disk_has_too_little_room_and_offsets_are_committed_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let bus = open_with(dir.path(), LogConfig { min_free_bytes: u64::MAX, ..LogConfig::default() }, system_clock());
    let refused = bus.publish(vec![tick("AAPL", 1.0)]).await.unwrap_err();
    assert!(matches!(refused, BusError::DiskFull(_)) && refused.is_transient(), "{refused}");
    assert!(bus.ends().await.unwrap().iter().all(|end| *end == 0));
    let group = [Position { partition: 0, offset: 0 }];
    bus.join("g").unwrap().commit(&group).await.unwrap();
    assert_eq!(bus.committed("g").await.unwrap(), group);
}

#[tokio::test]
async fn a_raised_end_leaves_a_gap_that_readers_pass() {
    let dir = tempfile::tempdir().unwrap();
    let bus = open(dir.path());
    let partition = publish_count(&bus, "AAPL", 5).await;
    bus.ensure_end(Position { partition, offset: 3 }).await.unwrap();
    assert_eq!(bus.end(partition).await.unwrap(), 5);
    bus.ensure_end(Position { partition, offset: 9 }).await.unwrap();
    drop(bus);
    let bus = open(dir.path());
    assert_eq!(bus.end(partition).await.unwrap(), 9);
    assert_eq!(offsets(&read_all(&bus).await)[&partition], [0, 1, 2, 3, 4]);
    publish_count(&bus, "AAPL", 2).await;
    assert_eq!(offsets(&read_all(&bus).await)[&partition], [0, 1, 2, 3, 4, 9, 10]);
    assert!(bus.reader(vec![Position { partition, offset: 7 }]).is_ok());
}

#[tokio::test]
async fn an_end_behind_a_committed_offset_is_raised_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let bus = open(dir.path());
    let partition = publish_count(&bus, "AAPL", 5).await;
    // As if a power loss had taken what was at the offsets 5 to 11.
    let lost = Position { partition, offset: 12 };
    bus.join("g").unwrap().commit(&[lost]).await.unwrap();
    drop(bus);
    let bus = open(dir.path());
    assert_eq!(bus.end(partition).await.unwrap(), 12);
    assert!(bus.reader(vec![lost]).is_ok());
    bus.publish(vec![tick("AAPL", 1.0)]).await.unwrap();
    assert_eq!(offsets(&read_all(&bus).await)[&partition], [0, 1, 2, 3, 4, 12]);
}

#[tokio::test]
async fn a_segment_whose_creation_was_cut_short_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let bus = open(dir.path());
    let partition = publish_count(&bus, "AAPL", 5).await;
    drop(bus);
    drop(EmbeddedDb::open(dir.path()).unwrap().small_keyspace(&keyspace_name(1)).unwrap());
    let bus = open(dir.path());
    publish_count(&bus, "AAPL", 5).await;
    bus.ensure_end(Position { partition, offset: 20 }).await.unwrap();
    publish_count(&bus, "AAPL", 1).await;
    assert_eq!(read_all(&bus).await.len(), 11);
}
