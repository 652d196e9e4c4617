//! Records that are read again: for bindings that begin behind the processor's position, and for first ticks of symbols
//! that were read before the processor knew that an alert watches them.

use std::collections::HashMap;

use tocsin_bus::Record;
use tocsin_engine::Shard;
use tocsin_engine::domain::{Position, Symbol};
use tocsin_store::UnassignedSymbol;

use super::arming::arm_reached;
use super::partition::Waiting;
use super::{Assignment, Output, Pause, Processor, evaluate};
use crate::evaluator::EvaluatorError;

/// Records of one partition that are to be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::evaluator) struct RereadRange {
    /// No other range of the processor has this number.
    number: u64,
    pub(in crate::evaluator) partition: u32,
    /// The first offset.
    pub(in crate::evaluator) from: u64,
    /// The offset behind the last one.
    pub(in crate::evaluator) until: u64,
}

/// Why records are read again.
pub(super) enum Reread {
    CatchUp(Box<CatchUp>),
    FirstTicks(FirstTicks),
}

/// Bindings that evaluate, on a shard of their own, the records that the processor has passed. Then they join the others.
pub(super) struct CatchUp {
    range: RereadRange,
    shard: Shard,
    waiting: Waiting,
}

/// Unassigned symbols whose first tick is looked for.
pub(super) struct FirstTicks {
    range: RereadRange,
    /// With the offset from which on a tick counts.
    symbols: HashMap<Symbol, u64>,
}

impl Reread {
    pub(super) fn range(&self) -> RereadRange {
        match self {
            Self::CatchUp(catch_up) => catch_up.range,
            Self::FirstTicks(first_ticks) => first_ticks.range,
        }
    }

    pub(super) fn shard(&self) -> Option<&Shard> {
        match self {
            Self::CatchUp(catch_up) => Some(&catch_up.shard),
            Self::FirstTicks(_) => None,
        }
    }
}

impl Processor {
    /// Returns the records that must be read again before any other input is given; None if there are none. Where retention
    /// has removed some of them, the rest is to be given. The caller asks again after each batch: where it gets another range,
    /// the last one has ended early.
    pub(in crate::evaluator) fn reread(&mut self) -> Option<RereadRange> {
        while let Some(Reread::FirstTicks(FirstTicks { symbols, .. })) = self.rereads.front_mut() {
            symbols.retain(|symbol, _| self.symbols.get(symbol) == Some(&Assignment::Unassigned));
            if !symbols.is_empty() {
                break;
            }
            self.rereads.pop_front();
        }
        self.rereads.front().map(Reread::range)
    }

    /// Has bindings catch up with the processor.
    pub(super) fn catch_up(&mut self, partition: u32, waiting: Waiting) {
        let Some(from) = waiting.keys().next().copied() else { return };
        let Some(range) = self.passed_since(partition, from) else { return };
        let shard = Shard::for_catching_up(self.options);
        self.rereads.push_back(Reread::CatchUp(Box::new(CatchUp { range, shard, waiting })));
    }

    /// Looks for first ticks of unassigned symbols among the records that were read before their alerts were known.
    pub(super) fn reread_for_first_ticks(&mut self, unassigned: &[UnassignedSymbol], partitions: &[u32]) {
        for partition in partitions {
            let ends = unassigned.iter().map(|unassigned| (&unassigned.symbol, unassigned.end_of(*partition)));
            let is_unassigned = |symbol: &Symbol| self.symbols.get(symbol) == Some(&Assignment::Unassigned);
            let ends: Vec<(&Symbol, u64)> = ends.filter(|(symbol, _)| is_unassigned(symbol)).collect();
            let Some(from) = ends.iter().map(|(_, end)| *end).min() else { continue };
            let Some(range) = self.passed_since(*partition, from) else { continue };
            let passed = ends.into_iter().filter(|(_, end)| *end < range.until);
            let symbols = passed.map(|(symbol, end)| (symbol.clone(), end)).collect();
            self.rereads.push_back(Reread::FirstTicks(FirstTicks { range, symbols }));
        }
    }

    /// The range of the records from an offset on that the processor has passed; None if there are none.
    fn passed_since(&mut self, partition: u32, from: u64) -> Option<RereadRange> {
        let until = self.partitions.get(&partition)?.next_offset;
        self.ranges += 1;
        (from < until).then_some(RereadRange { number: self.ranges, partition, from, until })
    }

    /// Evaluates a record of the range that [`Self::reread`] returned.
    pub(super) fn evaluate_reread(
        &mut self,
        record: &Record,
        outputs: &mut Vec<Output>,
        pause: &mut Pause<'_>,
    ) -> Result<(), EvaluatorError> {
        let Record { position: Position { partition, offset }, tick, .. } = record;
        match self.rereads.front_mut() {
            Some(Reread::CatchUp(catch_up)) => {
                let CatchUp { shard, waiting, .. } = &mut **catch_up;
                arm_reached(shard, waiting, *offset, outputs)?;
                let mut events = std::mem::take(&mut self.events);
                let evaluated = evaluate(shard, record, &mut events, &mut self.partitions, outputs, pause);
                self.report(&mut events, outputs);
                self.events = events;
                if evaluated?.is_break() {
                    self.interrupt(*partition, outputs);
                }
            }
            Some(Reread::FirstTicks(FirstTicks { symbols, .. })) => {
                if symbols.get(&tick.symbol).is_some_and(|first| first <= offset) {
                    symbols.remove(&tick.symbol);
                    self.skip_tick(record, outputs);
                }
            }
            None => debug_assert!(false, "records are given again where they are asked for"),
        }
        Ok(())
    }

    /// Ends the range that [`Self::reread`] returned.
    pub(super) fn end_reread(&mut self, outputs: &mut Vec<Output>) -> Result<(), EvaluatorError> {
        if let Some(Reread::CatchUp(catch_up)) = self.rereads.pop_front() {
            let CatchUp { range, mut shard, mut waiting } = *catch_up;
            arm_reached(&mut shard, &mut waiting, range.until, outputs)?;
            let mut events = std::mem::take(&mut self.events);
            for (alert, error) in self.shard.absorb(&shard, &mut events) {
                outputs.push(Output::NotArmed { alert, why: error.to_string() });
            }
            self.report(&mut events, outputs);
            self.events = events;
        }
        Ok(())
    }
}
