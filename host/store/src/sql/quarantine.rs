//! Quarantine: releasing bindings from it, and rule versions that are put into it for ever.

use sqlx::{QueryBuilder, Row as _};
use tocsin_engine::domain::{AlertId, Digest, RuleQuarantine, RuleRef, Symbol, Tenant};

use super::alerts::fetch_alert;
use super::{Backend, DbConnection, Tx, rows};
use crate::newest::Announcement;
use crate::{StoreError, Unquarantined};

impl Backend {
    pub(crate) async fn unquarantine(
        &self,
        tenant: &Tenant,
        id: AlertId,
        symbol: Option<&Symbol>,
    ) -> Result<Unquarantined, StoreError> {
        let mut transaction = self.write().await?;
        let Some(alert) = fetch_alert(&mut transaction, tenant, id).await? else { return Ok(Unquarantined::NoAlert) };
        if let Some(quarantine) = rule_quarantine(&mut transaction, tenant, &alert.rule).await? {
            return Ok(Unquarantined::RuleQuarantined(quarantine));
        }
        let on_hold =
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM bindings WHERE alert_id = $1 AND handoff <> 'none')");
        if on_hold.bind(id.0).fetch_one(&mut *transaction).await? {
            return Ok(Unquarantined::BeingPromoted);
        }
        let revision = Self::next_revision(&mut transaction).await?;
        let mut update =
            QueryBuilder::new("UPDATE bindings SET status = 'active', reason = '', unquarantine_due = TRUE");
        update.push(", revision = ").push_bind(revision).push(" WHERE alert_id = ").push_bind(id.0);
        update.push(" AND status = 'quarantined'");
        if let Some(symbol) = symbol {
            update.push(" AND symbol = ").push_bind(symbol.as_str());
        }
        if update.build().execute(&mut *transaction).await?.rows_affected() == 0 {
            return Ok(Unquarantined::NothingQuarantined(alert));
        }
        let alert = fetch_alert(&mut transaction, tenant, id).await?;
        self.commit_durable(transaction, Announcement::revision(revision)).await?;
        Ok(alert.map_or(Unquarantined::NoAlert, Unquarantined::Unquarantined))
    }

    pub(crate) async fn quarantine_rule(&self, rule: Digest, reason: &str, at_ms: i64) -> Result<(), StoreError> {
        let mut transaction = self.begin_commit(true).await?;
        let revision = quarantine_rule(&mut transaction, rule, reason, at_ms).await?;
        self.commit_replayable(transaction, Announcement { revision, ..Announcement::default() }).await
    }

    pub(crate) async fn impure_rules_in_use(&self, limit: u32) -> Result<Vec<(RuleRef, u64)>, StoreError> {
        let rows = sqlx::query(
            "SELECT r.name AS rule_name, r.version AS rule_version, r.digest AS rule_digest, l.live
             FROM rule_versions r JOIN live_by_rule l ON (l.tenant, l.rule_digest) = (r.tenant, r.digest)
             WHERE r.quarantine_revision IS NOT NULL AND l.live > 0 ORDER BY r.quarantine_revision LIMIT $1",
        )
        .bind(i64::from(limit))
        .fetch_all(self.status())
        .await?;
        rows.iter().map(|row| Ok((rows::rule_ref(row)?, row.try_get::<i64, _>("live")? as u64))).collect()
    }
}

/// Whether and why a rule version is no longer evaluated.
pub(super) async fn rule_quarantine(
    connection: &mut DbConnection,
    tenant: &Tenant,
    rule: &RuleRef,
) -> Result<Option<RuleQuarantine>, StoreError> {
    let row = sqlx::query(
        "SELECT quarantine_reason, quarantined_at_ms FROM rule_versions WHERE tenant = $1 AND name = $2 AND version = $3",
    )
    .bind(tenant.as_str())
    .bind(rule.name.as_str())
    .bind(rule.version.to_string())
    .fetch_optional(connection)
    .await?;
    row.map_or(Ok(None), |row| rows::rule_quarantine(&row))
}

/// Puts a rule version into quarantine, whoever uploaded its module, with all its live bindings. Returns the revision
/// by which evaluators hear of it; None if it is there already.
pub(super) async fn quarantine_rule(
    transaction: &mut Tx,
    rule: Digest,
    reason: &str,
    at_ms: i64,
) -> Result<Option<i64>, StoreError> {
    let quarantined = sqlx::query(
        "UPDATE rule_versions SET quarantine_reason = $1, quarantined_at_ms = $2,
                                  quarantine_revision = (SELECT newest + 1 FROM revisions)
         WHERE digest = $3 AND quarantine_revision IS NULL",
    )
    .bind(reason)
    .bind(at_ms)
    .bind(&rule.0[..])
    .execute(&mut **transaction)
    .await?
    .rows_affected();
    if quarantined == 0 {
        return Ok(None);
    }
    sqlx::query(
        "UPDATE bindings SET status = 'quarantined', reason = $1, unquarantine_due = FALSE
         WHERE status IN ('active', 'quarantined') AND alert_id IN (SELECT id FROM alerts WHERE rule_digest = $2)",
    )
    .bind(format!("its rule is impure: {reason}"))
    .bind(&rule.0[..])
    .execute(&mut **transaction)
    .await?;
    Backend::next_revision(transaction).await.map(Some)
}
