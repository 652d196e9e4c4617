//! What becomes of unquarantines of bindings whose rule is found impure.

use std::ops::ControlFlow;

use tocsin_engine::domain::{AlertId, BindingId, Lifecycle, Position, Repeat, Tenant};
use tocsin_engine::{Arming, EvaluationOptions, Event, Rule};
use tocsin_store::SymbolAssignment;

use super::log::Log;
use super::{load, symbol};
use crate::evaluator::changes::{Change, Changes, Unquarantine};
use crate::evaluator::processor::{Input, Output, Processor, Restored};
use crate::evaluator::tests::{GOOD, IMPURE};

const BINDINGS: i64 = 4;

/// A processor with one partition, and four bindings of [`IMPURE`] on one symbol.
struct Impure {
    processor: Processor,
    log: Log,
    rule: Rule,
}

impl Impure {
    /// Takes the partition where `ticks` ticks may have been evaluated by an earlier worker. `due` bindings are to be
    /// unquarantined after them.
    fn taken(ticks: usize, due: &[BindingId]) -> Self {
        let (mut log, rule) = (Log::new(), load(IMPURE));
        (0..ticks).for_each(|_| log.publish(0, &symbol(0), GOOD));
        let arming = |id| Arming {
            binding: BindingId(id),
            alert: AlertId(id),
            tenant: Tenant::standard(),
            symbol: symbol(0),
            rule: rule.clone(),
            params: Vec::new(),
            lifecycle: Lifecycle { repeat: Repeat::Every },
            saved: None,
        };
        let restored = Restored {
            from: Position { partition: 0, offset: 0 },
            replay_until: log.end(0),
            armed: (0..BINDINGS).map(arming).collect(),
            // One that is not reached when the rule is found impure.
            new: vec![(arming(BINDINGS), Position { partition: 0, offset: 1_000 })],
            unquarantined: Vec::new(),
            unquarantine_due: due.iter().map(|binding| unquarantine(&rule, *binding)).collect(),
            handoffs: Vec::new(),
            unassigned: Vec::new(),
        };
        let mut impure = Self { processor: Processor::new(EvaluationOptions::default(), 0), log, rule };
        let assignments = vec![SymbolAssignment { symbol: symbol(0), partition: Some(0) }];
        impure.step(Input::Changes(Changes { assignments, unassigned: Vec::new(), list: Vec::new(), revision: 0 }));
        impure.step(Input::Take(Box::new(restored)));
        impure
    }

    fn step(&mut self, input: Input<'_>) -> Vec<Output> {
        let mut outputs = Vec::new();
        self.processor.step(input, &mut outputs, &mut |_| ControlFlow::Continue(())).unwrap();
        outputs
    }

    fn change(&mut self, change: Change) {
        let (assignments, unassigned) = (Vec::new(), Vec::new());
        self.step(Input::Changes(Changes { assignments, unassigned, list: vec![change], revision: 1 }));
    }

    /// Evaluates all ticks, which shows that the rule is impure.
    fn evaluate(&mut self) {
        let records: Vec<_> = self.log.records_from(0, 0).cloned().collect();
        let outputs: Vec<Output> = records.iter().flat_map(|record| self.step(Input::Record(record))).collect();
        assert!(outputs.iter().any(|output| matches!(output, Output::Event(Event::Impure { .. }))), "{outputs:?}");
        assert_eq!(self.processor.bindings(), 0);
        self.step(Input::ReadTo(Position { partition: 0, offset: self.log.end(0) }));
    }

    /// Applies what is pending. Returns how many bindings are reported to wait, each time that this is reported.
    fn apply_pending(&mut self) -> Vec<usize> {
        let waits = self.step(Input::ApplyPending).into_iter().filter_map(|output| match output {
            Output::UnquarantineWaits { bindings, .. } => Some(bindings),
            _ => None,
        });
        waits.collect()
    }
}

fn unquarantine(rule: &Rule, binding: BindingId) -> Unquarantine {
    Unquarantine { binding, rule: rule.reference().digest }
}

#[test]
fn nothing_waits_for_bindings_of_a_rule_that_is_found_impure_on_a_replay() {
    let due = [0, BINDINGS].map(BindingId);
    let mut impure = Impure::taken(8, &due);
    assert_eq!(impure.apply_pending(), [0_usize; 0], "a replay comes first");
    impure.evaluate();
    assert_eq!(impure.apply_pending(), [0_usize; 0]);
    assert!(!impure.processor.has_pending());
}

#[test]
fn an_unquarantine_that_is_passed_on_after_its_rule_was_found_impure_waits_until_the_rule_is_disarmed() {
    let mut impure = Impure::taken(8, &[]);
    impure.evaluate();
    impure.change(Change::Unquarantine(unquarantine(&impure.rule, BindingId(0)), 0));
    assert_eq!(impure.apply_pending(), [1]);
    impure.change(Change::DisarmRule(impure.rule.reference().digest));
    assert_eq!(impure.apply_pending(), [0]);
    assert!(!impure.processor.has_pending());
}
