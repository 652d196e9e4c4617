//! Bodies of the REST API: what the server sends, deliveries carry and the command line reads. Each is declared once, and is
//! its own schema, writer and reader; a reader passes over members that it does not know.

mod alerts;
mod faults;
mod firings;
mod logs;
mod problems;
mod promotions;
mod rules;

use serde::de::DeserializeOwned;

pub(crate) use self::alerts::{AlertBody, AlertsBody, BindingBody, LifecycleBody, RepeatBody};
pub(crate) use self::faults::{
    BUNDLE_FORMAT, BundleBody, BundleFaultBody, BundleRuleBody, BundleTickBody, FaultBody, FaultsBody,
};
pub(crate) use self::firings::{FiringBody, FiringsBody};
pub(crate) use self::logs::{AcceptedBody, LogBody, LogReportBody};
pub(crate) use self::problems::{ProblemBody, ViolationBody};
pub(crate) use self::promotions::{CancelledBody, PromotedBody};
pub(crate) use self::rules::{RuleBody, RuleQuarantineBody, RuleWithVersionsBody, RulesBody, VersionBody};

pub use self::firings::firing_json;

/// A page of a list.
pub(crate) trait Page: DeserializeOwned {
    /// The elements.
    type Item;

    /// Returns the elements, and what to give as `after` for the next page; None on the last.
    fn into_parts(self) -> (Vec<Self::Item>, Option<String>);
}
