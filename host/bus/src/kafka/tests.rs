//! The bus on a real Kafka, as `cargo xtask test` starts one.

use tocsin_engine::domain::{Conditions, Symbol, Tick};

use super::testing::config;
use super::*;
use crate::{Bus, conformance};

/// A fresh topic, and nothing that must live as long.
async fn open() -> (Bus, ()) {
    (testing::fresh_topic().await, ())
}

conformance::tests!(open().await);

#[tokio::test]
async fn what_is_no_tick_is_passed_over_and_three_fields_are_one() {
    let config = config();
    let bus = KafkaBus::open(config.clone()).await.unwrap();
    let producer: FutureProducer = config.client().create().unwrap();
    // As GoStocks writes it: AAPL, 150.25, 1700000000000.
    let mut three_fields = b"\x0a\x04AAPL\x11".to_vec();
    three_fields.extend_from_slice(&150.25_f64.to_le_bytes());
    three_fields.extend_from_slice(b"\x18\x80\xd0\x95\xff\xbc\x31");
    for payload in [&b"\xff\xff"[..], &three_fields, b""] {
        let record = FutureRecord::to(&config.topic).key("AAPL").payload(payload).partition(3);
        producer.send_result(record).unwrap().await.unwrap().unwrap();
    }
    let bus = Bus::Kafka(bus);
    let records = conformance::read_all(&bus).await;
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].tick.symbol.as_str(), records[0].tick.price), ("AAPL", 150.25));
    assert_eq!((records[0].tick.time_ms, records[0].tick.volume), (1_700_000_000_000, 0.0));
    assert_eq!(records[0].position, Position { partition: 3, offset: 1 });
    assert_eq!(bus.stats().unwrap().skipped_messages, 2);
}

#[tokio::test]
async fn a_topic_keeps_its_partitions_and_two_openers_agree() {
    let config = config();
    let other = KafkaConfig { partitions: 3, ..config.clone() };
    let (one, two) = tokio::join!(KafkaBus::open(config.clone()), KafkaBus::open(config));
    assert_eq!((one.unwrap().partitions(), two.unwrap().partitions()), (8, 8));
    assert_eq!(KafkaBus::open(other).await.unwrap().partitions(), 8);
}

#[tokio::test]
async fn a_topic_that_is_made_anew_is_another_log() {
    let bus = testing::fresh_topic().await;
    let identity = bus.identity().await.unwrap();
    assert!(identity.starts_with("kafka:") && !identity.contains('/'), "an id of the topic's: {identity}");
    assert_eq!(bus.identity().await.unwrap(), identity);
    let Bus::Kafka(kafka) = &bus else { unreachable!() };
    let again = KafkaBus::open(kafka.config().clone()).await.unwrap();
    assert_eq!(again.identity().await.unwrap(), identity, "for every process");
    let remade = testing::remake_topic(&bus).await;
    assert_ne!(remade.identity().await.unwrap(), identity);
    assert_eq!(
        bus.identity().await.unwrap(),
        remade.identity().await.unwrap(),
        "also for who had opened the one before"
    );
}

#[tokio::test]
async fn a_topic_with_one_copy_of_each_partition_promises_too_little() {
    let missing = testing::fresh_topic().await.missing_promises().await.unwrap();
    // The Kafka of tests has one broker.
    assert!(missing.len() == 1 && missing[0].contains("a partition has 1 copies"), "{missing:?}");
}

#[tokio::test]
async fn an_end_before_a_checkpoint_is_an_error() {
    let bus = KafkaBus::open(config()).await.unwrap();
    bus.ensure_end(Position { partition: 0, offset: 0 }).await.unwrap();
    let position = Position { partition: 0, offset: 1 };
    let error = bus.ensure_end(position).await.unwrap_err();
    assert!(matches!(error, BusError::OffsetOutOfRange { position: at, end: 0, .. } if at == position), "{error}");
}

#[tokio::test]
async fn an_answer_about_a_position_of_before_does_not_end_reading() {
    let bus = testing::fresh_topic().await;
    let tick = Tick::new(Symbol::parse("AAPL").unwrap(), 1.0, 1.0, 1, Conditions::default()).unwrap();
    testing::append(&bus, 0, &[tick.clone(), tick]).await;
    let Bus::Kafka(kafka) = &bus else { unreachable!() };
    let position = Position { partition: 0, offset: 1 };
    let mut reader = kafka.reader(vec![position]).unwrap();
    // As where the topic was made anew, and the fetch of the old topic's position was answered after the partition was taken
    // at the new topic's.
    reader.report_out_of_range(0);
    let mut batch = Vec::new();
    while batch.is_empty() {
        reader.poll(&mut batch, 10, Duration::from_secs(10)).unwrap();
    }
    assert_eq!(batch[0].position, position);
}

#[tokio::test]
async fn offsets_without_messages_at_the_end_are_read_over() {
    let bus = testing::fresh_topic().await;
    let tick = Tick::new(Symbol::parse("AAPL").unwrap(), 1.0, 1.0, 1, Conditions::default()).unwrap();
    // A transaction ends in a marker that takes an offset.
    testing::append_in_transaction(&bus, 0, &[tick]).await;
    assert_eq!(bus.end(0).await.unwrap(), 2);
    let mut reader = bus.reader(vec![Position { partition: 0, offset: 0 }]).unwrap();
    let (mut batch, mut records) = (Vec::new(), 0);
    let begun = Instant::now();
    while reader.position(0) < 2 {
        assert!(begun.elapsed() < Duration::from_secs(30), "the reader stays at {}", reader.position(0));
        reader.poll(&mut batch, 10, Duration::from_millis(100)).unwrap();
        records += batch.len();
    }
    assert_eq!(records, 1);
}
