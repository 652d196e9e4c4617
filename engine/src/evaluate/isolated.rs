//! Evaluating bindings in isolation, one at a time.

use super::verdict::Verdict;
use super::{EvaluateError, Outcome, Scratch, TickContext, Waking, Work, copy};
use crate::fault::Fault;
use crate::group::Group;
use crate::ids::Slot;
use crate::isolation::{Addresses, Records};
use crate::limits::FUEL_PER_CALL;
use crate::purity::{self, FirstEvaluation};

impl Group {
    /// Evaluates as many of the next bindings as one step takes.
    pub(super) fn step_isolated(
        &mut self,
        context: &mut TickContext<'_>,
        work: &mut Work,
    ) -> Result<(), EvaluateError> {
        let most = context.instance.rule().bindings_per_call();
        let mut fuel_left = FUEL_PER_CALL;
        for _ in 0..most {
            let slot = work.slot(work.next);
            let fuel = self.evaluate_isolated(slot, context, work)?;
            context.scratch.fuel += fuel;
            work.next += 1;
            fuel_left = fuel_left.saturating_sub(fuel);
            if fuel_left == 0 || work.is_done() || !self.is_isolated_next(work) {
                break;
            }
        }
        Ok(())
    }

    /// Evaluates one binding, and returns the fuel that it burnt. A firing is evaluated once more, since a rule may have
    /// read the addresses of its records, which differ each time.
    fn evaluate_isolated(
        &mut self,
        slot: Slot,
        context: &mut TickContext<'_>,
        work: &mut Work,
    ) -> Result<u64, EvaluateError> {
        let Scratch { before, params, .. } = &mut *context.scratch;
        copy(self.table.params(context.instance, slot), params);
        copy(self.table.state(context.instance, slot), before);
        let records = Records { params, state: before, addresses: self.addresses(slot) };
        let isolated = context.instance.isolated()?;
        let evaluated = isolated.evaluate(context.tick, records)?;
        let mut fuel = evaluated.fuel;
        let answer = evaluated.answer;
        let mut verdict = match &answer {
            Ok(None) => Ok(Verdict::default()),
            Ok(Some(answer)) => Verdict::read(isolated.rule(), answer),
            Err(fault) => Err(fault.clone()),
        };
        if context.waking == Waking::Checked
            && let Some(band) = self.sleepers.as_ref().and_then(|sleepers| sleepers.band(slot))
        {
            let kept_promise = |verdict: &Verdict| verdict.evidence.is_none() && isolated.state() == before;
            verdict = verdict.ok().filter(kept_promise).ok_or(Fault::Overslept(band));
        }
        let after = std::mem::take(isolated.state_mut());
        if verdict.as_ref().is_ok_and(|verdict| verdict.evidence.is_some()) {
            let first = FirstEvaluation { records, answer: answer.ok().flatten(), state_after: &after };
            let checked = purity::check(isolated, context.tick, first)?;
            fuel += checked.fuel;
            if let Some(impurity) = checked.impurity {
                verdict = Err(Fault::Impure(impurity.differed));
            }
        }
        match verdict {
            Ok(verdict) => {
                self.table.set_state(context.instance, slot, &after);
                self.record_success(slot, work);
                if let Some(evidence) = verdict.evidence {
                    let fires = self.may_fire(slot, context);
                    work.outcomes.push((slot, if fires { Outcome::Fired(evidence) } else { Outcome::Suppressed }));
                }
                if let Some(band) = verdict.band {
                    self.put_to_sleep(slot, band, context);
                }
            }
            Err(fault) => work.outcomes.push(self.record_fault(context.instance, slot, fault, before, context.offset)),
        }
        // The buffer goes back, so that the next evaluation does not allocate one.
        *context.instance.isolated()?.state_mut() = after;
        Ok(fuel)
    }

    /// Returns the addresses of a slot's records.
    pub(super) fn addresses(&self, slot: Slot) -> Addresses {
        Addresses { params: self.table.params_at(slot), state: self.table.state_at(slot) }
    }
}
