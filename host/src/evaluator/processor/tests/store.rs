//! What a store keeps and does, as far as evaluators see it: bindings, symbol assignments, checkpoints, and changes with
//! their revisions.

use std::collections::{BTreeMap, HashMap};

use tocsin_engine::domain::{BindingId, Digest, Firing, Position, Repeat, Symbol};
use tocsin_engine::{Event, FaultBundle, Rule, SavedBinding};
use tocsin_store::{Checkpoint, Handoff, HandoffState, Standing, UnassignedSymbol};

use super::log::{Log, PARTITIONS};
use super::oracle::{Course, Happened, Past};

pub(super) struct Store {
    pub(super) log: Log,
    /// The ids are the indexes.
    pub(super) bindings: Vec<Binding>,
    pub(super) assignments: BTreeMap<Symbol, Option<u32>>,
    pub(super) checkpoints: Vec<StoredCheckpoint>,
    /// Snapshots by partition, rule version and symbol.
    pub(super) groups: HashMap<(u32, Digest, Symbol), Vec<u8>>,
    /// Rule versions that are out of service, each with the revision.
    pub(super) out_of_service: BTreeMap<Digest, u64>,
    pub(super) newest: u64,
    /// Up to where any evaluator has read each partition so far.
    pub(super) read_until: Vec<u64>,
}

pub(super) struct Binding {
    pub(super) symbol: Symbol,
    pub(super) rule: Rule,
    /// Where each partition ended when it was created.
    pub(super) ends: Vec<u64>,
    /// Where it began to count.
    pub(super) counts_from: u64,
    /// Where it begins or goes on; None while its symbol is not assigned.
    pub(super) goes_on_from: Option<Position>,
    pub(super) resume: Option<SavedBinding>,
    pub(super) revision: u64,
    pub(super) armed_revision: u64,
    pub(super) handoff: HandoffState,
    pub(super) standing: Standing,
    pub(super) is_quarantined: bool,
    pub(super) unquarantine_due: bool,
    /// Up to where its partition was read when an operator unquarantined it.
    read_at_unquarantine: u64,
    pub(super) recorded: Course,
    /// All that happened before this offset must be recorded, what happened later may be; None where all must be.
    pub(super) complete_until: Option<u64>,
    pub(super) past: Past,
}

#[derive(Clone, Default)]
pub(super) struct StoredCheckpoint {
    pub(super) next_offset: Option<u64>,
    pub(super) revision: u64,
    pub(super) unquarantined: Vec<BindingId>,
}

impl Binding {
    pub(super) fn digest(&self) -> Digest {
        self.rule.reference().digest
    }

    pub(super) fn repeat(&self) -> Repeat {
        if self.past.fires_once { Repeat::Once } else { Repeat::Every }
    }

    pub(super) fn is_live(&self) -> bool {
        self.standing == Standing::Live
    }

    fn record(&mut self, offset: u64, happened: Happened) {
        // The store does not take firings of alerts that are gone.
        if self.standing == Standing::Deleted {
            return;
        }
        match &happened {
            Happened::Fired { last: true, .. } => self.standing = Standing::Triggered,
            Happened::Faulted { quarantined: true, .. } => self.is_quarantined = true,
            _ => {}
        }
        let before = self.recorded.insert((offset, happened.kind()), happened.clone());
        assert!(before.is_none_or(|before| before == happened), "a replay returns the same: {happened:?} at {offset}");
    }
}

/// What an event means for the binding that it is about, and where it happened.
pub(super) fn happened(event: &Event) -> (BindingId, Position, Happened) {
    match event {
        Event::Fired { firing, last } => {
            let Firing { binding, position, rule, evidence, .. } = firing;
            (*binding, *position, Happened::Fired { count: evidence[0].1, rule: rule.digest, last: *last })
        }
        Event::Faulted { binding, quarantined, bundle, .. } => {
            let FaultBundle { position, rule, state, .. } = &**bundle;
            let count = f64::from_le_bytes(*state.first_chunk().unwrap());
            (*binding, *position, Happened::Faulted { count, rule: rule.digest, quarantined: *quarantined })
        }
        Event::Recovered { binding, position, .. } => (*binding, *position, Happened::Recovered),
        Event::Impure { rule, impurity } => panic!("{rule:?} is pure, and not {impurity}"),
    }
}

