//! Evaluating bindings in batches, one batch a call.

use super::verdict::Verdict;
use super::work::Batch;
use super::{EvaluateError, Fired, Outcome, Scratch, TickContext, Waking, Work, copy};
use crate::fault::Fault;
use crate::group::Group;
use crate::ids::Slot;
use crate::inject::MAX_LISTED;
use crate::instance::{Answer, Answered, CallEnd, Instance};
use crate::isolation::Records;
use crate::limits::FUEL_PER_CALL;
use crate::purity::{self, FirstEvaluation};
use crate::runtime::Rule;

/// A binding whose evaluation by a call is checked.
struct Evaluated {
    slot: Slot,
    /// Its index in the call.
    index: usize,
    answer: Option<Answer>,
}

impl Group {
    /// Evaluates the next batch. If the call faults, puts the states back and leaves its bindings to be evaluated in
    /// isolation, so that those without a fault get the same answers as without the others.
    pub(super) fn step_batch(&mut self, context: &mut TickContext<'_>, work: &mut Work) -> Result<(), EvaluateError> {
        let Work { outcomes, is_listed, slots, count, next, isolated_until } = work;
        let rest = match is_listed {
            true => Batch::Listed(&slots[*next..]),
            false => Batch::Range { first: Slot::new(*next), count: *count - *next },
        };
        let mut batch = self.one_call(context.instance.rule(), rest);
        self.copy_states(context.instance, batch, &mut context.scratch.before);
        let answers = match self.call(context.instance, batch, &mut context.scratch.addresses) {
            CallEnd::Evaluated(Answered { bindings, answers, fuel }) => {
                batch = batch.up_to(bindings as usize);
                context.scratch.fuel += context.instance.rule().fuel_of(bindings.into(), fuel);
                self.read_answers(batch, answers, context).then_some(answers)
            }
            CallEnd::Fault(_) | CallEnd::Deadline => {
                context.instance.reset();
                // The tick is written again, since a call that ended so proves nothing about what it wrote.
                context.instance.set_tick(context.tick);
                None
            }
        };
        if let Some(answers) = answers {
            *next += self.take_verdicts(batch, answers, context, outcomes)?;
        } else {
            let state_bytes = self.table.state_bytes.max(1);
            for (index, state) in context.scratch.before.chunks(state_bytes).enumerate().take(batch.len()) {
                self.table.set_state(context.instance, batch.slot(index), state);
            }
            *isolated_until = *next + batch.len();
        }
        Ok(())
    }

