//! Feeds a processor as a coordinator, a worker and a committer do together, one step at a time.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::ControlFlow;

use tocsin_engine::domain::{AlertId, BindingId, Digest, Lifecycle, Position, Tenant};
use tocsin_engine::{Arming, EvaluationOptions, Event, GroupSnapshot, SavedBinding};
use tocsin_store::{HandoffState, Standing, SymbolAssignment};

use super::store::{Binding, Store, happened};
use crate::evaluator::changes::{Change, Changes, HandoffRequest, Unquarantine};
use crate::evaluator::processor::{Input, Output, Processor, Restored};

pub(super) struct Evaluator {
    processor: Processor,
    /// Changes up to this revision are passed on.
    revision: u64,
    /// The partitions that it has, each with the position up to which it is read.
    pub(super) read_until: BTreeMap<u32, u64>,
    /// What is not written yet.
    unwritten: VecDeque<Output>,
    /// How many bindings wait to be unquarantined, by partition.
    pub(super) waits: BTreeMap<u32, usize>,
    /// What it has returned since it has the binding's partition; no binding goes back.
    returned: HashMap<BindingId, Vec<(u64, u8)>>,
    /// Bindings and rule versions of which nothing may be returned any more.
    disarmed: HashSet<BindingId>,
    disarmed_rules: HashSet<Digest>,
}

impl Evaluator {
    pub(super) fn new(store: &Store) -> Self {
        let mut evaluator = Self {
            processor: Processor::new(EvaluationOptions::default(), store.newest),
            revision: store.newest,
            read_until: BTreeMap::new(),
            unwritten: VecDeque::new(),
            waits: BTreeMap::new(),
            returned: HashMap::new(),
            disarmed: HashSet::new(),
            disarmed_rules: HashSet::new(),
        };
        let assignments = store.assignments.iter();
        let assignments = assignments
            .map(|(symbol, partition)| SymbolAssignment { symbol: symbol.clone(), partition: *partition })
            .collect();
        let changes = Changes { assignments, unassigned: Vec::new(), list: Vec::new(), revision: store.newest };
        evaluator.step(Input::Changes(changes));
        evaluator
    }

    fn step(&mut self, input: Input<'_>) {
        let mut outputs = Vec::new();
        self.processor.step(input, &mut outputs, &mut |_| ControlFlow::Continue(())).unwrap();
        for output in &outputs {
            match output {
                Output::Event(event) => self.check(event),
                Output::Checkpoints(checkpoints) => {
                    let handoffs = checkpoints.iter().flat_map(|checkpoint| &checkpoint.handoffs);
                    self.disarmed.extend(handoffs.map(|handoff| handoff.binding));
                }
                Output::UnquarantineWaits { partition, bindings, .. } => {
                    self.waits.insert(*partition, *bindings);
                }
                Output::NotArmed { alert, why } => panic!("alert {alert:?}: {why}"),
                _ => {}
            }
        }
        self.unwritten.extend(outputs);
    }

    /// Checks that nothing is returned twice, out of order, or of a binding that was disarmed.
    fn check(&mut self, event: &Event) {
        let (binding, position, happened) = happened(event);
        assert!(!self.disarmed.contains(&binding), "{binding:?} is disarmed");
        let rule = match event {
            Event::Fired { firing, .. } => Some(firing.rule.digest),
            Event::Faulted { bundle, .. } => Some(bundle.rule.digest),
            _ => None,
        };
        assert!(rule.is_none_or(|rule| !self.disarmed_rules.contains(&rule)), "{rule:?} is disarmed");
        let returned = self.returned.entry(binding).or_default();
        let last = returned.last().map_or(0, |(offset, _)| *offset);
        assert!(last <= position.offset, "{binding:?}: {happened:?} at {position:?} comes after offset {last}");
        let what = (position.offset, happened.kind());
        assert!(!returned.contains(&what), "{binding:?}: {happened:?} at {position:?} comes twice");
        returned.push(what);
    }

    fn report_positions(&mut self) {
        for (partition, offset) in self.read_until.clone() {
            self.step(Input::ReadTo(Position { partition, offset }));
        }
    }

