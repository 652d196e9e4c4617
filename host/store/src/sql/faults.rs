//! Faults: recording them within bounds, and reading them.

use std::collections::BTreeSet;

use sqlx::{QueryBuilder, Row as _};
use tocsin_engine::FaultBundle;
use tocsin_engine::domain::{AlertId, FaultId, Tenant};

use super::commit::Salts;
use super::{Backend, Db, ROWS_AT_ONCE, Tx, rows};
use crate::faults::{MAX_FAULTS, MAX_FAULTS_PER_BINDING, MAX_FAULTS_PER_USER};
use crate::{FaultRecord, NewFault, StoreError, StoredBundle};

/// All of a fault but its records, which are large.
const SUMMARY: &str = "SELECT seq, id, alert_id, symbol, price, volume, time_ms, conditions, \"partition\", \"offset\",
                              rule_name, rule_version, rule_digest, kind, detail, quarantined FROM faults";

impl Backend {
    pub(crate) async fn faults(
        &self,
        tenant: &Tenant,
        alert: AlertId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, FaultRecord)>, StoreError> {
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "{SUMMARY} WHERE tenant = $1 AND alert_id = $2 AND seq > $3 ORDER BY seq LIMIT $4"
        )))
        .bind(tenant.as_str())
        .bind(alert.0)
        .bind(after as i64)
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await?
        .iter()
        .map(rows::fault)
        .collect()
    }

    pub(crate) async fn fault_bundle(&self, tenant: &Tenant, id: FaultId) -> Result<Option<StoredBundle>, StoreError> {
        let row = sqlx::query(
            "SELECT f.*, coalesce(f.params, a.params) AS params_json, r.module FROM faults f JOIN alerts a ON a.id = f.alert_id
             JOIN rule_versions r ON (r.tenant, r.name, r.version) = (f.tenant, f.rule_name, f.rule_version)
             WHERE f.tenant = $1 AND f.id = $2",
        )
        .bind(tenant.as_str())
        .bind(&id.as_bytes()[..])
        .fetch_optional(self.readers())
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

/// Records faults that are not recorded yet and whose alert was not deleted, and forgets those that are too many.
pub(super) async fn insert_faults(transaction: &mut Tx, faults: &[NewFault], salts: &Salts) -> Result<(), StoreError> {
    for faults in faults.chunks(ROWS_AT_ONCE) {
        let mut insert = QueryBuilder::<Db>::new(
            "INSERT INTO faults (id, tenant, user_id, alert_id, binding_id, symbol, price, volume, time_ms, conditions,
                                 \"partition\", \"offset\", rule_name, rule_version, rule_digest, packed_params, state,
                                 fuel, kind, detail, quarantined)
             SELECT v.column2, a.tenant, a.user_id, a.id, v.column4, v.column5, v.column6, v.column7, v.column8, v.column9,
                    v.column10, v.column11, v.column12, v.column13, v.column14, v.column15, v.column16, v.column17,
                    v.column18, v.column19, v.column20 FROM (",
        );
        insert.push_values((0i64..).zip(faults), |mut row, (ordinal, fault)| {
            let NewFault { alert, binding, quarantined, bundle } = fault;
            let log = salts.of_partition(bundle.position.partition);
            let id = FaultId::derive(*binding, bundle.position).in_log(log);
            row.push_bind(ordinal).push_bind(id.as_bytes().to_vec());
            row.push_bind(alert.0).push_bind(binding.0);
            rows::push_event(&mut row, &bundle.tick, bundle.position, &bundle.rule);
            row.push_bind(&bundle.params).push_bind(&bundle.state).push_bind(bundle.fuel as i64);
            row.push_bind(bundle.fault.kind()).push_bind(bundle.fault.detail()).push_bind(*quarantined);
        });
        insert.push(
            ") AS v JOIN alerts a ON a.id = v.column3 WHERE a.deleted_at_ms IS NULL ORDER BY v.column1
             ON CONFLICT (id) DO NOTHING",
        );
        insert.build().execute(&mut **transaction).await?;
        forget_oldest(transaction, faults).await?;
    }
    Ok(())
}

async fn forget_oldest(transaction: &mut Tx, recorded: &[NewFault]) -> Result<(), StoreError> {
    // By offset, so that a replay that makes an old one again displaces none.
    let mut of_binding = QueryBuilder::<Db>::new(
        "DELETE FROM faults WHERE seq IN (SELECT seq FROM
           (SELECT seq, row_number() OVER (PARTITION BY binding_id ORDER BY \"offset\" DESC) AS nth
            FROM faults WHERE binding_id IN (",
    );
    let bindings: BTreeSet<i64> = recorded.iter().map(|fault| fault.binding.0).collect();
    let mut list = of_binding.separated(", ");
    bindings.into_iter().for_each(|binding| _ = list.push_bind(binding));
    of_binding.push(")) AS newest WHERE nth > ").push_bind(i64::from(MAX_FAULTS_PER_BINDING)).push(")");
    of_binding.build().execute(&mut **transaction).await?;
    for user in users(transaction, recorded).await? {
        sqlx::query(
            "DELETE FROM faults WHERE user_id = $1
             AND seq <= (SELECT seq FROM faults WHERE user_id = $1 ORDER BY seq DESC LIMIT 1 OFFSET $2)",
        )
        .bind(user)
        .bind(i64::from(MAX_FAULTS_PER_USER))
        .execute(&mut **transaction)
        .await?;
    }
    sqlx::query("DELETE FROM faults WHERE seq <= (SELECT seq FROM faults ORDER BY seq DESC LIMIT 1 OFFSET $1)")
        .bind(i64::from(MAX_FAULTS))
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// Returns the owners of the alerts of some faults.
async fn users(transaction: &mut Tx, recorded: &[NewFault]) -> Result<Vec<i32>, StoreError> {
    let mut query = QueryBuilder::<Db>::new("SELECT DISTINCT user_id FROM alerts WHERE id IN (");
    let alerts: BTreeSet<i64> = recorded.iter().map(|fault| fault.alert.0).collect();
    let mut list = query.separated(", ");
    alerts.into_iter().for_each(|alert| _ = list.push_bind(alert));
    query.push(")");
    Ok(query.build_query_scalar().fetch_all(&mut **transaction).await?)
}
