//! Retention removes what is too old or too much, never more, and the offsets stay.

use tocsin_engine::domain::Symbol;

use super::*;

const START_MS: i64 = 1_700_000_000_000;

/// `publish_in_parts` publishes this many ticks at a time, so that segments can roll in between.
const PART: u64 = 100;

async fn publish_in_parts(bus: &Bus, count: u64) {
    for _ in 0..count / PART {
        bus.publish((0..PART).map(|i| tick(&format!("SYM{}", i % 20), i as f64)).collect()).await.unwrap();
    }
}

async fn apply(bus: &Bus) {
    let Bus::Embedded(bus) = bus else { panic!("not an embedded bus") };
    bus.apply_retention().await.unwrap();
}

async fn bounds(bus: &Bus) -> Vec<(u64, u64)> {
    let mut bounds = Vec::new();
    for partition in 0..bus.partitions() {
        bounds.push((bus.earliest(partition).await.unwrap(), bus.end(partition).await.unwrap()));
    }
    bounds
}

fn config(retention_bytes: Option<u64>, retention_ms: Option<u64>) -> LogConfig {
    LogConfig { retention: Retention { retention_bytes, retention_ms }, ..LogConfig::default() }
}

#[tokio::test]
async fn by_size_the_oldest_go_and_the_limit_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let limit = 1024 * 1024;
    let open = || open_with(dir.path(), config(Some(limit), None), HeldClock::at(START_MS).clock());
    let bus = open();
    publish_in_parts(&bus, 60_000).await;
    apply(&bus).await;
    let retained = bus.stats().unwrap().retained_bytes.unwrap();
    // A segment more than the limit at most: one is 64 KiB and a part.
    assert!((limit..limit + 128 * 1024).contains(&retained), "{retained}");
    let before = bounds(&bus).await;
    assert!(before.iter().any(|(earliest, _)| *earliest > 0));
    for (partition, (earliest, end)) in (0..).zip(&before) {
        let offsets = offsets(&read_all(&bus).await).remove(&partition).unwrap_or_default();
        assert_eq!(offsets, (*earliest..*end).collect::<Vec<_>>());
    }
    drop(bus);
    let bus = open();
    assert_eq!(bounds(&bus).await, before);
    assert_eq!(bus.stats().unwrap().retained_bytes, Some(retained));
}

#[tokio::test]
async fn by_age_only_what_is_older_goes() {
    let dir = tempfile::tempdir().unwrap();
    let time = HeldClock::at(START_MS);
    let bus = open_with(dir.path(), config(None, Some(1_000)), time.clock());
    for at_ms in (0..3_000).step_by(100) {
        time.set(START_MS + at_ms);
        publish_in_parts(&bus, PART).await;
    }
    apply(&bus).await;
    let records = read_all(&bus).await;
    let oldest_ms = records.iter().map(|record| record.published_ms).min().unwrap();
    // 2,900 is now. The record of 1,900 is not older than 1,000 ms; a segment reaches over a sixteenth of that and one part.
    assert!((START_MS + 1_700..=START_MS + 1_900).contains(&oldest_ms), "{oldest_ms}");
    let kept = records.iter().filter(|record| record.published_ms >= START_MS + 1_900).count();
    assert_eq!(kept as u64, 11 * PART);
}

#[tokio::test]
async fn an_emptied_log_keeps_its_ends_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let time = HeldClock::at(START_MS);
    let open = || open_with(dir.path(), config(None, Some(1_000)), time.clock());
    let bus = open();
    publish_in_parts(&bus, 1_000).await;
    let ends: Vec<u64> = bounds(&bus).await.iter().map(|(_, end)| *end).collect();
    let mut reader = conformance::reader_from_earliest(&bus).await;
    time.set(START_MS + 1_001);
    apply(&bus).await;
    let emptied: Vec<(u64, u64)> = ends.iter().map(|end| (*end, *end)).collect();
    assert_eq!(bounds(&bus).await, emptied);
    assert_eq!(read_all(&bus).await, []);
    assert_eq!(bus.stats().unwrap().retained_bytes, Some(0));

    // A reader that was before the earliest offset gets an error.
    let mut batch = Vec::new();
    let error = reader.poll(&mut batch, 10, Duration::ZERO).unwrap_err();
    assert!(matches!(error, BusError::OffsetOutOfRange { position: Position { offset: 0, .. }, .. }), "{error}");
    assert!(bus.reader(vec![Position { partition: 0, offset: 0 }]).is_err() || ends[0] == 0);
    drop((bus, reader));

    for _ in 0..2 {
        let bus = open();
        assert_eq!(bounds(&bus).await, emptied);
    }
    let bus = open();
    bus.publish(vec![tick("AAPL", 1.0)]).await.unwrap();
    let partition = bus.partition_of(&Symbol::parse("AAPL").unwrap());
    assert_eq!(offsets(&read_all(&bus).await)[&partition], [ends[partition as usize]]);
}

#[tokio::test]
async fn without_limits_everything_stays() {
    let dir = tempfile::tempdir().unwrap();
    let time = HeldClock::at(START_MS);
    let bus = open_with(dir.path(), config(None, None), time.clock());
    publish_in_parts(&bus, 5_000).await;
    time.set(i64::MAX);
    apply(&bus).await;
    assert_eq!(read_all(&bus).await.len(), 5_000);
}

#[tokio::test]
async fn it_works_in_the_background_and_frees_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let bus = open_with(dir.path(), config(Some(1024 * 1024), None), HeldClock::at(START_MS).clock());
    // About 4 MB, of which 1 MiB may stay.
    publish_in_parts(&bus, 60_000).await;
    while bus.stats().unwrap().retained_bytes.unwrap() > 1024 * 1024 + 128 * 1024 {
        tokio::task::yield_now().await;
    }
    // A folder for each keyspace: fjall's own, three small ones, and those of at most 18 segments; those that fjall's
    // journals still refer to are gone after a restart.
    drop(bus);
    let bus = open_with(dir.path(), config(Some(1024 * 1024), None), HeldClock::at(START_MS).clock());
    let folders = std::fs::read_dir(dir.path().join("log/keyspaces")).unwrap().count();
    assert!(folders <= 22, "{folders}");
    drop(bus);
}
