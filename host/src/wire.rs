//! Bodies of the REST API that others share: deliveries carry firings, and `tocsin rule reproduce` knows the format of bundles.
//! Each is its own schema and writer.

mod alerts;
mod faults;
mod firings;
mod logs;
mod problems;
mod promotions;
mod rules;

pub(crate) use self::alerts::{AlertBody, AlertsBody, BindingBody, LifecycleBody, RepeatBody};
pub(crate) use self::faults::{
    BUNDLE_FORMAT, BundleBody, BundleFaultBody, BundleRuleBody, BundleTickBody, FaultBody, FaultsBody,
};
pub(crate) use self::firings::{FiringBody, FiringsBody, firing_json};
pub(crate) use self::logs::{AcceptedBody, LogBody, LogReportBody};
pub(crate) use self::problems::{ProblemBody, ViolationBody};
pub(crate) use self::promotions::{CancelledBody, PromotedBody};
pub(crate) use self::rules::{RuleBody, RuleQuarantineBody, RuleWithVersionsBody, RulesBody, VersionBody};
