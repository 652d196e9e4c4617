//! Errors: RFC 9457, with two members more.

use std::borrow::Cow;

use serde::Serialize;
use utoipa::ToSchema;

/// The body of an error.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody {
    /// What kind of error it is.
    #[serde(rename = "type")]
    #[schema(example = "urn:tocsin:problem:invalid-request")]
    pub(crate) kind: String,
    /// The kind, for people.
    pub(crate) title: Cow<'static, str>,
    /// The HTTP status.
    pub(crate) status: u16,
    /// What is wrong, where, and what to do.
    pub(crate) detail: String,
    /// The same text as `detail`: older clients read it.
    pub(crate) error: String,
    /// Everything that is wrong, for invalid requests and rejected modules.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(crate) violations: Vec<ViolationBody>,
}

/// One thing that is wrong.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Violation)]
pub(crate) enum ViolationBody {
    /// With a request.
    Field {
        /// The member, parameter or header, such as `symbols[1]`.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// With a module.
    Module {
        /// `format`, `limit`, `import`, `export`, `feature`, `manifest`, `compile_limit`, `compile_failed` or
        /// `trial_fault`.
        code: Cow<'static, str>,
        /// What is wrong, where, and what to do.
        message: String,
    },
}
