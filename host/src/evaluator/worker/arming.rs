//! How bindings begin: each counts the ticks from its own offset on, wherever its worker is by then.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use tocsin_engine::domain::{AlertId, BindingId, Position, Symbol};
use tocsin_engine::{ArmError, Arming, EvaluateError, Event, Shard};
use tracing::{error, warn};

use super::{Home, MAX_BATCH, POLL_TIMEOUT, Worker};
use crate::bus::{BusError, Reader, Record};
use crate::evaluator::{EvaluatorError, EvaluatorStats};
use crate::store::UnassignedSymbol;

/// Bindings that wait for the offset from which they count.
pub(super) type Waiting = BTreeMap<u64, Vec<Arming>>;

impl Worker {
    /// Arms bindings that no checkpoint knows: each waits for its offset, or catches up from it.
    pub(super) fn arm_new(&mut self, new: Vec<(Arming, Position)>) -> Result<(), EvaluatorError> {
        if new.is_empty() {
            return Ok(());
        }
        let positions = self.positions();
        let mut behind: BTreeMap<u32, Waiting> = BTreeMap::new();
        for (arming, counts_from) in new {
            let partition = counts_from.partition;
            // The partition may have been lost or halted in the meantime.
            let (Some(lane), Some(position)) = (self.lanes.get_mut(&partition), positions.get(&partition)) else {
                continue;
            };
            if self.shard.holds(arming.binding) {
                continue;
            }
            let waiting = match counts_from.offset.cmp(position) {
                Ordering::Less => behind.entry(partition).or_default(),
                // A checkpoint that is taken now has to know it.
                Ordering::Equal => {
                    arm(&mut self.shard, &self.stats, arming)?;
                    continue;
                }
                Ordering::Greater => &mut lane.waiting,
            };
            waiting.entry(counts_from.offset).or_default().push(arming);
        }
        for (partition, waiting) in behind {
            self.catch_up(partition, waiting, positions[&partition])?;
        }
        self.count_bindings();
        Ok(())
    }

    /// Evaluates, for some bindings alone, the ticks that the shard has already passed, then adds them to the shard. A stop
    /// breaks it off: then nothing more of the partition is written, and it begins again at its checkpoint.
    fn catch_up(&mut self, partition: u32, mut waiting: Waiting, until: u64) -> Result<(), EvaluatorError> {
        let Some(first) = waiting.keys().next().copied() else { return Ok(()) };
        let mut reader = self.reader_from(Position { partition, offset: first }, until)?;
        let mut batch = Vec::new();
        self.catching_up = Some(Shard::for_catching_up(self.evaluation));
        while reader.position(partition) < until {
            reader.poll(&mut batch, MAX_BATCH, POLL_TIMEOUT)?;
            batch.retain(|record| record.position.offset < until);
            let mut events = Vec::new();
            for record in &batch {
                let (alone, stop) = (self.catching_up.get_or_insert_default(), &self.stop);
                begin(alone, &self.stats, &mut waiting, record.position.offset)?;
                let mut between = |_: &mut Vec<Event>| match stop.is_cancelled() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                };
                match alone.evaluate_in_turns(&record.tick, record.position, &mut events, &mut between) {
                    Ok(()) if !stop.is_cancelled() => {}
                    Ok(()) | Err(EvaluateError::Interrupted) => {
                        self.catching_up = None;
                        self.broken_off = Some(partition);
                        return Ok(());
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            self.hand_over(&mut events)?;
        }
        let mut alone = self.catching_up.take().unwrap_or_default();
        begin(&mut alone, &self.stats, &mut waiting, until)?;
        for (alert, error) in self.shard.absorb(&alone) {
            not_armed(&self.stats, alert, &error);
        }
        Ok(())
    }

    /// Looks for first ticks of symbols among those that were read before anybody told of the symbol's alert.
    pub(super) fn seek(&mut self, sought: &[UnassignedSymbol], partitions: &[u32]) -> Result<(), EvaluatorError> {
        let positions = self.positions();
        for (partition, until) in positions.into_iter().filter(|(partition, _)| partitions.contains(partition)) {
            let is_awaited = |sought: &&UnassignedSymbol| self.homes.get(&sought.symbol) == Some(&Home::Awaited);
            let ends = sought.iter().filter(is_awaited).map(|sought| (&sought.symbol, sought.end_of(partition)));
            let mut awaited: HashMap<&Symbol, u64> = ends.filter(|(_, end)| *end < until).collect();
            let Some(first) = awaited.values().min().copied() else { continue };
            let mut reader = self.reader_from(Position { partition, offset: first }, until)?;
            let mut batch = Vec::new();
            while !awaited.is_empty() && reader.position(partition) < until {
                reader.poll(&mut batch, MAX_BATCH, POLL_TIMEOUT)?;
                for record in batch.iter().filter(|record| record.position.offset < until) {
                    let Record { position, tick, .. } = record;
                    if awaited.get(&tick.symbol).is_some_and(|end| *end <= position.offset) {
                        awaited.remove(&tick.symbol);
                        self.stray(record)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A reader of one partition: from where retention has left something, but never from past `until`.
    fn reader_from(&mut self, from: Position, until: u64) -> Result<Reader, EvaluatorError> {
        let opened = self.with_patience(|worker| match worker.bus.reader(vec![from]) {
            Err(BusError::OffsetOutOfRange { earliest, .. }) => {
                let Position { partition, offset } = from;
                warn!(partition, first = offset, earliest, "a new alert missed ticks that retention removed");
                worker.bus.reader(vec![Position { partition, offset: earliest.min(until) }])
            }
            other => other,
        });
        Ok(opened?)
    }
}

/// Arms the bindings whose offset has come.
pub(super) fn begin(
    shard: &mut Shard,
    stats: &EvaluatorStats,
    waiting: &mut Waiting,
    offset: u64,
) -> Result<(), EvaluatorError> {
    while let Some(entry) = waiting.first_entry().filter(|entry| *entry.key() <= offset) {
        for arming in entry.remove() {
            arm(shard, stats, arming)?;
        }
    }
    Ok(())
}

/// Arms a binding. One that there is no memory for is reported, and the others go on.
pub(super) fn arm(shard: &mut Shard, stats: &EvaluatorStats, arming: Arming) -> Result<(), EvaluatorError> {
    let (binding, alert) = (arming.binding.0, arming.alert);
    match shard.arm(arming) {
        Err(error @ ArmError::Memory(_)) => not_armed(stats, alert, &error),
        armed => armed.map_err(|error| EvaluatorError::Arm(binding, error.to_string()))?,
    }
    Ok(())
}

fn not_armed(stats: &EvaluatorStats, alert: AlertId, error: &ArmError) {
    error!(alert = alert.0, %error, "an alert cannot be evaluated");
    stats.not_armed(alert, error.to_string());
}

/// Releases an armed binding from quarantine; one that has left it by itself stays as it is.
pub(super) fn release(shard: &mut Shard, binding: BindingId) -> Result<(), EvaluatorError> {
    let released = shard.unquarantine(binding);
    released.map(drop).map_err(|error| EvaluatorError::Arm(binding.0, error.to_string()))
}
