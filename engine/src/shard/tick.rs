//! Evaluating one tick: the groups of its symbol take turns, and their outcomes become events.

use std::ops::ControlFlow;

use super::{Event, Location, Shard};
use crate::domain::{BindingId, Digest, Position, RuleRef, Tick};
use crate::evaluate::{EvaluateError, TickContext, Work};
use crate::fault::Fault;
use crate::group::Group;
use crate::ids::GroupId;
use crate::limits::{FUEL_PER_CALL, FUEL_PER_EVALUATION, IMPURE_BINDINGS, IMPURE_SHARE};
use crate::purity::Impurity;

/// A tick that is being evaluated.
pub(super) struct Evaluation<'a> {
    pub(super) tick: &'a Tick,
    pub(super) position: Position,
    events: &'a mut Vec<Event>,
}

impl Shard {
    /// Evaluates the tick at `position`, and appends what happened to `events`.
    ///
    /// # Errors
    /// Where an instance cannot be made, or the machine is too slow. The shard must not be used any more.
    pub fn evaluate(&mut self, tick: &Tick, position: Position, events: &mut Vec<Event>) -> Result<(), EvaluateError> {
        self.evaluate_in_turns(tick, position, events, &mut |_| ControlFlow::Continue(()))
    }

    /// Evaluates a tick as [`Self::evaluate`] does, for a caller with other work: between two steps of a long evaluation it
    /// calls `between` with the events so far, which `between` may take.
    ///
    /// # Errors
    /// As [`Self::evaluate`], and where `between` returns `Break`: the states are then those of no offset, and the shard
    /// must not be used any more.
    pub fn evaluate_in_turns(
        &mut self,
        tick: &Tick,
        position: Position,
        events: &mut Vec<Event>,
        between: &mut impl FnMut(&mut Vec<Event>) -> ControlFlow<()>,
    ) -> Result<(), EvaluateError> {
        let Some(symbol) = self.symbols.get(&tick.symbol).copied() else { return Ok(()) };
        let mut evaluation = Evaluation { tick, position, events };
        // What an interrupted evaluation has left.
        self.unfinished.clear();
        // The list changes where groups are dropped on the way.
        let mut groups = std::mem::take(&mut self.tick_groups);
        groups.clear();
        groups.extend_from_slice(&self.groups_of[symbol]);
        let begun = self.first_turns(&groups, &mut evaluation, between);
        self.tick_groups = groups;
        begun?;
        while let Some((id, mut work)) = self.unfinished.pop_front() {
            if between(evaluation.events).is_break() {
                return Err(EvaluateError::Interrupted);
            }
            // The group is gone if its rule was found impure on this tick.
            if self.groups.contains(id) && !self.turn(id, &mut work, &mut evaluation)? {
                self.unfinished.push_back((id, work));
            }
        }
        Ok(())
    }

    /// Gives each group its first turn, and remembers those with work left as unfinished.
    fn first_turns(
        &mut self,
        groups: &[GroupId],
        evaluation: &mut Evaluation<'_>,
        between: &mut impl FnMut(&mut Vec<Event>) -> ControlFlow<()>,
    ) -> Result<(), EvaluateError> {
        let mut fuel = self.scratch.fuel;
        let mut work = self.spare_work.take().unwrap_or_default();
        for id in groups.iter().rev().copied() {
            if !self.begin(id, evaluation, &mut work)? {
                continue;
            }
            if !self.turn(id, &mut work, evaluation)? {
                self.unfinished.push_back((id, std::mem::take(&mut work)));
            }
            if self.scratch.fuel - fuel >= FUEL_PER_CALL {
                fuel = self.scratch.fuel;
                if between(evaluation.events).is_break() {
                    return Err(EvaluateError::Interrupted);
                }
            }
        }
        self.spare_work = Some(work);
        Ok(())
    }

    /// Begins a group's work on a tick. Returns false if the tick wakes no binding of it, or the group is gone: its rule was
    /// found impure on this tick.
    fn begin(&mut self, id: GroupId, evaluation: &Evaluation<'_>, work: &mut Work) -> Result<bool, EvaluateError> {
        let Some(group) = self.groups.get_mut(id) else { return Ok(false) };
        self.in_call = Some(group.instance);
        let instance = &mut self.instances[group.instance];
        if !group.quarantine.is_empty() {
            for (binding, slot) in group.probe_due(instance, evaluation.position.offset)? {
                self.locations.insert(binding, Location::in_table(id, slot));
            }
        }
        let mut context = TickContext {
            tick: evaluation.tick,
            offset: evaluation.position.offset,
            instance,
            waking: self.waking,
            firings_at_once: self.firings_at_once,
            audit: &mut self.audit,
            scratch: &mut self.scratch,
        };
        let is_woken = group.begin(&mut context, work);
        self.in_call = None;
        Ok(is_woken)
    }

