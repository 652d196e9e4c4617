//! The manifest of a module: JSON in its custom section `tocsin.manifest`, which can be read without running the module.

mod texts;

use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tocsin_rules_sdk::abi;

use crate::domain::{RuleName, Version, VersionError, parse_version};
use crate::limits::{MAX_MANIFEST_BYTES, MAX_MIGRATES, MAX_NAME_BYTES};
use crate::params::{ParamsSpec, RawParams};
use crate::strict_json::repeated_members;
use crate::violation::{Code, Violation, Violations};

use self::texts::check_texts;

/// A valid manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The name of the rule.
    pub name: RuleName,
    /// The version of the rule.
    pub version: Version,
    /// What the rule does, as text to display.
    pub description: String,
    /// The author, as text to display.
    pub author: String,
    /// The schema and the layout of its params.
    pub params: ParamsSpec,
    /// The size of the state of each binding, in bytes.
    pub state_bytes: usize,
    /// The names of the evidence numbers, in order; at most [`abi::MAX_EVIDENCE`].
    pub evidence: Vec<Arc<str>>,
    /// Whether its verdicts may carry a wake band.
    pub sleeps: bool,
    /// The older versions from which it migrates states; their index is the `from` of its `migrate`.
    pub migrates: Vec<Version>,
    /// The manifest as it was written.
    pub json: Value,
}

/// The wire form. Unknown members are refused, so that a typo does not go unnoticed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    #[serde(default, deserialize_with = "given")]
    abi: Option<u32>,
    #[serde(default, deserialize_with = "given")]
    name: Option<String>,
    #[serde(default, deserialize_with = "given")]
    version: Option<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    author: String,
    #[serde(default)]
    params: RawParams,
    #[serde(default)]
    state: RawState,
    #[serde(default)]
    evidence: Vec<String>,
    #[serde(default)]
    sleeps: bool,
    #[serde(default)]
    migrates: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawState {
    size: usize,
}

impl Manifest {
    /// Parses and checks a manifest. Returns `None` if something is wrong with it, and adds all of it to `violations`.
    pub(crate) fn parse(bytes: &[u8], violations: &mut Violations) -> Option<Self> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            let text = format!("the manifest has {} bytes, more than the {MAX_MANIFEST_BYTES} allowed", bytes.len());
            violations.add(Code::Manifest, text);
            return None;
        }
        let before = violations.len();
        let read = repeated_members(bytes).and_then(|repeated| Ok((repeated, serde_json::from_slice(bytes)?)));
        let (repeated, json): (Vec<String>, Value) = match read {
            Ok(read) => read,
            Err(error) => {
                violations.add(Code::Manifest, format!("the manifest is not JSON: {error}"));
                return None;
            }
        };
        for path in repeated {
            violations.add(Code::Manifest, format!("manifest.{path}: is given more than once; leave one of them"));
        }
        check_texts(&json, &mut |text| violations.add(Code::Manifest, text));
        let (raw, unread) = RawManifest::read(json.clone(), violations)?;
        raw.check(json, &unread, violations).filter(|_| violations.len() == before)
    }
}

