//! Promotions.

use serde::Serialize;
use utoipa::ToSchema;

/// What has moved.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Promoted)]
pub(crate) struct PromotedBody {
    pub(crate) name: String,
    /// The version that alerts are on now.
    pub(crate) version: String,
    /// Its module's digest.
    pub(crate) digest: String,
    /// Alerts that moved: those with a live binding.
    pub(crate) alerts: u64,
    /// Their live bindings.
    pub(crate) bindings: u64,
}

/// What a cancelled promotion leaves.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CancelledPromotion)]
pub(crate) struct CancelledBody {
    pub(crate) name: String,
    /// The version that alerts were to move to.
    pub(crate) version: String,
    /// Bindings that were held for the promotion, and are evaluated again from where they were.
    pub(crate) given_back: u64,
}
