//! Faults: recording them within bounds, and reading them.

use sqlx::{Row, Sqlite, Transaction};
use tocsin_engine::FaultBundle;
use tocsin_engine::domain::{AlertId, FaultId, Tenant};

use super::{SqliteStore, rows};
use crate::store::faults::{MAX_FAULTS, MAX_FAULTS_PER_BINDING};
use crate::store::{FaultRecord, NewFault, StoreError, StoredBundle};

/// All of a fault but its records, which are large.
const SUMMARY: &str = "SELECT seq, id, alert_id, symbol, price, volume, time_ms, conditions, \"partition\", \"offset\",
                              rule_name, rule_version, rule_digest, kind, detail, quarantined FROM faults";

impl SqliteStore {
    pub(in crate::store) async fn faults(
        &self,
        tenant: &Tenant,
        alert: AlertId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, FaultRecord)>, StoreError> {
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "{SUMMARY} WHERE tenant = ? AND alert_id = ? AND seq > ? ORDER BY seq LIMIT ?"
        )))
        .bind(tenant.as_str())
        .bind(alert.0)
        .bind(after as i64)
        .bind(limit)
        .fetch_all(&self.0.readers)
        .await?
        .iter()
        .map(rows::fault)
        .collect()
    }

    pub(in crate::store) async fn fault_bundle(
        &self,
        tenant: &Tenant,
        id: FaultId,
    ) -> Result<Option<StoredBundle>, StoreError> {
        let row = sqlx::query(
            "SELECT f.*, coalesce(f.params, a.params) AS params_json, r.module FROM faults f JOIN alerts a ON a.id = f.alert_id
             JOIN rule_versions r ON (r.tenant, r.name, r.version) = (f.tenant, f.rule_name, f.rule_version)
             WHERE f.tenant = ? AND f.id = ?",
        )
        .bind(tenant.as_str())
        .bind(&id.as_bytes()[..])
        .fetch_optional(&self.0.readers)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let (_, record) = rows::fault(&row)?;
        Ok(Some(StoredBundle {
            alert: record.alert,
            bundle: FaultBundle {
                rule: record.rule,
                tick: record.tick,
                position: record.position,
                params: row.try_get("packed_params")?,
                state: row.try_get("state")?,
                fuel: row.try_get::<i64, _>("fuel")? as u64,
                fault: record.fault,
            },
            module: row.try_get("module")?,
            params_json: row.try_get("params_json")?,
        }))
    }
}

/// Records faults that are not recorded yet, and forgets those that are too many.
pub(super) async fn insert_faults(
    transaction: &mut Transaction<'static, Sqlite>,
    faults: &[NewFault],
) -> Result<(), StoreError> {
    for fault in faults {
        if insert_fault(transaction, fault).await? {
            // By offset, so that a replay that makes an old one again displaces none.
            sqlx::query(
                "DELETE FROM faults WHERE binding_id = ? AND \"offset\" <=
                   (SELECT \"offset\" FROM faults WHERE binding_id = ? ORDER BY \"offset\" DESC LIMIT 1 OFFSET ?)",
            )
            .bind(fault.binding.0)
            .bind(fault.binding.0)
            .bind(MAX_FAULTS_PER_BINDING)
            .execute(&mut **transaction)
            .await?;
        }
    }
    if !faults.is_empty() {
        sqlx::query("DELETE FROM faults WHERE seq <= (SELECT seq FROM faults ORDER BY seq DESC LIMIT 1 OFFSET ?)")
            .bind(MAX_FAULTS)
            .execute(&mut **transaction)
            .await?;
    }
    Ok(())
}

/// False if it is recorded already, or its alert was deleted.
async fn insert_fault(transaction: &mut Transaction<'static, Sqlite>, fault: &NewFault) -> Result<bool, StoreError> {
    let NewFault { alert, binding, quarantined, bundle } = fault;
    let inserted = sqlx::query(
        "INSERT INTO faults (id, tenant, alert_id, binding_id, symbol, price, volume, time_ms, conditions,
                             \"partition\", \"offset\", rule_name, rule_version, rule_digest, packed_params, state,
                             fuel, kind, detail, quarantined)
         SELECT ?, tenant, id, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?
         FROM alerts WHERE id = ? AND deleted_at_ms IS NULL ON CONFLICT (id) DO NOTHING",
    )
    .bind(&FaultId::derive(*binding, bundle.position).as_bytes()[..])
    .bind(binding.0)
    .bind(bundle.tick.symbol.as_str())
    .bind(bundle.tick.price)
    .bind(bundle.tick.volume)
    .bind(bundle.tick.time_ms)
    .bind(bundle.tick.conditions.0 as i64)
    .bind(bundle.position.partition)
    .bind(bundle.position.offset as i64)
    .bind(bundle.rule.name.as_str())
    .bind(bundle.rule.version.to_string())
    .bind(&bundle.rule.digest.0[..])
    .bind(&bundle.params)
    .bind(&bundle.state)
    .bind(bundle.fuel as i64)
    .bind(bundle.fault.kind())
    .bind(bundle.fault.detail())
    .bind(quarantined)
    .bind(alert.0)
    .execute(&mut **transaction)
    .await?
    .rows_affected();
    Ok(inserted == 1)
}
