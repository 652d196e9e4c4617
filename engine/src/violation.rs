//! Violations: everything that is wrong with a refused module, listed so that an author can fix it all at once.

use std::fmt;

use crate::limits::MAX_VIOLATIONS;

/// The kind of a violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The bytes are not a WebAssembly module, or a malformed or invalid one.
    Format,
    /// The module has more of something than allowed.
    Limit,
    /// The module imports something: rules have no imports.
    Import,
    /// An export is missing, has the wrong type, or is not one that rules have.
    Export,
    /// The module uses a disabled feature of WebAssembly.
    Feature,
    /// The manifest is missing or wrong.
    Manifest,
    /// Compiling the module takes more time, memory or output than allowed.
    CompileLimit,
    /// The compiler refused the module, or crashed on it.
    CompileFailed,
    /// The rule faults on a tick of its trial run.
    TrialFault,
}

impl Code {
    /// All codes, in the order of `docs/abi.md`.
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

    /// Returns the code as it appears in the API; `docs/abi.md` lists them.
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

/// A reason to refuse a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The kind.
    pub code: Code,
    /// What is wrong, where, and what to do.
    pub message: String,
}

/// The longest message, in characters: it may quote untrusted text.
const MAX_MESSAGE_CHARS: usize = 600;

impl Violation {
    /// Creates a violation. The message may quote the module: control characters, and those that change the direction of
    /// writing, are escaped, so that they cannot control a terminal or disguise the text.
    pub fn new(code: Code, message: impl AsRef<str>) -> Self {
        let mut plain = String::new();
        for (i, c) in message.as_ref().chars().enumerate() {
            if i == MAX_MESSAGE_CHARS {
                plain.push('…');
                break;
            }
            let is_unsafe = c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if is_unsafe { plain.extend(c.escape_default()) } else { plain.push(c) }
        }
        Self { code, message: plain }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.code.as_str(), self.message)
    }
}

/// The refusal of a module, with at least one violation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Rejection {
    /// Everything that is wrong, at most [`MAX_VIOLATIONS`].
    pub violations: Vec<Violation>,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the module is not a rule")?;
        self.violations.iter().try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}

/// A list of violations that is bounded by [`MAX_VIOLATIONS`].
#[derive(Debug, Default)]
pub(crate) struct Violations(Vec<Violation>);

impl Violations {
    pub(crate) fn add(&mut self, code: Code, message: impl AsRef<str>) {
        self.push(Violation::new(code, message));
    }

    /// Adds a violation unless the list is full or already contains it.
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
