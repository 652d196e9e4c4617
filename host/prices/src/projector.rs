//! The project role: reads the bus and keeps prices and candles.
//!
//! It is a consumer group, so that it goes on where it stopped. It commits after it has applied; what is applied again
//! after a crash is passed over, since prices know how far they are. While a backend of prices is away it waits.

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::FutureExt;
use tocsin_base::failpoint;
use tocsin_base::retry::RetryPolicy;
use tocsin_bus::{Assignment, Bus, BusError, Membership, Reader, Record};
use tocsin_engine::domain::Position;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{Prices, PricesError};

/// The consumer group, named as in GoStocks.
pub const GROUP: &str = "processor-group";

/// Records taken at a time: one write and one commit for each batch.
const BATCH_RECORDS: usize = 4096;

/// How long a poll waits before it looks again by itself. Appends and the stop wake it sooner.
const POLL_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the projector gave up.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProjectError {
    /// Reading or committing failed.
    #[error("the projector cannot read the bus: {0}")]
    Bus(#[from] BusError),
    /// Applying failed.
    #[error("the projector cannot keep prices: {0}")]
    Prices(#[from] PricesError),
    /// The log is younger than the prices.
    #[error(
        "prices and candles hold the ticks of partition {} up to offset {}, but it ends at {end}: the log was made anew, and \
         its ticks would be taken for old ones. Give prices another place (another database number in REDIS_ADDR), or remove \
         the keys candles:*",
        applied.partition, applied.offset
    )]
    LogMadeAnew {
        /// How far the partition is applied.
        applied: Position,
        /// The next offset to be written to it.
        end: u64,
    },
    /// Its thread ended without a word, or could not be started.
    #[error("the projector's thread has failed: {0}")]
    Thread(String),
}

/// Projects until `stop` is cancelled, from the group's committed positions on, or from the earliest. The reading is done
/// by a thread of its own. `gap` is called for ticks that retention removed before they were projected: prices go on without
/// them, and candles lack them for ever.
pub async fn project(
    bus: Bus,
    prices: Prices,
    stop: CancellationToken,
    gap: impl Fn(String) + Send + 'static,
) -> Result<(), ProjectError> {
    let (finished, result) = tokio::sync::oneshot::channel();
    let runtime = Handle::current();
    std::thread::Builder::new()
        .name("projector".into())
        .spawn(move || {
            let ended = run(runtime, bus, prices, stop, Box::new(gap));
            // The receiver is gone if the role was dropped rather than stopped.
            let _ = finished.send(ended);
        })
        .map_err(|error| ProjectError::Thread(error.to_string()))?;
    result.await.map_err(|_| ProjectError::Thread("it has panicked".into()))?
}

/// All that it has is dropped at the end: whoever hears of it may open the same folder at once.
fn run(runtime: Handle, bus: Bus, prices: Prices, stop: CancellationToken, gap: TellGap) -> Result<(), ProjectError> {
    let membership = bus.join(GROUP)?;
    let reader = bus.reader(Vec::new())?;
    let _wake_on_stop = reader.waker().wake_when_cancelled(&runtime, &stop);
    let mut projector = Projector { runtime, bus, prices, stop, gap, membership, reader, owned: BTreeSet::new() };
    projector.run()?;
    let Projector { runtime, membership, .. } = projector;
    runtime.block_on(membership.leave());
    Ok(())
}

type TellGap = Box<dyn Fn(String) + Send>;

struct Projector {
    runtime: Handle,
    bus: Bus,
    prices: Prices,
    stop: CancellationToken,
    gap: TellGap,
    membership: Membership,
    reader: Reader,
    /// The partitions that are read.
    owned: BTreeSet<u32>,
}

