//! Faults, and the bundles that reproduce them.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// The version of the bundle's format: raised when a reader of the one before could not read it.
pub(crate) const BUNDLE_FORMAT: u32 = 1;

/// What a rule did on a tick instead of answering.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Fault)]
pub(crate) struct FaultBody {
    /// The same however often its tick is replayed.
    pub(crate) id: String,
    pub(crate) alert_id: i64,
    /// `out_of_fuel`, `trap`, `stray_write`, `bad_code`, `bad_evidence` or `overslept`.
    pub(crate) kind: Cow<'static, str>,
    /// What went wrong, for people.
    pub(crate) fault: String,
    /// Whether the alert was quarantined for it on this symbol.
    pub(crate) quarantined: bool,
    pub(crate) symbol: String,
    pub(crate) price: f64,
    pub(crate) volume: f64,
    /// The tick's event time, Unix milliseconds.
    pub(crate) timestamp: i64,
    /// Where the tick is in the bus.
    pub(crate) partition: u32,
    /// See `partition`.
    pub(crate) offset: u64,
    /// The rule's name.
    pub(crate) rule: String,
    /// The rule's version.
    pub(crate) version: String,
    /// The rule module's digest.
    pub(crate) digest: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FaultsPage)]
pub(crate) struct FaultsBody {
    pub(crate) faults: Vec<FaultBody>,
    /// What to give as `after` for the next page; null on the last.
    pub(crate) next: Option<String>,
}

/// All that decided a fault: `tocsin rule reproduce` evaluates it again without a server.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FaultBundle)]
pub(crate) struct BundleBody {
    /// The version of this format.
    pub(crate) format: u32,
    pub(crate) rule: BundleRuleBody,
    /// The packed params record, hexadecimal.
    pub(crate) params: String,
    /// The alert's params, defaults filled in.
    #[schema(value_type = Object)]
    pub(crate) params_json: Box<RawValue>,
    /// The state record before the evaluation, hexadecimal.
    pub(crate) state: String,
    pub(crate) tick: BundleTickBody,
    /// Where the tick is in the bus.
    pub(crate) partition: u32,
    /// See `partition`.
    pub(crate) offset: u64,
    /// The fuel that the evaluation could burn.
    pub(crate) fuel: u64,
    pub(crate) fault: BundleFaultBody,
    pub(crate) alert_id: i64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FaultBundleRule)]
pub(crate) struct BundleRuleBody {
    pub(crate) name: String,
    pub(crate) version: String,
    /// SHA-256 of the module: `sha256:` and 64 hexadecimal digits.
    pub(crate) digest: String,
    /// The module, base64.
    pub(crate) module: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FaultBundleTick)]
pub(crate) struct BundleTickBody {
    pub(crate) symbol: String,
    pub(crate) price: f64,
    pub(crate) volume: f64,
    /// Event time, Unix milliseconds.
    pub(crate) timestamp: i64,
    /// A set: bit n stands for condition n.
    pub(crate) conditions: u64,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FaultBundleFault)]
pub(crate) struct BundleFaultBody {
    /// As in the list of faults.
    pub(crate) kind: Cow<'static, str>,
    /// What is to be known beside the kind: the trap, the code, the evidence number's place.
    pub(crate) detail: String,
    /// What went wrong, for people.
    pub(crate) text: String,
}
