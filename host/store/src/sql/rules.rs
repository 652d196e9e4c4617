//! Rule versions.

use std::collections::BTreeMap;

use tocsin_engine::domain::{Digest, RuleName, RuleVersion, Tenant, Version};

use super::{Backend, rows};
use crate::{StoreError, StoredRule};

impl Backend {
    pub(crate) async fn put_rule(
        &self,
        tenant: &Tenant,
        rule: &RuleVersion,
        module: &[u8],
    ) -> Result<StoredRule, StoreError> {
        let reference = &rule.reference;
        let mut transaction = self.write().await?;
        let inserted = sqlx::query(
            // Bytes that were found to be impure are so for everybody who uploads them.
            "INSERT INTO rule_versions (tenant, name, version, digest, manifest, module, created_at_ms, record_bytes,
                                        quarantine_reason, quarantined_at_ms, quarantine_revision)
             SELECT $1, $2, $3, $4, $5, $6, $7, $8, q.quarantine_reason, q.quarantined_at_ms, q.quarantine_revision
             FROM (SELECT 1) AS one LEFT JOIN (SELECT * FROM rule_versions
                                        WHERE digest = $4 AND quarantine_revision IS NOT NULL LIMIT 1) q ON true
             WHERE true ON CONFLICT DO NOTHING",
        )
        .bind(tenant.as_str())
        .bind(reference.name.as_str())
        .bind(reference.version.to_string())
        .bind(&reference.digest.0[..])
        .bind(&rule.manifest)
        .bind(module)
        .bind(rule.created_at_ms)
        .bind(record_bytes(&rule.manifest))
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        transaction.commit().await?;
        self.make_durable().await?;
        let versions = self.rule_versions(tenant, &reference.name).await?;
        let existing = versions.into_iter().find(|other| other.reference.version == reference.version);
        let existing =
            existing.ok_or_else(|| rows::damaged("rule version", "it vanished, though versions never do"))?;
        Ok(match inserted {
            1 => StoredRule::Created(existing),
            _ if existing.reference.digest == reference.digest => StoredRule::Existing(existing),
            _ => StoredRule::Conflict(existing),
        })
    }

    pub(crate) async fn rule_versions(&self, tenant: &Tenant, name: &RuleName) -> Result<Vec<RuleVersion>, StoreError> {
        let rows = sqlx::query(
            "SELECT name AS rule_name, version AS rule_version, digest AS rule_digest, manifest, created_at_ms,
                    quarantine_reason, quarantined_at_ms
             FROM rule_versions WHERE tenant = $1 AND name = $2",
        )
        .bind(tenant.as_str())
        .bind(name.as_str())
        .fetch_all(self.readers())
        .await?;
        let mut versions = rows.iter().map(rows::rule_version).collect::<Result<Vec<_>, _>>()?;
        versions.sort_by(|a, b| a.reference.version.cmp(&b.reference.version));
        Ok(versions)
    }

    /// Semantic versions do not sort as text: the newest is chosen here.
    pub(crate) async fn rules(&self, tenant: &Tenant, after: &str, limit: u32) -> Result<Vec<RuleVersion>, StoreError> {
        let rows = sqlx::query(
            "SELECT name AS rule_name, version AS rule_version, digest AS rule_digest, manifest, created_at_ms,
                    quarantine_reason, quarantined_at_ms
             FROM rule_versions WHERE tenant = $1 AND name IN
               (SELECT DISTINCT name FROM rule_versions WHERE tenant = $2 AND name > $3 ORDER BY name LIMIT $4)",
        )
        .bind(tenant.as_str())
        .bind(tenant.as_str())
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await?;
        let mut versions: BTreeMap<RuleName, Vec<RuleVersion>> = BTreeMap::new();
        for row in &rows {
            let rule = rows::rule_version(row)?;
            versions.entry(rule.reference.name.clone()).or_default().push(rule);
        }
        Ok(versions.into_values().filter_map(RuleVersion::newest).collect())
    }

    pub(crate) async fn module(
        &self,
        tenant: &Tenant,
        name: &RuleName,
        version: &Version,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(sqlx::query_scalar("SELECT module FROM rule_versions WHERE tenant = $1 AND name = $2 AND version = $3")
            .bind(tenant.as_str())
            .bind(name.as_str())
            .bind(version.to_string())
            .fetch_optional(self.readers())
            .await?)
    }

    pub(crate) async fn module_by_digest(&self, digest: Digest) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(sqlx::query_scalar("SELECT module FROM rule_versions WHERE digest = $1 LIMIT 1")
            .bind(&digest.0[..])
            .fetch_optional(self.readers())
            .await?)
    }
}

/// Bytes of params and state that each binding of a rule has, by its manifest.
fn record_bytes(manifest: &str) -> i64 {
    let manifest: serde_json::Value = serde_json::from_str(manifest).unwrap_or_default();
    let bytes = |record: &str| manifest[record]["size"].as_i64().unwrap_or(0);
    bytes("params") + bytes("state")
}
