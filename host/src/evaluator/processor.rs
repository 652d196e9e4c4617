//! Evaluates the partitions of one worker: inputs in, outputs out.
//!
//! A [`Processor`] owns an engine shard and the partitions whose ticks are evaluated on it. It knows no bus, store, clock or
//! channel: the same inputs in the same order return the same outputs, so a test or a simulator can drive it with records
//! of its own, stop it between any two inputs, and begin again from a checkpoint that it returned.
//!
//! The caller steps the processor through the records of each partition in the order of their offsets. After each step that
//! is not a record it serves what [`Processor::reread`] asks for, before any other input.
//!
//! `arming` begins bindings; `rereads` evaluates records again that the processor has passed; `pending` applies what must
//! follow a checkpoint; `checkpoints` returns what partitions remember.

mod arming;
mod checkpoints;
mod partition;
mod pending;
mod rereads;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::ControlFlow;

use tocsin_bus::Record;
use tocsin_engine::domain::{AlertId, BindingId, Digest, Position, RuleRef, Symbol};
use tocsin_engine::{Arming, EvaluateError, EvaluationOptions, Event, RuleUsage, Shard};
use tocsin_store::{Checkpoint, SymbolAssignment, UnassignedSymbol};

use self::arming::arm_reached;
use self::partition::Partition;
use self::rereads::Reread;
pub(super) use self::rereads::RereadRange;
use super::EvaluatorError;
use super::changes::{Change, Changes, HandoffRequest, Unquarantine};

/// Evaluates the partitions of one worker.
pub(super) struct Processor {
    shard: Shard,
    options: EvaluationOptions,
    partitions: BTreeMap<u32, Partition>,
    /// The symbols that alerts watch or have watched.
    symbols: HashMap<Symbol, Assignment>,
    /// Changes up to this revision are applied.
    revision: u64,
    /// Records that are to be read again, in this order.
    rereads: VecDeque<Reread>,
    /// How many ranges were to be read again so far.
    ranges: u64,
    /// The engine's events of one record; empty between steps.
    events: Vec<Event>,
}

