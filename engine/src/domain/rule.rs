//! Names, versions and digests of rules.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::limits::{MAX_NAME_BYTES, MAX_VERSION_BYTES};

/// A rule's name: 1 to 64 lower-case letters, digits and single hyphens, starting with a letter (`percent-move`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleName(Arc<str>);

/// The error for a text that is not a rule name, with the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a rule name: use 1 to {MAX_NAME_BYTES} lower-case letters, digits and single hyphens, \
     starting with a letter"
)]
pub struct NameError(String);

impl RuleName {
    /// Returns the name of the built-in rule that fires at or above a target price.
    pub fn above() -> Self {
        Self("above".into())
    }

    /// Returns the name of the built-in rule that fires at or below a target price.
    pub fn below() -> Self {
        Self("below".into())
    }

    /// Parses a rule name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let good = text.len() <= MAX_NAME_BYTES
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.split('-').all(word);
        // The message quotes the text, which can be long and hostile.
        if good { Ok(Self(text.into())) } else { Err(NameError(text.chars().take(MAX_NAME_BYTES + 1).collect())) }
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A semantic version (<https://semver.org>), by which a rule's versions are ordered. See [`parse_version`].
pub type Version = semver::Version;

/// Why a text is not the version of a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// It is longer than [`MAX_VERSION_BYTES`].
    #[error("{bytes} bytes, more than the {MAX_VERSION_BYTES} allowed")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// It is not a semantic version.
    #[error("{text:?} is not a semantic version such as 1.0.0: {reason}")]
    Malformed {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It has build metadata, which semantic versions are not ordered by: of two versions that differ in nothing else,
    /// neither is newer.
    #[error(
        "{text:?} has build metadata (+{build}), and versions that differ in it alone have no order: leave it out, or \
         raise the number"
    )]
    BuildMetadata {
        /// The text.
        text: String,
        /// The text after the `+`.
        build: String,
    },
}

/// Parses the version of a rule: a semantic version of at most [`MAX_VERSION_BYTES`], without build metadata.
pub fn parse_version(text: &str) -> Result<Version, VersionError> {
    if text.len() > MAX_VERSION_BYTES {
        return Err(VersionError::TooLong { bytes: text.len() });
    }
    match Version::parse(text) {
        Ok(version) if version.build.is_empty() => Ok(version),
        Ok(version) => Err(VersionError::BuildMetadata { text: text.into(), build: version.build.to_string() }),
        Err(error) => Err(VersionError::Malformed { text: text.into(), reason: error.to_string() }),
    }
}

/// The SHA-256 digest of a module's bytes, which identifies it. Displayed as `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Computes the digest of a module.
    pub fn of(module: &[u8]) -> Self {
        Self(Sha256::digest(module).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.strip_prefix("sha256:").unwrap_or(text), &mut bytes)?;
        Ok(Self(bytes))
    }
}

/// A reference to a rule version: by name and version, and by digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleRef {
    /// The rule's name.
    pub name: RuleName,
    /// The semantic version of the rule.
    pub version: Version,
    /// The module's digest.
    pub digest: Digest,
}

/// A version of a rule. Immutable, except that it can be quarantined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleVersion {
    /// Name, version and digest.
    pub reference: RuleRef,
    /// The manifest of the module, JSON.
    pub manifest: String,
    /// Time of the upload, Unix milliseconds.
    pub created_at_ms: i64,
    /// Set if the version was found to be impure. It is then never evaluated again.
    pub quarantine: Option<RuleQuarantine>,
}

impl RuleVersion {
    /// Returns the version to use where none is given: the newest release or, if there is no release, the newest
    /// pre-release. As with Cargo and npm, a pre-release beside releases must be named.
    pub fn newest(versions: impl IntoIterator<Item = Self>) -> Option<Self> {
        let precedence = |rule: &Self| (rule.reference.version.pre.is_empty(), rule.reference.version.clone());
        versions.into_iter().max_by_key(precedence)
    }
}

/// Why a rule version is no longer evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleQuarantine {
    /// What was observed.
    pub reason: String,
    /// Time of the quarantine, Unix milliseconds.
    pub at_ms: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kebab_case() {
        for good in ["above", "percent-move", "x", "a1-2b"] {
            assert_eq!(RuleName::parse(good).unwrap().as_str(), good);
        }
        let long = "a".repeat(65);
        for bad in ["", "-a", "a-", "a--b", "Above", "1a", "a_b", "a b", "é", "a\0", "\u{202e}a", &long] {
            assert!(RuleName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn versions_are_ordered_and_bounded() {
        for good in ["0.0.0", "1.2.3", "1.0.0-rc.1", &format!("1.0.0-{}", "a".repeat(58))] {
            assert_eq!(parse_version(good).unwrap().to_string(), good);
        }
        for (bad, why) in [
            ("1.0", "\"1.0\" is not a semantic version"),
            ("1.0.0+build", "\"1.0.0+build\" has build metadata (+build)"),
            ("1.0.0-rc.1+a.b", "(+a.b)"),
            (&format!("1.0.0-{}", "a".repeat(59)), "65 bytes, more than the 64"),
        ] {
            let error = parse_version(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_digest_survives_its_text() {
        let digest = Digest::of(b"module");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!("sha256:00".parse::<Digest>().is_err());
    }
}
