//! What follows an evaluation: health, firing rate, sleep.

use super::{Outcome, TickContext, Waking, Work};
use crate::domain::Repeat;
use crate::fault::Fault;
use crate::group::Group;
use crate::ids::Slot;
use crate::instance::Instance;
use crate::pace::Pace;
use crate::wake::Band;

impl Group {
    /// Records a fault at an offset, and restores the state from before the evaluation.
    pub(super) fn record_fault(
        &mut self,
        instance: &mut Instance,
        slot: Slot,
        fault: Fault,
        before: &[u8],
        offset: u64,
    ) -> (Slot, Outcome) {
        self.table.set_state(instance, slot, before);
        let mut health = self.health(slot);
        let quarantined = match &fault {
            Fault::Impure(_) => {
                health.condemn();
                true
            }
            _ => health.faulted(offset),
        };
        self.set_health(slot, health);
        let params = self.table.params(instance, slot).to_vec();
        (slot, Outcome::Faulted { fault, quarantined, params, state: before.to_vec() })
    }

    /// Records an evaluation without a fault in the health of a binding that faulted lately.
    pub(super) fn record_success(&mut self, slot: Slot, work: &mut Work) {
        let Some(mut health) = self.suspects.get(&slot).copied() else { return };
        if health.succeeded() {
            work.outcomes.push((slot, Outcome::Recovered));
        }
        self.set_health(slot, health);
    }

    /// Returns whether a firing is within the binding's firing rate, and counts it.
    pub(super) fn may_fire(&mut self, slot: Slot, context: &TickContext<'_>) -> bool {
        let time_ms = context.tick.time_ms;
        let binding = self.binding(slot);
        if binding.repeat == Repeat::Once {
            return true;
        }
        let id = binding.id;
        // The pace is part of the snapshot, also where there is no state.
        self.changed = true;
        let pace = self.paces.entry(id).or_insert(Pace::rested(time_ms));
        pace.fire(time_ms, context.firings_at_once)
    }

    pub(super) fn sleeps(&self, slot: Slot) -> bool {
        self.sleepers.as_ref().is_some_and(|sleepers| sleepers.sleeps(slot))
    }

    /// Puts a binding to sleep, if it is awake and the tick is inside of the band.
    pub(super) fn put_to_sleep(&mut self, slot: Slot, band: Band, context: &TickContext<'_>) {
        if let Some(sleepers) = &mut self.sleepers
            && context.waking != Waking::Naive
            && !sleepers.sleeps(slot)
            && band.holds(context.tick.price, context.tick.time_ms)
        {
            sleepers.sleep(slot, band);
        }
    }
}