/// The requests of clients.
impl Store {
    pub(super) fn new() -> Self {
        Self {
            log: Log::new(),
            bindings: Vec::new(),
            assignments: BTreeMap::new(),
            checkpoints: vec![StoredCheckpoint::default(); PARTITIONS as usize],
            groups: HashMap::new(),
            out_of_service: BTreeMap::new(),
            newest: 0,
            read_until: vec![0; PARTITIONS as usize],
        }
    }

    fn draw_revision(&mut self) -> u64 {
        self.newest += 1;
        self.newest
    }

    pub(super) fn is_in_service(&self, binding: &Binding) -> bool {
        !self.out_of_service.contains_key(&binding.digest())
    }

    pub(super) fn create(&mut self, symbol: Symbol, rule: Rule, fires_once: bool) {
        let revision = self.draw_revision();
        if !self.bindings.iter().any(|binding| binding.is_live() && binding.symbol == symbol) {
            self.assignments.remove(&symbol);
        }
        let assigned = *self.assignments.entry(symbol.clone()).or_insert(None);
        let mut binding = Binding {
            symbol,
            rule,
            ends: self.log.ends().to_vec(),
            counts_from: 0,
            goes_on_from: None,
            resume: None,
            revision,
            armed_revision: revision,
            handoff: HandoffState::None,
            standing: Standing::Live,
            is_quarantined: false,
            unquarantine_due: false,
            read_at_unquarantine: 0,
            recorded: Course::new(),
            complete_until: None,
            past: Past { fires_once, ..Past::default() },
        };
        if let Some(partition) = assigned {
            binding.begin(partition);
        }
        self.bindings.push(binding);
    }

    pub(super) fn delete(&mut self, at: usize) {
        let revision = self.draw_revision();
        let complete_until = self.checkpointed_until(&self.bindings[at]);
        let binding = &mut self.bindings[at];
        (binding.standing, binding.revision) = (Standing::Deleted, revision);
        binding.complete_until.get_or_insert(complete_until);
    }

    pub(super) fn unquarantine(&mut self, at: usize) {
        let revision = self.draw_revision();
        let binding = &mut self.bindings[at];
        let partition = binding.goes_on_from.unwrap().partition;
        (binding.is_quarantined, binding.unquarantine_due, binding.revision) = (false, true, revision);
        binding.read_at_unquarantine = self.read_until[partition as usize];
    }

    pub(super) fn begin_promotion(&mut self, at: usize) {
        let revision = self.draw_revision();
        let binding = &mut self.bindings[at];
        let is_assigned = binding.goes_on_from.is_some();
        binding.handoff = if is_assigned { HandoffState::Requested } else { HandoffState::Held };
        binding.revision = revision;
    }

    /// Ends the promotion of a binding to another rule version, or cancels it.
    pub(super) fn end_promotion(&mut self, at: usize, to: Option<Rule>) {
        let revision = self.draw_revision();
        let in_service = self.is_in_service(&self.bindings[at]);
        let to = to.filter(|to| in_service && !self.out_of_service.contains_key(&to.reference().digest));
        let binding = &mut self.bindings[at];
        if binding.handoff == HandoffState::Held {
            binding.rule = to.unwrap_or(binding.rule.clone());
            binding.armed_revision = revision;
            let rule = binding.digest();
            let goes_on = binding.goes_on_from.filter(|_| in_service);
            binding.past.rules.extend(goes_on.map(|from| (from.offset, Some(rule))));
        }
        (binding.handoff, binding.revision) = (HandoffState::None, revision);
    }

    pub(super) fn take_out_of_service(&mut self, rule: Digest) {
        let revision = self.draw_revision();
        self.out_of_service.insert(rule, revision);
        for at in 0..self.bindings.len() {
            let complete_until = self.checkpointed_until(&self.bindings[at]);
            let binding = &mut self.bindings[at];
            if binding.is_live() && binding.digest() == rule {
                (binding.is_quarantined, binding.unquarantine_due) = (true, false);
                binding.complete_until.get_or_insert(complete_until);
            }
        }
    }

    /// Up to where checkpoints hold what a binding did.
    fn checkpointed_until(&self, binding: &Binding) -> u64 {
        let Some(from) = binding.goes_on_from else { return 0 };
        let checkpoint = &self.checkpoints[from.partition as usize];
        let next_offset = checkpoint.next_offset.unwrap_or(0);
        if binding.armed_revision <= checkpoint.revision { next_offset } else { next_offset.min(from.offset) }
    }
}

