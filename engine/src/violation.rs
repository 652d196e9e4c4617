//! Why a module is refused: a list of everything that is wrong with it, so that an author mends it in one go.

use std::fmt;

use crate::limits::MAX_VIOLATIONS;

/// What kind of rule of the house a module breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Not a WebAssembly module, or a malformed or invalid one.
    Format,
    /// More of something than allowed.
    Limit,
    /// Imports something: rules have no imports.
    Import,
    /// Lacks an export, exports it with the wrong type, or exports what a rule has no use for.
    Export,
    /// Uses a WebAssembly feature that is off.
    Feature,
    /// Its manifest is missing or wrong.
    Manifest,
    /// Compiling it takes more time, memory or output than allowed.
    CompileLimit,
    /// The compiler refused it, or broke on it.
    CompileFailed,
    /// It faults on a tick of its trial run.
    TrialFault,
}

impl Code {
    /// All codes.
    pub const ALL: [Self; 9] = [
        Self::Format,
        Self::Limit,
        Self::Import,
        Self::Export,
        Self::Feature,
        Self::Manifest,
        Self::CompileLimit,
        Self::CompileFailed,
        Self::TrialFault,
    ];

    /// The code as clients see it; `docs/abi.md` lists them.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Limit => "limit",
            Self::Import => "import",
            Self::Export => "export",
            Self::Feature => "feature",
            Self::Manifest => "manifest",
            Self::CompileLimit => "compile_limit",
            Self::CompileFailed => "compile_failed",
            Self::TrialFault => "trial_fault",
        }
    }
}

/// One thing that is wrong with a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its kind.
    pub code: Code,
    /// What is wrong, where, and what to do.
    pub message: String,
}

/// The longest message, in characters: it may quote what a stranger wrote.
const MAX_MESSAGE_CHARS: usize = 600;

impl Violation {
    /// What the message quotes of the module cannot steer a terminal nor turn the text around: control characters and
    /// those that change the direction of writing are escaped.
    pub fn new(code: Code, message: impl AsRef<str>) -> Self {
        let mut plain = String::new();
        for (i, c) in message.as_ref().chars().enumerate() {
            if i == MAX_MESSAGE_CHARS {
                plain.push('…');
                break;
            }
            let steers = c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if steers { plain.extend(c.escape_default()) } else { plain.push(c) }
        }
        Self { code, message: plain }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.code.as_str(), self.message)
    }
}

/// A module was refused. Holds at least one violation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Rejection {
    /// Everything that was found wrong, at most [`MAX_VIOLATIONS`].
    pub violations: Vec<Violation>,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the module is not a rule")?;
        self.violations.iter().try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}

/// A bounded list in the making.
#[derive(Debug, Default)]
pub(crate) struct Violations(Vec<Violation>);

impl Violations {
    pub(crate) fn add(&mut self, code: Code, message: impl AsRef<str>) {
        self.push(Violation::new(code, message));
    }

    /// Adds a violation unless the list is full or holds it already.
    pub(crate) fn push(&mut self, violation: Violation) {
        if self.0.len() < MAX_VIOLATIONS && !self.0.contains(&violation) {
            self.0.push(violation);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn holds(&self, code: Code) -> bool {
        self.0.iter().any(|violation| violation.code == code)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn into_rejection(self) -> Rejection {
        Rejection { violations: self.0 }
    }
}