    fn reread(&mut self, store: &Store) {
        while let Some(range) = self.processor.reread() {
            let records = store.log.records_from(range.partition, range.from);
            for record in records.take_while(|record| record.position.offset < range.until) {
                if self.processor.reread() != Some(range) {
                    break;
                }
                self.step(Input::Reread(record));
            }
            if self.processor.reread() == Some(range) {
                self.step(Input::RereadEnd);
            }
        }
    }

    /// Reads and evaluates some records of a partition.
    pub(super) fn read(&mut self, store: &mut Store, partition: u32, records: usize) {
        let Some(position) = self.read_until.get(&partition).copied() else { return };
        let mut next = position;
        for record in store.log.records_from(partition, position).take(records) {
            self.step(Input::Record(record));
            next = record.position.offset + 1;
        }
        next = store.log.next_from(partition, next);
        self.read_until.insert(partition, next);
        let furthest = &mut store.read_until[partition as usize];
        *furthest = next.max(*furthest);
    }

    pub(super) fn checkpoint(&mut self) {
        self.report_positions();
        self.step(Input::Checkpoint);
    }

    pub(super) fn apply_pending(&mut self) {
        if self.processor.has_pending() {
            self.report_positions();
            self.step(Input::ApplyPending);
        }
    }

    /// Writes some of what was returned, in its order.
    pub(super) fn write(&mut self, store: &mut Store, outputs: usize) {
        for output in self.unwritten.drain(..outputs.min(self.unwritten.len())) {
            match output {
                Output::Event(event) => store.record(&event),
                Output::Checkpoints(checkpoints) => {
                    checkpoints.into_iter().for_each(|checkpoint| store.write_checkpoint(checkpoint));
                }
                Output::SymbolSeen { symbol, position, .. } => store.assign_symbol(&symbol, position.partition),
                _ => {}
            }
        }
    }

    pub(super) fn write_all(&mut self, store: &mut Store) {
        self.write(store, usize::MAX);
    }

    /// Gives a partition up, which another evaluator has claimed: nothing more of it is written.
    pub(super) fn lose(&mut self, partition: u32) {
        for output in &mut self.unwritten {
            if let Output::Checkpoints(checkpoints) = output {
                checkpoints.retain(|checkpoint| checkpoint.partition != partition);
            }
        }
        self.unwritten.retain(|output| match output {
            Output::Event(event) => happened(event).1.partition != partition,
            _ => true,
        });
        self.give_up(partition);
    }

    pub(super) fn give_up(&mut self, partition: u32) {
        self.step(Input::GiveUp(&[partition]));
        self.read_until.remove(&partition);
        self.waits.remove(&partition);
    }

    pub(super) fn bindings(&self) -> usize {
        self.processor.bindings()
    }
}

/// Changes and partitions, as a coordinator passes them on.
impl Evaluator {
    pub(super) fn pass_on(&mut self, store: &Store) {
        let (before, revision) = (self.revision, store.newest);
        let unassigned = store.unassigned_symbols(before, revision);
        let mut changed: Vec<(BindingId, &Binding)> =
            (0..).map(BindingId).zip(&store.bindings).filter(|(_, binding)| binding.revision > before).collect();
        changed.sort_by_key(|(_, binding)| binding.revision);
        let live = changed.iter().filter(|(_, binding)| binding.is_live());
        let assignments = live.map(|(_, binding)| SymbolAssignment {
            symbol: binding.symbol.clone(),
            partition: binding.goes_on_from.map(|from| from.partition),
        });
        let assignments = assignments.collect();
        let mut list = Vec::new();
        for (id, binding) in changed {
            let from = binding.goes_on_from.filter(|from| self.read_until.contains_key(&from.partition));
            list.extend(from.into_iter().flat_map(|from| self.changes_of(store, id, binding, from)));
        }
        let out_of_service = store.out_of_service.iter().filter(|(_, revision)| **revision > before);
        list.extend(out_of_service.map(|(rule, _)| Change::DisarmRule(*rule)));
        self.report_positions();
        let disarmed: Vec<BindingId> = list
            .iter()
            .filter_map(|change| if let Change::Disarm(binding) = change { Some(*binding) } else { None })
            .collect();
        for change in &list {
            if let Change::Arm(arming, _) = change {
                self.disarmed.remove(&arming.binding);
            }
        }
        self.step(Input::Changes(Changes { assignments, unassigned, list, revision }));
        self.disarmed.extend(disarmed);
        self.disarmed_rules.extend(store.out_of_service.keys());
        self.revision = revision;
        self.reread(store);
    }