/// What evaluators write and read.
impl Store {
    /// Symbols without an assignment that live bindings have waited for since a revision.
    pub(super) fn unassigned_symbols(&self, after: u64, up_to: u64) -> Vec<UnassignedSymbol> {
        let mut unassigned: Vec<UnassignedSymbol> = Vec::new();
        let waits = |binding: &&Binding| binding.is_live() && binding.goes_on_from.is_none();
        let changed = |binding: &&Binding| binding.revision > after && binding.revision <= up_to;
        for Binding { symbol, ends, .. } in self.bindings.iter().filter(waits).filter(changed) {
            match unassigned.iter_mut().find(|unassigned| unassigned.symbol == *symbol) {
                Some(first) => first.ends.iter_mut().zip(ends).for_each(|(first, end)| *first = *end.min(first)),
                None => unassigned.push(UnassignedSymbol { symbol: symbol.clone(), ends: ends.clone() }),
            }
        }
        unassigned
    }

    pub(super) fn record(&mut self, event: &Event) {
        let (binding, position, happened) = happened(event);
        self.bindings[binding.0 as usize].record(position.offset, happened);
    }

    pub(super) fn assign_symbol(&mut self, symbol: &Symbol, partition: u32) {
        let waits =
            |binding: &Binding| binding.is_live() && binding.goes_on_from.is_none() && binding.symbol == *symbol;
        if !self.bindings.iter().any(waits) {
            return;
        }
        let revision = self.draw_revision();
        let assigned = *self.assignments.entry(symbol.clone()).or_default().get_or_insert(partition);
        for binding in self.bindings.iter_mut().filter(|binding| waits(binding)) {
            (binding.revision, binding.armed_revision) = (revision, revision);
            binding.begin(assigned);
        }
    }

    pub(super) fn write_checkpoint(&mut self, checkpoint: Checkpoint) {
        let Checkpoint { partition, next_offset, revision, recovered, unquarantined, handoffs, groups, .. } =
            checkpoint;
        let stored = &mut self.checkpoints[partition as usize];
        assert!(stored.next_offset.is_none_or(|stored| stored <= next_offset) && stored.revision <= revision);
        *stored = StoredCheckpoint { next_offset: Some(next_offset), revision, unquarantined: unquarantined.clone() };
        for group in groups {
            self.groups.insert((partition, group.rule, group.symbol), group.bytes);
        }
        for binding in recovered {
            self.bindings[binding.0 as usize].is_quarantined = false;
        }
        for binding in unquarantined {
            let binding = &mut self.bindings[binding.0 as usize];
            if binding.unquarantine_due {
                assert!(next_offset >= binding.read_at_unquarantine, "it changes nothing that was evaluated before it");
            }
            (binding.is_quarantined, binding.unquarantine_due) = (false, false);
            binding.past.unquarantined.push(next_offset);
        }
        for handoff in handoffs {
            self.take_over(handoff, next_offset);
        }
        for binding in &mut self.bindings {
            let goes_on =
                binding.goes_on_from.is_some_and(|from| from.partition == partition && from.offset <= next_offset);
            if goes_on && binding.handoff == HandoffState::None && binding.armed_revision <= revision {
                binding.resume = None;
            }
        }
    }

    fn take_over(&mut self, handoff: Handoff, next_offset: u64) {
        let revision = self.newest + 1;
        let binding = &mut self.bindings[handoff.binding.0 as usize];
        if !binding.is_live() || binding.armed_revision != handoff.armed_revision {
            return;
        }
        match binding.handoff {
            HandoffState::Requested => binding.handoff = HandoffState::Held,
            // It was cancelled: given back at once.
            HandoffState::None => (binding.revision, binding.armed_revision) = (revision, revision),
            HandoffState::Held => return,
        }
        self.newest = revision;
        let from = binding.goes_on_from.as_mut().unwrap();
        if handoff.saved.is_some() {
            from.offset = next_offset;
            binding.resume = handoff.saved;
        }
        if binding.handoff == HandoffState::Held {
            binding.past.rules.push((from.offset, None));
        }
    }
}

impl Binding {
    /// Begins to count on the partition of its symbol.
    fn begin(&mut self, partition: u32) {
        self.counts_from = self.ends[partition as usize];
        self.goes_on_from = Some(Position { partition, offset: self.counts_from });
        let rule = self.digest();
        let held = self.handoff == HandoffState::Held;
        self.past.rules.push((self.counts_from, (!held).then_some(rule)));
    }
}