    /// Returns as many of some bindings as one call takes: side by side, without suspects, and within its bounds.
    fn one_call<'a>(&self, rule: &Rule, rest: Batch<'a>) -> Batch<'a> {
        let most = rule.bindings_per_call();
        match rest {
            Batch::Range { first, .. } => {
                let most = most.min(self.table.side_by_side(first));
                let suspect = self.suspects.range(first..).next();
                let to_suspect = suspect.map_or(usize::MAX, |(slot, _)| slot.index() - first.index());
                rest.up_to(most.min(to_suspect))
            }
            Batch::Listed(slots) => {
                let most = most.min(MAX_LISTED);
                let is_suspect = |slot: &Slot| self.suspects.contains_key(slot);
                let to_suspect =
                    if self.suspects.is_empty() { None } else { slots.iter().take(most).position(is_suspect) };
                rest.up_to(to_suspect.unwrap_or(most))
            }
        }
    }

    fn copy_states(&self, instance: &Instance, batch: Batch<'_>, before: &mut Vec<u8>) {
        let (table, bytes) = (&self.table, self.table.state_bytes);
        before.clear();
        match batch {
            _ if bytes == 0 => {}
            Batch::Range { first, count } => {
                before.extend_from_slice(instance.bytes(table.state_at(first), count * bytes));
            }
            Batch::Listed(slots) => {
                for slot in slots {
                    before.extend_from_slice(table.state(instance, *slot));
                }
            }
        }
    }

    fn call(&self, instance: &mut Instance, batch: Batch<'_>, addresses: &mut Vec<(u32, u32)>) -> CallEnd {
        match batch {
            Batch::Range { first, count } => {
                instance.call(self.table.params_at(first), self.table.state_at(first), count as u32)
            }
            Batch::Listed(slots) => {
                addresses.clear();
                addresses.extend(
                    slots.iter().map(|slot| (self.table.params_at(*slot) as u32, self.table.state_at(*slot) as u32)),
                );
                instance.call_listed(addresses)
            }
        }
    }

    /// Reads the answers of a call into the scratch memory. Returns false if one of them is no valid verdict, or breaks the
    /// promise of a wake band.
    fn read_answers(&self, batch: Batch<'_>, answers: u32, context: &mut TickContext<'_>) -> bool {
        let instance = &*context.instance;
        let Scratch { fired, bands, before, .. } = &mut *context.scratch;
        fired.clear();
        bands.clear();
        for answer in instance.answers(answers) {
            let index = answer.index as usize;
            let Ok(verdict) = Verdict::read(instance.rule(), &answer) else { return false };
            fired.extend(verdict.evidence.map(|evidence| Fired { index, answer, evidence }));
            bands.extend(verdict.band.map(|band| (index, band)));
        }
        context.waking != Waking::Checked || {
            let state_bytes = self.table.state_bytes;
            (0..batch.len()).all(|index| {
                let (slot, before) = (batch.slot(index), &before[index * state_bytes..][..state_bytes]);
                let is_held =
                    fired.iter().all(|fired| fired.index != index) && self.table.state(instance, slot) == before;
                is_held || !self.sleeps(slot)
            })
        }
    }

    /// Takes the verdicts that [`Self::read_answers`] has read. Each firing is evaluated again before it counts, and so is a
    /// sample of the others. Returns the number of bindings, from the first on, that this is done for; the states of the
    /// others are put back.
    fn take_verdicts(
        &mut self,
        batch: Batch<'_>,
        answers: u32,
        context: &mut TickContext<'_>,
        outcomes: &mut Vec<(Slot, Outcome)>,
    ) -> Result<usize, EvaluateError> {
        let audited = context.audit.pick(batch.len());
        let Scratch { fired, bands, .. } = &*context.scratch;
        if audited.is_none() && fired.is_empty() && bands.is_empty() {
            return Ok(batch.len());
        }
        let fired = std::mem::take(&mut context.scratch.fired);
        let bands = std::mem::take(&mut context.scratch.bands);
        let audited = audited.filter(|at| fired.iter().all(|fired| fired.index != *at));
        let fuel_before = context.scratch.fuel;
        let mut done = batch.len();
        for Fired { index, answer, evidence } in &fired {
            // Evaluating again may cost more than the call did: the rest is left to the next step.
            if context.scratch.fuel - fuel_before >= FUEL_PER_CALL {
                done = *index;
                break;
            }
            let slot = batch.slot(*index);
            if !self.may_fire(slot, context) {
                outcomes.push((slot, Outcome::Suppressed));
            } else if self.check(Evaluated { slot, index: *index, answer: Some(*answer) }, context, outcomes)? {
                outcomes.push((slot, Outcome::Fired(evidence.clone())));
            }
        }
        if let Some(index) = audited.filter(|index| *index < done) {
            let answer = context.instance.answers(answers).find(|answer| answer.index as usize == index);
            self.check(Evaluated { slot: batch.slot(index), index, answer }, context, outcomes)?;
        }
        let state_bytes = self.table.state_bytes;
        for index in done..batch.len() {
            if let Some(before) = context.scratch.before.get(index * state_bytes..(index + 1) * state_bytes) {
                self.table.set_state(context.instance, batch.slot(index), before);
            }
        }
        for (index, band) in bands.iter().filter(|(index, _)| *index < done) {
            let slot = batch.slot(*index);
            // A binding that was just found impure stays awake.
            if !self.suspects.contains_key(&slot) {
                self.put_to_sleep(slot, *band, context);
            }
        }
        (context.scratch.fired, context.scratch.bands) = (fired, bands);
        Ok(done)
    }

    /// Evaluates a binding of a call again, in isolation. Records a fault and returns false if the result differs.
    fn check(
        &mut self,
        evaluated: Evaluated,
        context: &mut TickContext<'_>,
        outcomes: &mut Vec<(Slot, Outcome)>,
    ) -> Result<bool, EvaluateError> {
        let Evaluated { slot, index, answer } = evaluated;
        let Scratch { before, params, after, fuel, .. } = &mut *context.scratch;
        let state_bytes = self.table.state_bytes;
        let before = before.get(index * state_bytes..(index + 1) * state_bytes).unwrap_or_default();
        copy(self.table.params(context.instance, slot), params);
        copy(self.table.state(context.instance, slot), after);
        let records = Records { params, state: before, addresses: self.addresses(slot) };
        let first = FirstEvaluation { records, answer, state_after: after };
        let checked = purity::check(context.instance.isolated()?, context.tick, first)?;
        *fuel += checked.fuel;
        if let Some(impurity) = checked.impurity {
            let fault = Fault::Impure(impurity.differed);
            outcomes.push(self.record_fault(context.instance, slot, fault, before, context.offset));
            return Ok(false);
        }
        Ok(true)
    }
}
