//! Seeing a fault again from its bundle: one evaluation, on a fresh instance, from the same bytes.

use crate::domain::{AlertId, BindingId, Digest, Lifecycle, Repeat, Tenant};
use crate::fault::{Fault, FaultBundle};
use crate::health::Health;
use crate::judging::{JudgeError, Waking};
use crate::limits::FUEL_PER_EVALUATION;
use crate::runtime::Rule;
use crate::shard::{ArmError, Arming, Event, Judging, Shard};
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
    Judge(#[from] JudgeError),
}

/// Evaluates once what a bundle holds. Ok if the same fault comes of it.
///
/// A rule that overslept is known by what it did, not by the band that it had promised before: what must be seen again
/// is that it fires, changes its state or faults.
pub fn reproduce(rule: &Rule, bundle: &FaultBundle) -> Result<(), NotReproduced> {
    let (expected, got) = (bundle.rule.digest, rule.reference().digest);
    if expected != got {
        return Err(NotReproduced::Digest { expected, got });
    }
    if bundle.fuel != FUEL_PER_EVALUATION {
        return Err(NotReproduced::Fuel(bundle.fuel));
    }
    let binding = BindingId(1);
    let mut shard = Shard::new(Judging { waking: Waking::Naive, audit_every_calls: 0 });
    shard.arm(Arming {
        binding,
        alert: AlertId(1),
        tenant: Tenant::standard(),
        symbol: bundle.tick.symbol.clone(),
        rule: rule.clone(),
        params: bundle.params.clone(),
        lifecycle: Lifecycle { repeat: Repeat::Every },
        saved: Some(SavedBinding { binding, health: Health::default(), state: bundle.state.clone() }),
    })?;
    let mut events = Vec::new();
    shard.judge(&bundle.tick, bundle.position, &mut events)?;
    let changed = shard.saved(binding).is_some_and(|saved| saved.state != bundle.state);
    let got = match events.first() {
        Some(Event::Faulted { fault, .. }) if *fault == bundle.fault => return Ok(()),
        Some(_) if bundle.fault == Fault::Overslept => return Ok(()),
        None if bundle.fault == Fault::Overslept && changed => return Ok(()),
        Some(Event::Faulted { fault, .. }) => fault.to_string(),
        Some(Event::Fired { .. }) => "it fired".to_owned(),
        _ => "it held".to_owned(),
    };
    Err(NotReproduced::Differs { expected: bundle.fault.clone(), got })
}
