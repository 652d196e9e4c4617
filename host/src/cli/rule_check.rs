//! `tocsin rule check`: what the server would say of a module, without a server.

use serde_json::{Value, json};
use tocsin_engine::cost::Metering;
use tocsin_engine::domain::{Digest, RuleRef};
use tocsin_engine::inspect::{Inspection, inspect};
use tocsin_engine::limits::{FUEL_PER_EVALUATION, MAX_GUEST_PAGES, MAX_MODULE_BYTES};
use tocsin_engine::manifest::Manifest;
use tocsin_engine::violation::Violation;
use tocsin_engine::{Engine, LoadError};

use super::failure::Failure;
use super::rule_view;
use super::table::pairs;
use crate::rules::compiler::{check_size, try_module};

/// A module that is a rule.
#[derive(Debug)]
pub(super) struct Report {
    rule: RuleRef,
    inspection: Inspection,
    module_bytes: usize,
}

/// Validates and compiles a module, and holds its trial run.
pub(super) fn check(module: &[u8]) -> Result<Report, Failure> {
    check_size(module).map_err(|rejection| refused(&rejection.violations))?;
    let inspection = inspect(module).map_err(|rejection| refused(&rejection.violations))?;
    let engine = Engine::new().map_err(|error| Failure::Local(error.to_string()))?;
    try_module(&engine, module).map_err(|violations| refused(&violations))?;
    let Manifest { name, version, .. } = inspection.manifest.clone();
    Ok(Report { rule: RuleRef { name, version, digest: Digest::of(module) }, inspection, module_bytes: module.len() })
}

/// Why a module is no rule.
pub(super) fn not_loaded(error: LoadError) -> Failure {
    match error {
        LoadError::Rejected(rejection) => refused(&rejection.violations),
        LoadError::Compile(_) => Failure::Local(error.to_string()),
    }
}

/// A refusal, with all of its reasons.
pub(super) fn refused(violations: &[Violation]) -> Failure {
    let violations: Vec<Value> = violations
        .iter()
        .map(|violation| json!({ "code": violation.code.as_str(), "message": violation.message }))
        .collect();
    let title = "the module is not a rule";
    Failure::Problem(json!({ "title": title, "error": title, "violations": violations }))
}

impl Report {
    pub(super) fn json(&self) -> Value {
        let metering = match self.inspection.metering {
            Metering::Certified { worst_fuel } => json!({ "kind": "certified", "worst_fuel": worst_fuel }),
            Metering::Metered => json!({ "kind": "metered", "fuel_per_evaluation": FUEL_PER_EVALUATION }),
        };
        json!({
            "name": self.rule.name.as_str(),
            "version": self.rule.version.to_string(),
            "digest": self.rule.digest.to_string(),
            "manifest": self.inspection.manifest.json,
            "metering": metering,
            "memory_pages": self.inspection.guest_pages,
            "max_memory_pages": MAX_GUEST_PAGES,
            "module_bytes": self.module_bytes,
            "max_module_bytes": MAX_MODULE_BYTES,
        })
    }

    pub(super) fn text(&self) -> String {
        let cost = match self.inspection.metering {
            Metering::Certified { worst_fuel } => {
                format!("certified: an evaluation burns at most {worst_fuel} of {FUEL_PER_EVALUATION} fuel")
            }
            Metering::Metered => format!("metered: an evaluation may burn {FUEL_PER_EVALUATION} fuel"),
        };
        let limits = pairs(&[
            ("cost", cost),
            ("memory", format!("{} of at most {MAX_GUEST_PAGES} pages of 64 KiB", self.inspection.guest_pages)),
            ("module", format!("{} of at most {MAX_MODULE_BYTES} bytes", self.module_bytes)),
        ]);
        format!("{}\n{limits}", rule_view::show(&self.json()))
    }
}
