//! The events of a shard: what happened to its bindings on a tick.

use super::tick::Evaluation;
use crate::domain::{AlertId, BindingId, Firing, FiringId, Position, Repeat, RuleRef};
use crate::evaluate::Outcome;
use crate::fault::{Fault, FaultBundle};
use crate::group::{Binding, Group};
use crate::limits::FUEL_PER_EVALUATION;
use crate::purity::Impurity;

/// What happened to a binding or a rule version on a tick.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A binding fired.
    Fired {
        /// The firing.
        firing: Firing,
        /// Whether the binding may fire only once: it is disarmed.
        last: bool,
    },
    /// The rule faulted on a binding, whose state is as before the tick.
    Faulted {
        /// The id of the alert.
        alert: AlertId,
        /// The id of the binding.
        binding: BindingId,
        /// The fault.
        fault: Fault,
        /// Whether the binding is quarantined, because it faulted too often or is impure.
        quarantined: bool,
        /// What is needed to reproduce the fault.
        bundle: Box<FaultBundle>,
    },
    /// A quarantined binding was put on probe, and was evaluated without a fault.
    Recovered {
        /// The id of the alert.
        alert: AlertId,
        /// The id of the binding.
        binding: BindingId,
        /// The position of the tick.
        position: Position,
    },
    /// A rule version answered differently when it was evaluated again from the same bytes, for several bindings. All
    /// of its bindings are disarmed.
    Impure {
        /// The rule version.
        rule: RuleRef,
        /// What differed.
        impurity: Impurity,
    },
}

impl Evaluation<'_> {
    /// Returns the event of an outcome, `None` for a firing that is not recorded.
    pub(super) fn event(&self, group: &Group, binding: &Binding, rule: &RuleRef, outcome: Outcome) -> Option<Event> {
        let Binding { id, alert, repeat } = *binding;
        let (tick, position) = (self.tick, self.position);
        let event = match outcome {
            Outcome::Suppressed => return None,
            Outcome::Fired(evidence) => Event::Fired {
                firing: Firing {
                    id: FiringId::derive(id, position),
                    tenant: group.tenant.clone(),
                    alert,
                    binding: id,
                    tick: tick.clone(),
                    position,
                    rule: rule.clone(),
                    evidence,
                },
                last: repeat == Repeat::Once,
            },
            Outcome::Faulted { fault, quarantined, params, state } => {
                let bundle = FaultBundle {
                    rule: rule.clone(),
                    tick: tick.clone(),
                    position,
                    params,
                    state,
                    fuel: FUEL_PER_EVALUATION,
                    fault: fault.clone(),
                };
                Event::Faulted { alert, binding: id, fault, quarantined, bundle: Box::new(bundle) }
            }
            Outcome::Recovered => Event::Recovered { alert, binding: id, position },
        };
        Some(event)
    }
}