/// Reads a member that is present: null is not a value.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl RawManifest {
    /// Reads the members that can be read, so that all of them are checked. One that cannot be is a violation and is left
    /// out; the names of those are returned as well.
    fn read(mut json: Value, violations: &mut Violations) -> Option<(Self, Vec<String>)> {
        let mut unread = Vec::new();
        loop {
            let (path, text) = match array_for_object(&json) {
                Some(path) => (path, "an array, where an object belongs".to_owned()),
                None => match serde_path_to_error::deserialize::<_, Self>(&json) {
                    Ok(raw) => return Some((raw, unread)),
                    Err(error) => {
                        let nowhere = error.path().iter().len() == 0;
                        let path = if nowhere { String::new() } else { format!(".{}", error.path()) };
                        (format!("manifest{path}"), error.inner().to_string())
                    }
                },
            };
            violations.add(Code::Manifest, format!("{path}: {text} (docs/abi.md, Manifest)"));
            let member = path.split('.').nth(1)?.split('[').next()?.to_owned();
            json.as_object_mut()?.remove(&member)?;
            unread.push(member);
        }
    }

    fn check(self, json: Value, unread: &[String], violations: &mut Violations) -> Option<Manifest> {
        let mut wrong = |text: String| violations.push(Violation::new(Code::Manifest, text));
        for (member, missing) in
            [("abi", self.abi.is_none()), ("name", self.name.is_none()), ("version", self.version.is_none())]
        {
            if missing && !unread.iter().any(|unread| unread == member) {
                wrong(format!("manifest: missing field `{member}` (docs/abi.md, Manifest)"));
            }
        }
        if let Some(version) = self.abi.filter(|version| *version != abi::VERSION) {
            wrong(format!("manifest.abi: {version} is not supported, this host speaks ABI {}", abi::VERSION));
        }
        // A string that is too long is a violation already.
        let name = self.name.filter(|name| name.len() <= MAX_NAME_BYTES);
        let name =
            name.and_then(|name| RuleName::parse(&name).map_err(|error| wrong(format!("manifest.name: {error}"))).ok());
        let version = self.version.and_then(|text| check_version("manifest.version", &text, &mut wrong));
        check_record_size("manifest.state.size", self.state.size, abi::MAX_STATE_BYTES, &mut wrong);
        check_evidence(&self.evidence, &mut wrong);
        let migrates = check_migrates(&self.migrates, version.as_ref(), &mut wrong);
        let params = ParamsSpec::check(self.params, &mut wrong);
        Some(Manifest {
            name: name?,
            version: version?,
            description: self.description,
            author: self.author,
            params: params?,
            state_bytes: self.state.size,
            evidence: self.evidence.into_iter().map(Arc::from).collect(),
            sleeps: self.sleeps,
            migrates,
            json,
        })
    }
}

/// Returns the path of an array in place of an object, which Serde would accept as the object's members in order.
fn array_for_object(json: &Value) -> Option<String> {
    let objects = [("manifest", json), ("manifest.params", &json["params"]), ("manifest.state", &json["state"])];
    let fields = json["params"]["layout"].as_array().into_iter().flatten().enumerate();
    let fields = fields.map(|(i, field)| (format!("manifest.params.layout[{i}]"), field));
    let mut all = objects.into_iter().map(|(path, value)| (path.to_owned(), value)).chain(fields);
    all.find(|(_, value)| value.is_array()).map(|(path, _)| path)
}

/// Checks the size of a packed record: bounded, and a multiple of its alignment so that records can be adjacent.
pub(crate) fn check_record_size(path: &str, bytes: usize, max_bytes: usize, wrong: &mut impl FnMut(String)) {
    if bytes > max_bytes {
        wrong(format!("{path}: {bytes} bytes, more than the {max_bytes} allowed"));
    } else if !bytes.is_multiple_of(abi::RECORD_ALIGN) {
        wrong(format!("{path}: {bytes} is not a multiple of {}; round it up", abi::RECORD_ALIGN));
    }
}

fn check_evidence(names: &[String], wrong: &mut impl FnMut(String)) {
    if names.len() > abi::MAX_EVIDENCE {
        wrong(format!("manifest.evidence: {} names, more than the {} allowed", names.len(), abi::MAX_EVIDENCE));
    }
    for (i, name) in names.iter().enumerate().filter(|(_, name)| name.len() <= MAX_NAME_BYTES) {
        if !is_member_name(name) {
            wrong(format!("manifest.evidence[{i}]: {name:?} is not a name of letters, digits and underscores"));
        } else if names[..i].contains(name) {
            wrong(format!("manifest.evidence[{i}]: {name:?} is named twice"));
        }
    }
}

fn check_migrates(texts: &[String], own: Option<&Version>, wrong: &mut impl FnMut(String)) -> Vec<Version> {
    if texts.len() > MAX_MIGRATES {
        wrong(format!("manifest.migrates: {} versions, more than the {MAX_MIGRATES} allowed", texts.len()));
    }
    let mut versions = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        let path = format!("manifest.migrates[{i}]");
        let Some(version) = check_version(&path, text, wrong) else { continue };
        if versions.contains(&version) {
            wrong(format!("{path}: {text:?} is named twice"));
        } else if own.is_some_and(|own| version >= *own) {
            wrong(format!("{path}: {text:?} is not older than the rule's own version"));
        } else {
            versions.push(version);
        }
    }
    versions
}

fn check_version(path: &str, text: &str, wrong: &mut impl FnMut(String)) -> Option<Version> {
    match parse_version(text) {
        Ok(version) => Some(version),
        // A string that is too long is a violation already.
        Err(VersionError::TooLong { .. }) => None,
        Err(error) => {
            wrong(format!("{path}: {error}"));
            None
        }
    }
}

/// Returns whether a text can be the name of a param or an evidence number.
pub(crate) fn is_member_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