    fn changes_of(&self, store: &Store, id: BindingId, binding: &Binding, from: Position) -> Vec<Change> {
        match binding.standing {
            Standing::Deleted => return vec![Change::Disarm(id)],
            Standing::Triggered => return Vec::new(),
            Standing::Live => {}
        }
        let (rule, armed_revision) = (binding.digest(), binding.armed_revision);
        let mut changes = Vec::new();
        let arms = armed_revision > self.revision && binding.handoff != HandoffState::Held;
        if arms && store.is_in_service(binding) {
            changes.push(Change::Arm(Box::new(arming(id, binding, binding.resume.clone())), from));
        }
        match binding.handoff {
            HandoffState::Requested => {
                changes.push(Change::HandOff(HandoffRequest { binding: id, armed_revision }, from.partition))
            }
            HandoffState::Held => {}
            HandoffState::None => {
                changes.push(Change::Keep(id, from.partition));
                let unquarantine = Change::Unquarantine(Unquarantine { binding: id, rule }, from.partition);
                changes.extend(binding.unquarantine_due.then_some(unquarantine));
            }
        }
        changes
    }

    /// Goes on with a partition where its checkpoint says.
    pub(super) fn take(&mut self, store: &Store, partition: u32) {
        let checkpoint = &store.checkpoints[partition as usize];
        if self.revision < checkpoint.revision {
            self.pass_on(store);
        }
        let offset = checkpoint.next_offset.unwrap_or(0);
        let unassigned = match checkpoint.next_offset {
            Some(_) => store.unassigned_symbols(checkpoint.revision, self.revision),
            None => Vec::new(),
        };
        let mut restored = Restored {
            from: Position { partition, offset },
            replay_until: store.log.end(partition),
            armed: Vec::new(),
            new: Vec::new(),
            unquarantined: checkpoint.unquarantined.clone(),
            unquarantine_due: Vec::new(),
            handoffs: Vec::new(),
            unassigned,
        };
        let saved = store.groups.iter().filter(|((of, ..), _)| *of == partition);
        let saved = saved.flat_map(|((_, rule, _), bytes)| {
            GroupSnapshot::unpack(bytes).unwrap().into_iter().map(move |saved| ((*rule, saved.binding), saved))
        });
        let mut saved: HashMap<(Digest, BindingId), SavedBinding> = saved.collect();
        for (id, binding) in (0..).map(BindingId).zip(&store.bindings) {
            let Some(from) = binding.goes_on_from.filter(|from| from.partition == partition) else { continue };
            self.returned.remove(&id);
            let is_known = binding.armed_revision <= self.revision && binding.is_live();
            if !is_known || binding.handoff == HandoffState::Held || !store.is_in_service(binding) {
                continue;
            }
            self.disarmed.remove(&id);
            if binding.unquarantine_due && binding.revision <= self.revision {
                restored.unquarantine_due.push(Unquarantine { binding: id, rule: binding.digest() });
            }
            if binding.handoff == HandoffState::Requested && binding.revision <= self.revision {
                let armed_revision = binding.armed_revision;
                restored.handoffs.push(HandoffRequest { binding: id, armed_revision });
            }
            if binding.armed_revision <= checkpoint.revision && from.offset <= offset {
                restored.armed.push(arming(id, binding, saved.remove(&(binding.digest(), id))));
            } else {
                restored.new.push((arming(id, binding, binding.resume.clone()), from));
            }
        }
        self.read_until.insert(partition, offset);
        self.report_positions();
        self.step(Input::Take(Box::new(restored)));
        self.reread(store);
    }
}

fn arming(id: BindingId, binding: &Binding, saved: Option<SavedBinding>) -> Arming {
    Arming {
        binding: id,
        alert: AlertId(id.0),
        tenant: Tenant::standard(),
        symbol: binding.symbol.clone(),
        rule: binding.rule.clone(),
        params: Vec::new(),
        lifecycle: Lifecycle { repeat: binding.repeat() },
        saved,
    }
}
