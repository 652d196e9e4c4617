//! Seeing a fault again from its bundle: one evaluation, on a fresh instance, from the same bytes.

use crate::domain::{AlertId, BindingId, Digest, Lifecycle, Repeat, RuleRef, Tenant};
use crate::evaluate::{EvaluateError, Waking};
use crate::fault::{Fault, FaultBundle};
use crate::health::Health;
use crate::limits::FUEL_PER_EVALUATION;
use crate::runtime::Rule;
use crate::shard::{ArmError, Arming, EvaluationOptions, Event, Shard};
use crate::snapshot::SavedBinding;

/// Why a fault was not seen again.
#[derive(Debug, thiserror::Error)]
pub enum NotReproduced {
    /// The bundle is of another module.
    #[error("the bundle's fault is of the module {expected}, but this module is {got}")]
    Digest {
        /// The bundle's.
        expected: Digest,
        /// The rule's.
        got: Digest,
    },
    /// The bundle names another rule than its module does.
    #[error("the bundle says that the rule is {expected}, but its module says {got}")]
    Reference {
        /// The bundle's name and version.
        expected: String,
        /// The module's.
        got: String,
    },
    /// The bundle says that the rule overslept, and its tick or its module do not bear that out.
    #[error("the bundle's rule cannot have overslept: {0}")]
    Awake(&'static str),
    /// This version of the engine grants an evaluation another budget than the one that faulted.
    #[error("the bundle's evaluation could burn {0} fuel, but this version grants {FUEL_PER_EVALUATION}")]
    Fuel(u64),
    /// The records do not fit the rule.
    #[error("the bundle does not fit its module: {0}")]
    Arm(#[from] ArmError),
    /// The evaluation ended otherwise; the text says how.
    #[error("the bundle says that {expected}; evaluated again, {got}")]
    Differs {
        /// What the bundle says.
        expected: Fault,
        /// What came of it now.
        got: String,
    },
    /// The engine itself could not judge.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
}

/// Evaluates once what a bundle holds. Ok, with what it did, if the same fault comes of it.
///
/// A rule that overslept must fire, change its state or fault on a tick inside of the band that the bundle names.
pub fn reproduce(rule: &Rule, bundle: &FaultBundle) -> Result<String, NotReproduced> {
    check(rule, bundle)?;
    let binding = BindingId(1);
    let mut shard =
        Shard::new(EvaluationOptions { waking: Waking::Naive, audit_every_calls: 0, ..EvaluationOptions::default() });
    shard.arm(Arming {
        binding,
        alert: AlertId(1),
        tenant: Tenant::standard(),
        symbol: bundle.tick.symbol.clone(),
        rule: rule.clone(),
        params: bundle.params.clone(),
        lifecycle: Lifecycle { repeat: Repeat::Every },
        saved: Some(SavedBinding { binding, health: Health::default(), pace: None, state: bundle.state.clone() }),
    })?;
    let mut events = Vec::new();
    shard.evaluate(&bundle.tick, bundle.position, &mut events)?;
    let changed = shard.saved(binding).is_some_and(|saved| saved.state != bundle.state);
    let overslept = matches!(bundle.fault, Fault::Overslept(_));
    let (seen, got) = match events.first() {
        Some(Event::Faulted { fault, .. }) => (*fault == bundle.fault || overslept, fault.to_string()),
        Some(Event::Fired { .. }) => (overslept, "it fired".into()),
        _ if changed => (overslept, "it held and changed its state".into()),
        _ => (false, "it held".into()),
    };
    if seen { Ok(got) } else { Err(NotReproduced::Differs { expected: bundle.fault.clone(), got }) }
}

/// Whether the bundle is of this rule, and can have been written by this version of the engine.
fn check(rule: &Rule, bundle: &FaultBundle) -> Result<(), NotReproduced> {
    let (expected, got) = (&bundle.rule, rule.reference());
    if expected.digest != got.digest {
        return Err(NotReproduced::Digest { expected: expected.digest, got: got.digest });
    }
    if expected != got {
        let named = |rule: &RuleRef| format!("{} {}", rule.name, rule.version);
        return Err(NotReproduced::Reference { expected: named(expected), got: named(got) });
    }
    if bundle.fuel != FUEL_PER_EVALUATION {
        return Err(NotReproduced::Fuel(bundle.fuel));
    }
    if let Fault::Overslept(band) = &bundle.fault {
        if !rule.manifest().sleeps {
            return Err(NotReproduced::Awake("its manifest says that it never sleeps"));
        }
        if !band.holds(bundle.tick.price, bundle.tick.time_ms) {
            return Err(NotReproduced::Awake("the tick lies outside of the band"));
        }
    }
    Ok(())
}
