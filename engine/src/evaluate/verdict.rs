//! The verdict of an answer.

use tocsin_rules_sdk::abi;

use crate::domain::Evidence;
use crate::fault::Fault;
use crate::instance::Answer;
use crate::runtime::Rule;
use crate::wake::Band;

/// A valid verdict. The default is to hold, awake.
#[derive(Default)]
pub(super) struct Verdict {
    /// The evidence, if the binding fires.
    pub(super) evidence: Option<Evidence>,
    /// The wake band, if the binding may sleep.
    pub(super) band: Option<Band>,
}

impl Verdict {
    /// Reads an answer by the rule's manifest.
    ///
    /// # Errors
    /// The fault of a code without meaning, or of evidence that is not finite.
    pub(super) fn read(rule: &Rule, answer: &Answer) -> Result<Self, Fault> {
        let manifest = rule.manifest();
        let known = if manifest.sleeps { abi::FIRE | abi::ASLEEP } else { abi::FIRE };
        if answer.code & !known != 0 {
            return Err(Fault::BadCode(answer.code));
        }
        let mut verdict = Self::default();
        if answer.code & abi::ASLEEP != 0 {
            verdict.band = Some(answer.band);
        }
        if answer.code & abi::FIRE != 0 {
            let numbers = answer.evidence.iter().take(manifest.evidence.len());
            if let Some(index) = numbers.clone().position(|number| !number.is_finite()) {
                return Err(Fault::BadEvidence(index));
            }
            verdict.evidence = Some(manifest.evidence.iter().cloned().zip(numbers.copied()).collect());
        }
        Ok(verdict)
    }
}
