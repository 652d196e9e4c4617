//! Faults: what a rule did instead of returning a verdict.

use std::fmt;

use crate::domain::{Position, RuleRef, Tick};
use crate::limits::FUEL_PER_EVALUATION;
use crate::wake::Band;

/// Everything that a fault depends on: evaluated with these, the same module faults alike on every machine.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultBundle {
    /// The rule version.
    pub rule: RuleRef,
    /// The tick that was evaluated.
    pub tick: Tick,
    /// The position of the tick.
    pub position: Position,
    /// The packed params record.
    pub params: Vec<u8>,
    /// The state record before the evaluation.
    pub state: Vec<u8>,
    /// The fuel that the evaluation was given.
    pub fuel: u64,
    /// The fault itself.
    pub fault: Fault,
}

/// Why a binding has no verdict for a tick. Its state stays as it was before the evaluation.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The evaluation burnt more than [`FUEL_PER_EVALUATION`].
    OutOfFuel,
    /// It trapped; with Wasmtime's description of the trap.
    Trap(String),
    /// It tried to write outside of its own pages, its state and its verdict. The write was prevented.
    StrayWrite,
    /// The answers of a call, as the host read them back, cannot have been written by the driver.
    Forged,
    /// Evaluated again on a fresh instance from the same bytes, the result differed; with the difference.
    Impure(String),
    /// It returned a code without meaning, or a wake band although its manifest does not set `sleeps`.
    BadCode(i32),
    /// It fired with an evidence number that is not finite; with the index of the number.
    BadEvidence(usize),
    /// It returned this wake band, but evaluated inside of it, it fired, changed its state or faulted. Found only with
    /// [`Waking::Checked`](crate::Waking::Checked), which evaluates sleepers too.
    Overslept(Band),
}

impl Fault {
    /// Returns the name of the kind of fault, as stores and APIs have it. See also [`Self::detail`].
    pub fn kind(&self) -> &'static str {
        match self {
            Self::OutOfFuel => "out_of_fuel",
            Self::Trap(_) => "trap",
            Self::StrayWrite => "stray_write",
            Self::Forged => "forged",
            Self::Impure(_) => "impure",
            Self::BadCode(_) => "bad_code",
            Self::BadEvidence(_) => "bad_evidence",
            Self::Overslept(_) => "overslept",
        }
    }

    /// Returns what is known beside the kind: the trap, the difference, the code, the index, or the low, high and end of
    /// the band. Empty for the other kinds.
    pub fn detail(&self) -> String {
        match self {
            Self::Trap(text) | Self::Impure(text) => text.clone(),
            Self::BadCode(code) => code.to_string(),
            Self::BadEvidence(at) => at.to_string(),
            Self::Overslept(Band { low, high, until_ms }) => format!("{low:?} {high:?} {until_ms}"),
            Self::OutOfFuel | Self::StrayWrite | Self::Forged => String::new(),
        }
    }

    /// Restores a fault from its kind and detail. Returns `None` if there is no such fault.
    pub fn from_parts(kind: &str, detail: &str) -> Option<Self> {
        let fault = match kind {
            "out_of_fuel" => Self::OutOfFuel,
            "trap" => Self::Trap(detail.to_owned()),
            "stray_write" => Self::StrayWrite,
            "forged" => Self::Forged,
            "impure" => Self::Impure(detail.to_owned()),
            "bad_code" => Self::BadCode(detail.parse().ok()?),
            "bad_evidence" => Self::BadEvidence(detail.parse().ok()?),
            "overslept" => {
                let mut parts = detail.split(' ');
                let (low, high) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
                Self::Overslept(Band { low, high, until_ms: parts.next()?.parse().ok()? })
            }
            _ => return None,
        };
        Some(fault).filter(|fault| fault.detail() == detail)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfFuel => write!(f, "one evaluation burnt more than {FUEL_PER_EVALUATION} fuel"),
            Self::Trap(trap) => write!(f, "it trapped: {trap}"),
            Self::StrayWrite => write!(f, "it tried to write outside of its own memory, its state and its verdict"),
            Self::Forged => write!(f, "the answers that were read back from its memory are not the host's"),
            Self::Impure(differed) => {
                write!(f, "evaluated again on a fresh instance from the same bytes it differed: {differed}")
            }
            Self::BadCode(code) => write!(f, "it answered with code {code}, which means nothing"),
            Self::Overslept(Band { low, high, until_ms }) => {
                // A band's low may be -0.0; adding 0.0 removes the sign.
                let (low, high) = (low + 0.0, high + 0.0);
                write!(f, "it promised to hold and keep its state between {low:?} and {high:?}")?;
                if *until_ms < i64::MAX {
                    write!(f, " until {until_ms}")?;
                }
                write!(f, ", and did not")
            }
            Self::BadEvidence(at) => write!(f, "evidence number {at} is not finite"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_survives_its_parts() {
        for fault in [
            Fault::OutOfFuel,
            Fault::Trap("integer divide by zero".into()),
            Fault::StrayWrite,
            Fault::Forged,
            Fault::Impure("code 1, then 0".into()),
            Fault::BadCode(-7),
            Fault::BadEvidence(3),
            Fault::Overslept(Band { low: f64::NEG_INFINITY, high: 0.1, until_ms: -7 }),
        ] {
            assert_eq!(Fault::from_parts(fault.kind(), &fault.detail()), Some(fault));
        }
        for (kind, detail) in [("", ""), ("bad_code", ""), ("bad_code", "+1"), ("overslept", "1 2"), ("Trap", "x")] {
            assert_eq!(Fault::from_parts(kind, detail), None, "{kind} {detail}");
        }
    }
}
