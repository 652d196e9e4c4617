//! The projector over the embedded members.

use tocsin_bus::{EmbeddedBus, EmbeddedDb, LogConfig, Retention, system_clock};
use tocsin_engine::domain::{Conditions, Symbol, Tick};

use super::*;
use crate::testing::record;
use crate::{EmbeddedPrices, Interval, Span};

fn open(dir: &std::path::Path) -> (Bus, Prices) {
    let db = EmbeddedDb::open(dir).unwrap();
    let bus = EmbeddedBus::open(&db, LogConfig::default(), system_clock()).unwrap();
    (Bus::Embedded(bus), Prices::Embedded(EmbeddedPrices::open(&db).unwrap()))
}

fn tick(symbol: &str, price: f64, time_ms: i64) -> Tick {
    Tick::new(Symbol::parse(symbol).unwrap(), price, 1.0, time_ms, Conditions::default()).unwrap()
}

/// Runs the projector until it has committed the ends of all partitions, then stops it.
async fn catch_up(bus: &Bus, prices: &Prices) {
    let stop = CancellationToken::new();
    let running = tokio::spawn(project(bus.clone(), prices.clone(), stop.clone(), drop));
    committed_all(bus).await;
    stop.cancel();
    running.await.unwrap().unwrap();
}

/// Waits until the group has committed the ends of all partitions.
pub(crate) async fn committed_all(bus: &Bus) {
    loop {
        let mut read = 0;
        for position in bus.committed(GROUP).await.unwrap() {
            read += position.offset;
        }
        let mut published = 0;
        for partition in 0..bus.partitions() {
            published += bus.end(partition).await.unwrap();
        }
        if read == published {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ticks_that_retention_removed_before_they_were_projected_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let db = EmbeddedDb::open(dir.path()).unwrap();
    let retention = Retention { retention_bytes: Some(1), retention_ms: None };
    let config = LogConfig { retention, ..LogConfig::default() };
    let bus = Bus::Embedded(EmbeddedBus::open(&db, config, system_clock()).unwrap());
    let prices = Prices::Embedded(EmbeddedPrices::open(&db).unwrap());
    bus.publish(vec![tick("AAPL", 150.0, 10)]).await.unwrap();
    catch_up(&bus, &prices).await;
    let partition = bus.partition_of(&Symbol::parse("AAPL").unwrap());
    while bus.earliest(partition).await.unwrap() < 2 {
        bus.publish(vec![tick("AAPL", 151.0, 11); 1_000]).await.unwrap();
    }
    let (gap, mut gaps) = tokio::sync::mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let projecting = project(bus.clone(), prices.clone(), stop.clone(), move |gap_text| gap.send(gap_text).unwrap());
    let running = tokio::spawn(projecting);
    let reported = gaps.recv().await.unwrap();
    assert!(reported.contains(&format!("partition {partition}: ")) && reported.contains("not projected"), "{reported}");
    // It goes on with what comes next: retention may have removed all that was there.
    let aapl = Symbol::parse("AAPL").unwrap();
    while prices.get(&aapl).await.unwrap().is_none_or(|price| price.price != 152.0) {
        bus.publish(vec![tick("AAPL", 152.0, 12)]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_follow_the_bus_and_a_restart_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let price_of = async |prices: &Prices, symbol: &str| {
        prices.get(&Symbol::parse(symbol).unwrap()).await.unwrap().map(|price| price.price)
    };
    {
        let (bus, prices) = open(dir.path());
        let ticks = vec![tick("AAPL", 150.0, 10), tick("IBM", 90.0, 10), tick("AAPL", 149.0, 9)];
        bus.publish(ticks).await.unwrap();
        catch_up(&bus, &prices).await;
        assert_eq!(price_of(&prices, "AAPL").await, Some(150.0));
        assert_eq!(price_of(&prices, "IBM").await, Some(90.0));
    }
    let (bus, prices) = open(dir.path());
    bus.publish(vec![tick("IBM", 91.0, 11)]).await.unwrap();
    catch_up(&bus, &prices).await;
    assert_eq!(price_of(&prices, "IBM").await, Some(91.0));
    assert_eq!(price_of(&prices, "AAPL").await, Some(150.0));
    assert_eq!(trades(&prices, "AAPL").await, 2);
    assert_eq!(trades(&prices, "IBM").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_that_was_applied_and_not_committed_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let (bus, prices) = open(dir.path());
    bus.publish((0..100).map(|i| tick("AAPL", 150.0, i)).collect()).await.unwrap();
    let partition = bus.partition_of(&Symbol::parse("AAPL").unwrap());
    let mut reader = bus.reader(vec![Position { partition, offset: 0 }]).unwrap();
    let mut batch = Vec::new();
    // As by a projector that died behind its 60th tick.
    reader.poll(&mut batch, 60, Duration::ZERO).unwrap();
    prices.apply(&batch).await.unwrap();
    catch_up(&bus, &prices).await;
    assert_eq!(trades(&prices, "AAPL").await, 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_made_anew_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (bus, prices) = open(dir.path());
    let partition = bus.partition_of(&Symbol::parse("AAPL").unwrap());
    prices.apply(&[record("AAPL", partition, 1_000, 1.0, 1.0, 5)]).await.unwrap();
    bus.publish(vec![tick("AAPL", 150.0, 10)]).await.unwrap();
    let error = project(bus, prices, CancellationToken::new(), drop).await.unwrap_err();
    assert!(matches!(error, ProjectError::LogMadeAnew { end: 1, .. }), "{error}");
}

async fn trades(prices: &Prices, symbol: &str) -> u64 {
    let (symbol, span) = (Symbol::parse(symbol).unwrap(), Span { from_ms: None, to_ms: None });
    let candles = prices.candles(&symbol, Interval::Hour, span, 10).await.unwrap().unwrap();
    candles.iter().map(|candle| candle.trades).sum()
}
