//! A fault is data: what a rule did instead of answering.

use std::fmt;

use crate::limits::FUEL_PER_EVALUATION;

/// Why a binding got no verdict for one tick. Its state is as it was before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It burnt more than [`FUEL_PER_EVALUATION`].
    OutOfFuel,
    /// It trapped; the text is Wasmtime's name of the trap.
    Trap(String),
    /// It answered with a code that has no meaning, or with a wake band though its manifest says that it never sleeps.
    BadCode(i32),
    /// It fired with an evidence number that is not finite; the number's place.
    BadEvidence(usize),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfFuel => write!(f, "one evaluation burnt more than {FUEL_PER_EVALUATION} fuel"),
            Self::Trap(trap) => write!(f, "it trapped: {trap}"),
            Self::BadCode(code) => write!(f, "it answered with code {code}, which means nothing"),
            Self::BadEvidence(at) => write!(f, "evidence number {at} is not finite"),
        }
    }
}
