//! A rule's name, versions and digest.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::limits::{MAX_NAME_BYTES, MAX_VERSION_BYTES};

/// A rule's name: 1 to 64 lower-case letters, digits and single hyphens, starting with a letter (`percent-move`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleName(Arc<str>);

/// Why a text is not a rule name, with the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a rule name: use 1 to {MAX_NAME_BYTES} lower-case letters, digits and single hyphens, \
     starting with a letter"
)]
pub struct NameError(String);

impl RuleName {
    /// The built-in rule that fires at or above a target price.
    pub fn above() -> Self {
        Self("above".into())
    }

    /// The built-in rule that fires at or below a target price.
    pub fn below() -> Self {
        Self("below".into())
    }

    /// Checks a rule name.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let good = text.len() <= MAX_NAME_BYTES
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.split('-').all(word);
        // The message quotes the text: keep a hostile one short.
        if good { Ok(Self(text.into())) } else { Err(NameError(text.chars().take(MAX_NAME_BYTES + 1).collect())) }
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A semantic version (<https://semver.org>): what orders a rule's versions. [`parse_version`] reads one.
pub type Version = semver::Version;

/// Why a text is not the version of a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// It is longer than any version needs to be.
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
    /// It carries build metadata, by which semantic versions are not ordered: of two that differ in nothing else neither
    /// is the newer one.
    #[error(
        "{text:?} has build metadata (+{build}), and versions that differ in it alone have no order: leave it out, or \
         raise the number"
    )]
    BuildMetadata {
        /// The text.
        text: String,
        /// What stands behind the `+`.
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

/// The SHA-256 digest of a module's bytes: its identity. Shown as `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of a module.
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

/// Which rule version: its name and version for people, its digest for machines.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleRef {
    /// The rule's name.
    pub name: RuleName,
    /// The semantic version.
    pub version: Version,
    /// The module's digest.
    pub digest: Digest,
}

/// An immutable version of a rule, as it was uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleVersion {
    /// Name, version and digest.
    pub reference: RuleRef,
    /// The module's manifest, JSON.
    pub manifest: String,
    /// When it was uploaded, Unix milliseconds.
    pub created_at_ms: i64,
    /// Set once it was found to be impure: it is judged no more, for ever.
    pub quarantine: Option<RuleQuarantine>,
}

impl RuleVersion {
    /// The version that is meant where none is named: the newest release or, if there is no release, the newest
    /// pre-release. As with Cargo and npm, who wants a pre-release beside releases names it.
    pub fn newest(versions: impl IntoIterator<Item = Self>) -> Option<Self> {
        let precedence = |rule: &Self| (rule.reference.version.pre.is_empty(), rule.reference.version.clone());
        versions.into_iter().max_by_key(precedence)
    }
}

/// Why a rule version is judged no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleQuarantine {
    /// What was found.
    pub reason: String,
    /// When, Unix milliseconds.
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
