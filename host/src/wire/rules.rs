//! Versions of rules.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// A version of a rule.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RuleVersion)]
pub(crate) struct RuleBody {
    pub(crate) name: String,
    #[schema(example = "1.0.0")]
    pub(crate) version: String,
    /// SHA-256 of the module: `sha256:` and 64 hexadecimal digits.
    pub(crate) digest: String,
    /// What the module says of itself.
    #[schema(value_type = Object)]
    pub(crate) manifest: Box<RawValue>,
    #[schema(format = DateTime)]
    pub(crate) created_at: String,
    /// Set once the version was found to be impure: it is no longer evaluated, and no alert is created on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) quarantine: Option<RuleQuarantineBody>,
}

/// Why a rule version is no longer evaluated.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RuleQuarantine)]
pub(crate) struct RuleQuarantineBody {
    pub(crate) reason: String,
    #[schema(format = DateTime)]
    pub(crate) at: String,
}

/// The newest version of a rule, and what other versions there are.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Rule)]
pub(crate) struct RuleWithVersionsBody {
    #[serde(flatten)]
    pub(crate) newest: RuleBody,
    /// All versions, oldest first.
    pub(crate) versions: Vec<VersionBody>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RuleVersionName)]
pub(crate) struct VersionBody {
    pub(crate) version: String,
    pub(crate) digest: String,
    #[schema(format = DateTime)]
    pub(crate) created_at: String,
    /// Whether it was found to be impure.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub(crate) quarantined: bool,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RulesPage)]
pub(crate) struct RulesBody {
    pub(crate) rules: Vec<RuleBody>,
    /// What to give as `after` for the next page; null on the last.
    pub(crate) next: Option<String>,
}