impl Projector {
    fn run(&mut self) -> Result<(), ProjectError> {
        let mut batch = Vec::new();
        while !self.stop.is_cancelled() {
            self.follow_the_group()?;
            match self.reader.poll(&mut batch, BATCH_RECORDS, POLL_TIMEOUT) {
                Ok(()) => {}
                // No record is behind the end, nor ever was in this log.
                Err(BusError::OffsetOutOfRange { position: applied, end, .. }) if applied.offset > end => {
                    return Err(ProjectError::LogMadeAnew { applied, end });
                }
                // Retention was faster.
                Err(BusError::OffsetOutOfRange { position, .. }) => {
                    self.reader.remove(&[position.partition]);
                    let start = self.start_of(&[position], position.partition)?;
                    self.reader.add(vec![start])?;
                }
                Err(error) => return Err(error.into()),
            }
            if batch.is_empty() || !self.apply(&mut batch)? {
                continue;
            }
            failpoint::pass("after-apply");
            let next = next_positions(&batch, &self.reader);
            if next.is_empty() {
                continue;
            }
            if let Err(error) = self.runtime.block_on(self.membership.commit(&next)) {
                // Whoever has the partitions now applies the same again, which changes nothing.
                warn!(%error, "the projector's progress is not committed");
            }
        }
        Ok(())
    }

    /// Applies a batch, however long that takes; false if it was stopped before. Records of partitions that are
    /// another process's meanwhile leave the batch.
    fn apply(&mut self, batch: &mut Vec<Record>) -> Result<bool, ProjectError> {
        let mut waits = RetryPolicy::PRICES.waits();
        loop {
            let wait = match self.runtime.block_on(self.prices.apply(batch)) {
                Ok(repeated) => return self.check_repeated(repeated).map(|()| true),
                // It has been logged where it happened.
                Err(error) if error.may_pass() => waits.next(rand::random()),
                Err(error) => return Err(error.into()),
            };
            let waited = async { self.stop.run_until_cancelled(tokio::time::sleep(wait)).await };
            if self.runtime.block_on(waited).is_none() {
                return Ok(false);
            }
            self.follow_the_group()?;
            batch.retain(|record| self.owned.contains(&record.position.partition));
        }
    }

    /// Ticks come again after a crash. But no partition can end before what was applied of it.
    fn check_repeated(&self, repeated: Vec<Position>) -> Result<(), ProjectError> {
        for applied in repeated {
            let end = self.runtime.block_on(self.bus.end(applied.partition))?;
            if applied.offset > end {
                return Err(ProjectError::LogMadeAnew { applied, end });
            }
        }
        Ok(())
    }

    /// Reads what is assigned from where the group has got to, and what is revoked no more.
    fn follow_the_group(&mut self) -> Result<(), BusError> {
        while let Some(changed) = self.membership.changed().now_or_never() {
            match changed? {
                Assignment::Assigned(partitions) => {
                    let committed = self.runtime.block_on(self.bus.committed(GROUP))?;
                    for partition in partitions {
                        let start = self.start_of(&committed, partition)?;
                        self.reader.add(vec![start])?;
                        self.owned.insert(partition);
                    }
                }
                Assignment::Revoked(partitions, _) | Assignment::Lost(partitions) => {
                    self.reader.remove(&partitions);
                    self.owned.retain(|partition| !partitions.contains(partition));
                }
            }
        }
        Ok(())
    }

    /// Where reading a partition begins. What retention has removed meanwhile is reported and skipped.
    fn start_of(&self, committed: &[Position], partition: u32) -> Result<Position, BusError> {
        let earliest = self.runtime.block_on(self.bus.earliest(partition))?;
        let committed = committed.iter().find(|position| position.partition == partition);
        let offset = committed.map_or(earliest, |position| position.offset);
        if offset < earliest {
            let gap = format!(
                "partition {partition}: retention removed the {} ticks before offset {earliest} that were not projected: \
                 candles lack them",
                earliest - offset
            );
            error!("{gap}");
            (self.gap)(gap);
        }
        Ok(Position { partition, offset: offset.max(earliest) })
    }
}

/// Where the reader stands in the partitions that the batch came from.
fn next_positions(batch: &[Record], reader: &Reader) -> Vec<Position> {
    let mut partitions: Vec<u32> = batch.iter().map(|record| record.position.partition).collect();
    partitions.sort_unstable();
    partitions.dedup();
    partitions.into_iter().map(|partition| Position { partition, offset: reader.position(partition) }).collect()
}
