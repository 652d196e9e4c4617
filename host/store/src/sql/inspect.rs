//! What tests ask of the tables themselves.

use std::collections::BTreeSet;

use super::Backend;

/// Tenant, rule digest, and how many of its bindings live.
type Counters = Vec<(String, Vec<u8>, i64)>;

impl Backend {
    /// The tables, and the columns of each.
    pub(crate) async fn columns(&self) -> BTreeSet<(String, String)> {
        sqlx::query_as(super::COLUMNS).fetch_all(self.readers()).await.unwrap().into_iter().collect()
    }

    /// The counters of live bindings as triggers keep them, as a count of all bindings has them, and that of the only
    /// tenant.
    pub(crate) async fn live_counters(&self) -> (Counters, Counters, i64) {
        let kept = sqlx::query_as(
            "SELECT tenant, rule_digest, live FROM live_by_rule WHERE live <> 0 ORDER BY tenant, rule_digest",
        );
        let counted = sqlx::query_as(
            "SELECT a.tenant, a.rule_digest, count(*) FROM bindings b JOIN alerts a ON a.id = b.alert_id
             WHERE b.status IN ('active', 'quarantined') GROUP BY a.tenant, a.rule_digest ORDER BY a.tenant, a.rule_digest",
        );
        let of_tenant: Option<i64> =
            sqlx::query_scalar("SELECT live FROM live_by_tenant").fetch_optional(self.readers()).await.unwrap();
        let kept = kept.fetch_all(self.readers()).await.unwrap();
        (kept, counted.fetch_all(self.readers()).await.unwrap(), of_tenant.unwrap_or(0))
    }
}