    /// Does one step of a group's work, and more while they are cheap. Returns whether the work is done.
    fn turn(&mut self, id: GroupId, work: &mut Work, evaluation: &mut Evaluation<'_>) -> Result<bool, EvaluateError> {
        let fuel = self.scratch.fuel;
        loop {
            let is_done = self.step(id, work, evaluation)?;
            if is_done || self.scratch.fuel - fuel >= FUEL_PER_EVALUATION {
                return Ok(is_done);
            }
        }
    }

    /// Does one step of a group's work. If it was the last one, emits the events and returns true.
    fn step(&mut self, id: GroupId, work: &mut Work, evaluation: &mut Evaluation<'_>) -> Result<bool, EvaluateError> {
        let group = &mut self.groups[id];
        let instance = &mut self.instances[group.instance];
        self.in_call = Some(group.instance);
        #[cfg(feature = "failpoints")]
        crate::failpoint::panic_on(&instance.rule().reference().name);
        let started = instance.usage.start();
        let fuel_before = self.scratch.fuel;
        let evaluated_before = work.evaluated();
        let mut context = TickContext {
            tick: evaluation.tick,
            offset: evaluation.position.offset,
            instance,
            waking: self.waking,
            firings_at_once: self.firings_at_once,
            audit: &mut self.audit,
            scratch: &mut self.scratch,
        };
        let stepped = group.step(&mut context, work);
        instance.usage.count(work.evaluated() - evaluated_before, self.scratch.fuel - fuel_before, started);
        stepped?;
        if work.is_done() && !work.outcomes.is_empty() {
            self.emit_events(id, work, evaluation);
        }
        self.in_call = None;
        Ok(work.is_done())
    }

    /// Appends the events of a group's outcomes, and disarms or quarantines the bindings that they end.
    fn emit_events(&mut self, id: GroupId, work: &mut Work, evaluation: &mut Evaluation<'_>) {
        let group = &self.groups[id];
        let instance = &mut self.instances[group.instance];
        let rule = instance.rule().reference().clone();
        let mut ended = Vec::new();
        let mut quarantined = Vec::new();
        let mut impurity = None;
        for (slot, outcome) in work.outcomes.drain(..) {
            let binding = group.binding(slot);
            instance.usage.count_outcome(&outcome);
            let Some(event) = evaluation.event(group, binding, &rule, outcome) else {
                *self.suppressed.entry(binding.id).or_default() += 1;
                continue;
            };
            match &event {
                Event::Fired { last: true, .. } => ended.push(binding.id),
                Event::Faulted { quarantined: true, fault, .. } => {
                    quarantined.push(binding.id);
                    if let Fault::Impure(differed) = fault {
                        impurity = Some(Impurity { differed: differed.clone() });
                    }
                }
                _ => {}
            }
            evaluation.events.push(event);
        }
        for binding in quarantined {
            self.quarantine(id, binding);
        }
        for binding in ended {
            self.disarm(binding);
        }
        if let Some(impurity) = impurity {
            self.found_impure(rule, impurity, evaluation.events);
        }
    }

    /// Takes a rule version out of service that a binding was found impure of, if that has happened to enough of them.
    pub(super) fn found_impure(&mut self, rule: RuleRef, impurity: Impurity, events: &mut Vec<Event>) {
        if !self.disarms_impure_rules {
            self.found_impure.insert(rule.digest, (rule, impurity));
        } else if self.is_impure(&rule.digest) {
            self.disarm_rule(&rule.digest);
            events.push(Event::Impure { rule, impurity });
        }
    }

    /// Moves a binding of a group's table into the group's quarantine.
    fn quarantine(&mut self, id: GroupId, binding: BindingId) {
        let group = &mut self.groups[id];
        let location = self.locations.insert(binding, Location::quarantined(id));
        let slot = location.and_then(Location::slot).expect("a binding that was evaluated is in the table");
        if let Some(moved) = group.move_to_quarantine(&mut self.instances[group.instance], slot) {
            self.locations.insert(moved, Location::in_table(id, slot));
        }
    }

    /// Returns whether enough bindings of a rule version are quarantined as impure to take the version out of service.
    /// Deleted bindings do not count; those that were quarantined before a restart do.
    fn is_impure(&self, rule: &Digest) -> bool {
        let is_of_rule = |group: &&Group| self.instances[group.instance].rule().reference().digest == *rule;
        let groups = || self.groups.iter().filter(is_of_rule);
        let impure: usize = groups().map(Group::condemned).sum();
        let armed: usize = groups().map(Group::len).sum();
        impure >= IMPURE_BINDINGS && impure * IMPURE_SHARE >= armed
    }
}
