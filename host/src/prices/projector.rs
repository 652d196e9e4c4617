//! The project role: reads the bus and keeps the newest price of each symbol.
//!
//! It is a consumer group, so that it goes on where it stopped. It commits after it has put; what is put again after a
//! crash changes nothing, since a price is replaced only by one that is not older.

use std::time::Duration;

use futures_util::FutureExt;
use tocsin_engine::domain::{Position, Symbol};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Price, Prices, PricesError};
use crate::bus::{Assignment, Bus, BusError, Reader, Record};

/// The consumer group, named as in GoStocks.
pub const GROUP: &str = "processor-group";

/// Records taken at a time: one put and one commit for each batch.
const BATCH_RECORDS: usize = 4096;

/// How long a poll waits before it looks again by itself. Appends and the stop wake it sooner.
const POLL_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the projector gave up.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProjectError {
    /// Reading or committing failed.
    #[error("the projector cannot read the bus: {0}")]
    Bus(#[from] BusError),
    /// Putting failed.
    #[error("the projector cannot put prices: {0}")]
    Prices(#[from] PricesError),
    /// Its thread ended without a word, or could not be started.
    #[error("the projector's thread has failed: {0}")]
    Thread(String),
}

/// Projects until `stop` is cancelled, from the group's committed positions on, or from the earliest. The reading is done
/// by a thread of its own.
pub async fn project(bus: Bus, prices: Prices, stop: CancellationToken) -> Result<(), ProjectError> {
    let (finished, result) = tokio::sync::oneshot::channel();
    let runtime = Handle::current();
    std::thread::Builder::new()
        .name("projector".into())
        .spawn(move || {
            let ended = run(&runtime, &bus, &prices, &stop);
            // Whoever hears of the end may open the same folder at once.
            drop((bus, prices));
            // Nobody listens any more if the role was dropped rather than stopped.
            let _ = finished.send(ended);
        })
        .map_err(|error| ProjectError::Thread(error.to_string()))?;
    result.await.map_err(|_| ProjectError::Thread("it has panicked".into()))?
}

fn run(runtime: &Handle, bus: &Bus, prices: &Prices, stop: &CancellationToken) -> Result<(), ProjectError> {
    let mut membership = bus.join(GROUP)?;
    let mut reader = bus.reader(Vec::new())?;
    let _wake_on_stop = reader.waker().wake_when_cancelled(runtime, stop);
    let mut batch = Vec::new();
    while !stop.is_cancelled() {
        while let Some(changed) = membership.changed().now_or_never() {
            follow(runtime, bus, &mut reader, changed?)?;
        }
        match reader.poll(&mut batch, BATCH_RECORDS, POLL_TIMEOUT) {
            Ok(()) => {}
            // Retention was faster.
            Err(BusError::OffsetOutOfRange { position, .. }) => {
                reader.remove(&[position.partition]);
                reader.add(vec![runtime.block_on(start_of(bus, &[position], position.partition))?])?;
            }
            Err(error) => return Err(error.into()),
        }
        if !batch.is_empty() {
            runtime.block_on(prices.put(&prices_of(&batch)))?;
            let next = next_positions(&batch, &reader);
            if let Err(error) = runtime.block_on(membership.commit(&next)) {
                // Whoever has the partitions now puts the same again, which changes nothing.
                warn!(%error, "the projector's progress is not committed");
            }
        }
    }
    runtime.block_on(membership.leave());
    Ok(())
}

/// Reads what is assigned from where the group has got to, and what is revoked no more.
fn follow(runtime: &Handle, bus: &Bus, reader: &mut Reader, changed: Assignment) -> Result<(), BusError> {
    match changed {
        Assignment::Assigned(partitions) => {
            let committed = runtime.block_on(bus.committed(GROUP))?;
            for partition in partitions {
                reader.add(vec![runtime.block_on(start_of(bus, &committed, partition))?])?;
            }
        }
        Assignment::Revoked(partitions, _) | Assignment::Lost(partitions) => {
            reader.remove(&partitions);
        }
    }
    Ok(())
}

/// Where reading a partition begins. What retention has removed meanwhile is told and passed over.
async fn start_of(bus: &Bus, committed: &[Position], partition: u32) -> Result<Position, BusError> {
    let earliest = bus.earliest(partition).await?;
    let committed = committed.iter().find(|position| position.partition == partition);
    let offset = committed.map_or(earliest, |position| position.offset);
    if offset < earliest {
        warn!(partition, committed = offset, earliest, "retention removed ticks before they were projected");
    }
    Ok(Position { partition, offset: offset.max(earliest) })
}

fn prices_of(batch: &[Record]) -> Vec<(Symbol, Price)> {
    let price = |record: &Record| Price { price: record.tick.price, time_ms: record.tick.time_ms };
    batch.iter().map(|record| (record.tick.symbol.clone(), price(record))).collect()
}

/// Where the reader stands in the partitions that the batch came from.
fn next_positions(batch: &[Record], reader: &Reader) -> Vec<Position> {
    let mut partitions: Vec<u32> = batch.iter().map(|record| record.position.partition).collect();
    partitions.sort_unstable();
    partitions.dedup();
    partitions.into_iter().map(|partition| Position { partition, offset: reader.position(partition) }).collect()
}

#[cfg(test)]
mod tests {
    use tocsin_engine::domain::{Conditions, Tick};

    use super::*;
    use crate::bus::{EmbeddedBus, EmbeddedDb, LogConfig, system_clock};
    use crate::prices::EmbeddedPrices;

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
        let running = tokio::spawn(project(bus.clone(), prices.clone(), stop.clone()));
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
        stop.cancel();
        running.await.unwrap().unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn prices_follow_the_bus_and_a_restart_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let aapl = Symbol::parse("AAPL").unwrap();
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
        // Only the committed positions keep the projector from reading AAPL's first tick again.
        let later = Price { price: 1.0, time_ms: 10 };
        prices.put(&[(aapl, later)]).await.unwrap();
        bus.publish(vec![tick("IBM", 91.0, 11)]).await.unwrap();
        catch_up(&bus, &prices).await;
        assert_eq!(price_of(&prices, "IBM").await, Some(91.0));
        assert_eq!(price_of(&prices, "AAPL").await, Some(1.0));
    }
}