/// What a processor is stepped with.
pub(super) enum Input<'a> {
    /// The next record of a partition. Records of partitions that the processor does not have must not be given.
    Record(&'a Record),
    /// All records of a partition before this position were given: offsets that are missing hold no ticks.
    ReadTo(Position),
    /// The next record of the range that [`Processor::reread`] returned.
    Reread(&'a Record),
    /// All records of the range that [`Processor::reread`] returned were given.
    RereadEnd,
    /// Bindings and symbol assignments have changed.
    Changes(Changes),
    /// A partition is the processor's from now on.
    Take(Box<Restored>),
    /// Partitions are not the processor's any more. No checkpoint is taken of them.
    GiveUp(&'a [u32]),
    /// A checkpoint of all partitions that have changed is due.
    Checkpoint,
    /// Unquarantines and handoffs that are due are to be applied.
    ApplyPending,
}

/// What a processor returns. The order matters: what comes before a checkpoint is part of it.
#[derive(Debug)]
pub(super) enum Output {
    /// A binding fired, faulted or recovered, or a rule version is impure.
    Event(Event),
    /// What partitions remember, to be written in one transaction.
    Checkpoints(Vec<Checkpoint>),
    /// Firings of an alert were not recorded since its last checkpoint, because it fired too often.
    Suppressed { alert: AlertId, firings: u64 },
    /// The first tick of an unassigned symbol was read: the store is to assign the symbol to a partition.
    SymbolSeen { symbol: Symbol, position: Position, published_ms: i64 },
    /// A tick was not evaluated, since its symbol is assigned to another partition.
    Misrouted { symbol: Symbol, assigned: u32, partition: u32 },
    /// An alert's binding could not be armed, and is not evaluated.
    NotArmed { alert: AlertId, why: String },
    /// Bindings wait to be unquarantined until they are armed: how many, and the first. Zero ends an earlier report.
    UnquarantineWaits { partition: u32, bindings: usize, first: Option<BindingId> },
    /// A promotion requested a binding that is not armed on this partition. Nothing is handed off.
    HandoffSkipped { partition: u32, binding: BindingId },
    /// The caller interrupted evaluation. The partition is given up without a checkpoint, since its states are those of no
    /// offset.
    Interrupted(u32),
}

/// What a processor goes on with on a partition.
pub(super) struct Restored {
    /// The first position to be read.
    pub(super) from: Position,
    /// Where the partition ended: records before this offset may have been evaluated by an earlier worker. They are
    /// evaluated again as they were then, before anything else is done to a binding.
    pub(super) replay_until: u64,
    /// Bindings that were armed at the checkpoint.
    pub(super) armed: Vec<Arming>,
    /// Bindings that were not, and from where they count.
    pub(super) new: Vec<(Arming, Position)>,
    /// Bindings that were unquarantined right after the checkpoint.
    pub(super) unquarantined: Vec<BindingId>,
    /// Bindings whose unquarantine is stored and was never applied.
    pub(super) unquarantine_due: Vec<Unquarantine>,
    /// Bindings that a promotion has requested.
    pub(super) handoffs: Vec<HandoffRequest>,
    /// Unassigned symbols that the checkpoint did not know of: their first tick may lie before it.
    pub(super) unassigned: Vec<UnassignedSymbol>,
}

/// Where the ticks of a symbol count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Assignment {
    /// On this partition alone.
    Partition(u32),
    /// On the partition of the first tick, which was not read yet.
    Unassigned,
    /// The first tick was read, and the store was asked to assign the symbol.
    Requested,
}

/// What a caller may do in the middle of a long evaluation: it may take outputs, and interrupt it.
pub(super) type Pause<'a> = dyn FnMut(&mut Vec<Output>) -> ControlFlow<()> + 'a;

impl Processor {
    /// A processor without partitions, which knows changes up to `revision`.
    pub(super) fn new(options: EvaluationOptions, revision: u64) -> Self {
        Self {
            shard: Shard::new(options),
            options,
            partitions: BTreeMap::new(),
            symbols: HashMap::new(),
            revision,
            rereads: VecDeque::new(),
            ranges: 0,
            events: Vec::new(),
        }
    }

    /// Processes one input and appends what comes of it to `outputs`. Calls `pause` from time to time while an evaluation
    /// takes long.
    pub(super) fn step(
        &mut self,
        input: Input<'_>,
        outputs: &mut Vec<Output>,
        pause: &mut Pause<'_>,
    ) -> Result<(), EvaluatorError> {
        match input {
            Input::Record(record) => self.evaluate_record(record, outputs, pause),
            Input::ReadTo(position) => self.read_to(position, outputs),
            Input::Reread(record) => self.evaluate_reread(record, outputs, pause),
            Input::RereadEnd => self.end_reread(outputs),
            Input::Changes(changes) => self.apply(changes, outputs),
            Input::Take(restored) => self.take(*restored, outputs),
            Input::GiveUp(partitions) => {
                self.give_up(partitions);
                Ok(())
            }
            Input::Checkpoint => {
                self.checkpoint(outputs);
                Ok(())
            }
            Input::ApplyPending => self.apply_pending(outputs),
        }
    }

    /// How many bindings are armed.
    pub(super) fn bindings(&self) -> usize {
        self.shard.len()
    }

    /// How many evaluations there were so far.
    pub(super) fn evaluations(&self) -> u64 {
        self.shard.evaluations()
    }

    /// What each rule version has cost each of its tenants so far.
    pub(super) fn usage(&self) -> Vec<RuleUsage> {
        self.shard.usage().collect()
    }

    /// The partitions that the processor has.
    pub(super) fn partitions(&self) -> impl Iterator<Item = u32> {
        self.partitions.keys().copied()
    }

    /// The rule version that was being evaluated when a step panicked. The processor must not be used any more.
    pub(super) fn evaluated_in_panic(&self) -> Option<RuleRef> {
        let rereading = self.rereads.front().and_then(Reread::shard).and_then(Shard::evaluated_in_panic);
        rereading.or_else(|| self.shard.evaluated_in_panic())
    }

    fn evaluate_record(
        &mut self,
        record: &Record,
        outputs: &mut Vec<Output>,
        pause: &mut Pause<'_>,
    ) -> Result<(), EvaluatorError> {
        debug_assert!(self.rereads.is_empty(), "rereads come before records");
        let Position { partition, offset } = record.position;
        if let Some(partition) = self.partitions.get_mut(&partition) {
            arm_reached(&mut self.shard, &mut partition.waiting, offset, outputs)?;
        }
        match self.symbols.get(&record.tick.symbol) {
            Some(Assignment::Partition(assigned)) if *assigned == partition => {
                let mut events = std::mem::take(&mut self.events);
                let evaluated = evaluate(&mut self.shard, record, &mut events, &mut self.partitions, outputs, pause);
                self.report(&mut events, outputs);
                self.events = events;
                if evaluated?.is_break() {
                    self.interrupt(partition, outputs);
                    return Ok(());
                }
            }
            None => {}
            Some(_) => self.skip_tick(record, outputs),
        }
        if let Some(partition) = self.partitions.get_mut(&partition) {
            partition.next_offset = offset + 1;
        }
        Ok(())
    }

    /// Moves a partition to a position. A checkpoint that is taken there must know the bindings that count from there.
    fn read_to(&mut self, position: Position, outputs: &mut Vec<Output>) -> Result<(), EvaluatorError> {
        let Some(partition) = self.partitions.get_mut(&position.partition) else { return Ok(()) };
        partition.next_offset = partition.next_offset.max(position.offset);
        arm_reached(&mut self.shard, &mut partition.waiting, partition.next_offset, outputs)
    }

    /// Reports a tick that does not count, since its symbol is assigned to another partition or to none yet.
    fn skip_tick(&mut self, record: &Record, outputs: &mut Vec<Output>) {
        let Record { position, published_ms, tick } = record;
        let Some(assignment) = self.symbols.get_mut(&tick.symbol) else { return };
        let symbol = tick.symbol.clone();
        match *assignment {
            Assignment::Partition(assigned) => {
                outputs.push(Output::Misrouted { symbol, assigned, partition: position.partition });
            }
            Assignment::Unassigned => {
                *assignment = Assignment::Requested;
                outputs.push(Output::SymbolSeen { symbol, position: *position, published_ms: *published_ms });
            }
            Assignment::Requested => {}
        }
    }

    /// Gives a partition up whose evaluation was interrupted: its last checkpoint stays.
    fn interrupt(&mut self, partition: u32, outputs: &mut Vec<Output>) {
        self.give_up(&[partition]);
        outputs.push(Output::Interrupted(partition));
    }

    /// Returns events, and applies what they mean for bindings of which the shard does not know.
    fn report(&mut self, events: &mut Vec<Event>, outputs: &mut Vec<Output>) {
        for event in events.drain(..) {
            match &event {
                Event::Fired { firing, last } => forget_ended(&mut self.partitions, firing.binding, *last),
                Event::Faulted { binding, quarantined: true, bundle, .. } => {
                    if let Some(partition) = self.partitions.get_mut(&bundle.position.partition) {
                        partition.recovered.retain(|other| other != binding);
                    }
                }
                Event::Faulted { .. } => {}
                // Reported with the next checkpoint: before that, a replay would begin with the binding in quarantine.
                Event::Recovered { binding, position, .. } => {
                    if let Some(partition) = self.partitions.get_mut(&position.partition) {
                        partition.recovered.push(*binding);
                    }
                }
                Event::Impure { rule, .. } => self.disarm_rule(&rule.digest),
            }
            outputs.push(Output::Event(event));
        }
    }

    fn apply(&mut self, changes: Changes, outputs: &mut Vec<Output>) -> Result<(), EvaluatorError> {
        for SymbolAssignment { symbol, partition } in changes.assignments {
            let assignment = partition.map_or(Assignment::Unassigned, Assignment::Partition);
            self.symbols.insert(symbol, assignment);
        }
        let partitions: Vec<u32> = self.partitions().collect();
        self.reread_for_first_ticks(&changes.unassigned, &partitions);
        let mut new = Vec::new();
        for change in changes.list {
            match change {
                Change::Arm(arming, counts_from) => new.push((*arming, counts_from)),
                Change::Disarm(binding) => {
                    new.retain(|(arming, _)| arming.binding != binding);
                    self.shard.disarm(binding);
                    self.forget_waiting(|arming| arming.binding == binding);
                    forget_ended(&mut self.partitions, binding, true);
                }
                Change::Unquarantine(unquarantine, partition) => {
                    self.with_partition(partition, |partition| partition.pending.unquarantine(unquarantine));
                }
                Change::HandOff(request, partition) => {
                    self.with_partition(partition, |partition| partition.pending.hand_off(request));
                }
                Change::Keep(binding, partition) => {
                    self.with_partition(partition, |partition| partition.pending.keep(binding));
                }
                Change::DisarmRule(rule) => {
                    new.retain(|(arming, _)| arming.rule.reference().digest != rule);
                    self.disarm_rule(&rule);
                }
            }
        }
        self.revision = changes.revision;
        self.arm_new(new, outputs)
    }

    /// Disarms all bindings of a rule version that is out of service. An unquarantine that was stored before that may reach
    /// the processor after it has found the rule impure itself: the change that says so follows, and ends the wait.
    fn disarm_rule(&mut self, rule: &Digest) {
        self.shard.disarm_rule(rule);
        self.forget_waiting(|arming| arming.rule.reference().digest == *rule);
        self.partitions.values_mut().for_each(|partition| partition.pending.forget_rule(rule));
    }

    fn take(&mut self, restored: Restored, outputs: &mut Vec<Output>) -> Result<(), EvaluatorError> {
        let partition = restored.from.partition;
        self.partitions.insert(partition, Partition::new(&restored));
        for arming in restored.armed {
            arming::arm(&mut self.shard, arming, outputs)?;
        }
        for binding in restored.unquarantined {
            self.unquarantine(binding)?;
        }
        self.arm_new(restored.new, outputs)?;
        self.reread_for_first_ticks(&restored.unassigned, &[partition]);
        Ok(())
    }

    fn give_up(&mut self, partitions: &[u32]) {
        self.partitions.retain(|partition, _| !partitions.contains(partition));
        self.rereads.retain(|reread| !partitions.contains(&reread.range().partition));
        let symbols = &self.symbols;
        self.shard.disarm_symbols(|symbol| match symbols.get(symbol) {
            Some(Assignment::Partition(partition)) => partitions.contains(partition),
            _ => false,
        });
    }

    /// Changes a partition, if the processor still has it.
    fn with_partition(&mut self, partition: u32, change: impl FnOnce(&mut Partition)) {
        self.partitions.get_mut(&partition).map(change);
    }

    fn forget_waiting(&mut self, forgotten: impl Fn(&Arming) -> bool) {
        for partition in self.partitions.values_mut() {
            partition.waiting.retain(|_, armings| {
                armings.retain(|arming| !forgotten(arming));
                !armings.is_empty()
            });
        }
    }

    fn partition_of(&self, symbol: &Symbol) -> Option<u32> {
        match self.symbols.get(symbol) {
            Some(Assignment::Partition(partition)) => Some(*partition),
            _ => None,
        }
    }
}

/// Evaluates one record on a shard, and lets `pause` take firings in the middle of it. Breaks where `pause` interrupts.
fn evaluate(
    shard: &mut Shard,
    record: &Record,
    events: &mut Vec<Event>,
    partitions: &mut BTreeMap<u32, Partition>,
    outputs: &mut Vec<Output>,
    pause: &mut Pause<'_>,
) -> Result<ControlFlow<()>, EvaluatorError> {
    let mut kept = 0;
    let mut between = |events: &mut Vec<Event>| {
        for event in events.extract_if(kept.., |event| matches!(event, Event::Fired { .. })) {
            if let Event::Fired { firing, last } = &event {
                forget_ended(partitions, firing.binding, *last);
            }
            outputs.push(Output::Event(event));
        }
        kept = events.len();
        pause(outputs)
    };
    match shard.evaluate_in_turns(&record.tick, record.position, events, &mut between) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(EvaluateError::Interrupted) => Ok(ControlFlow::Break(())),
        Err(error) => Err(error.into()),
    }
}

/// Forgets what was to be done to a binding, where it has ended.
fn forget_ended(partitions: &mut BTreeMap<u32, Partition>, binding: BindingId, has_ended: bool) {
    if has_ended {
        partitions.values_mut().for_each(|partition| partition.pending.forget(binding));
    }
}
