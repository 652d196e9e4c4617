//! Reproduces a fault from its bundle: one evaluation, on a fresh instance, from the same bytes.

use crate::domain::{AlertId, BindingId, Digest, Lifecycle, Repeat, RuleRef, Tenant};
use crate::evaluate::{EvaluateError, Waking};
use crate::fault::{Fault, FaultBundle};
use crate::health::Health;
use crate::limits::FUEL_PER_EVALUATION;
use crate::runtime::Rule;
use crate::shard::{ArmError, Arming, EvaluationOptions, Event, Shard};
use crate::snapshot::SavedBinding;

/// Why a fault was not reproduced.
#[derive(Debug, thiserror::Error)]
pub enum NotReproduced {
    /// The bundle is of another module.
    #[error("the bundle's fault is of the module {expected}, but this module is {got}")]
    Digest {
        /// The digest in the bundle.
        expected: Digest,
        /// The digest of the rule.
        got: Digest,
    },
    /// The bundle names another rule than its module does.
    #[error("the bundle says that the rule is {expected}, but its module says {got}")]
    Reference {
        /// Name and version in the bundle.
        expected: String,
        /// Name and version in the module.
        got: String,
    },
    /// The bundle says that the rule overslept, which its tick or its module contradict.
    #[error("the bundle's rule cannot have overslept: {0}")]
    Awake(&'static str),
    /// The evaluation that faulted was given another amount of fuel than this version of the engine gives.
    #[error("the bundle's evaluation could burn {0} fuel, but this version grants {FUEL_PER_EVALUATION}")]
    Fuel(u64),
    /// The records do not fit the rule.
    #[error("the bundle does not fit its module: {0}")]
    Arm(#[from] ArmError),
    /// The evaluation ended differently.
    #[error("the bundle says that {expected}; evaluated again, {got}")]
    Differs {
        /// The fault in the bundle.
        expected: Fault,
        /// What the evaluation did now.
        got: String,
    },
    /// The engine could not evaluate.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
}

/// Evaluates a bundle once. Returns what the rule did, if that is the same fault.
///
/// # Errors
/// Where the bundle does not fit the rule, or the rule did something else.
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

/// Checks that the bundle is of this rule, and that this version of the engine can have written it.
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
