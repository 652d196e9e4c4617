//! What evaluators read and write: bindings and their changes, claims, firings, checkpoints.

use sqlx::{Row, Sqlite, Transaction};
use tocsin_engine::domain::{BindingId, Firing};
use tocsin_engine::{GroupSnapshot, SavedBinding};
use tokio::sync::watch;

use super::{SqliteStore, rows};
use crate::store::{BindingRow, Checkpoint, Claim, Commit, StoreError};

impl SqliteStore {
    pub(in crate::store) async fn newest_revision(&self) -> Result<watch::Receiver<u64>, StoreError> {
        Ok(self.0.newest_revision.subscribe())
    }

    pub(in crate::store) async fn changes(&self, after: u64, limit: u32) -> Result<Vec<BindingRow>, StoreError> {
        sqlx::query(
            "SELECT b.*, a.tenant, a.rule_digest, a.packed_params, a.repeat
             FROM bindings b JOIN alerts a ON a.id = b.alert_id
             WHERE b.revision > ? ORDER BY b.revision, b.id LIMIT ?",
        )
        .bind(after as i64)
        .bind(limit)
        .fetch_all(&self.0.readers)
        .await?
        .iter()
        .map(rows::binding_row)
        .collect()
    }

    pub(in crate::store) async fn live_bindings(
        &self,
        partition: u32,
        up_to_revision: u64,
        after: BindingId,
        limit: u32,
    ) -> Result<Vec<BindingRow>, StoreError> {
        sqlx::query(
            "SELECT b.*, a.tenant, a.rule_digest, a.packed_params, a.repeat
             FROM bindings b JOIN alerts a ON a.id = b.alert_id
             WHERE b.\"partition\" = ? AND b.status IN ('active', 'quarantined') AND b.revision <= ? AND b.id > ? ORDER BY b.id LIMIT ?",
        )
        .bind(partition)
        .bind(up_to_revision as i64)
        .bind(after.0)
        .bind(limit)
        .fetch_all(&self.0.readers)
        .await?
        .iter()
        .map(rows::binding_row)
        .collect()
    }

    pub(in crate::store) async fn claim(&self, partition: u32) -> Result<Claim, StoreError> {
        // A first claim has evaluated nothing: -1 stands for that.
        let row = sqlx::query(
            "INSERT INTO partitions (\"partition\", epoch, next_offset, revision) VALUES (?, 1, -1, 0)
             ON CONFLICT DO UPDATE SET epoch = epoch + 1 RETURNING epoch, next_offset, revision",
        )
        .bind(partition)
        .fetch_one(&self.0.writer)
        .await?;
        Ok(Claim {
            partition,
            epoch: row.try_get::<i64, _>("epoch")? as u64,
            next_offset: u64::try_from(row.try_get::<i64, _>("next_offset")?).ok(),
            revision: row.try_get::<i64, _>("revision")? as u64,
        })
    }

    pub(in crate::store) async fn saved_states(&self, partition: u32) -> Result<Vec<SavedBinding>, StoreError> {
        let records: Vec<Vec<u8>> = sqlx::query_scalar("SELECT records FROM group_states WHERE \"partition\" = ?")
            .bind(partition)
            .fetch_all(&self.0.readers)
            .await?;
        let mut saved = Vec::new();
        for bytes in records {
            saved.extend(GroupSnapshot::unpack(&bytes).map_err(|error| rows::damaged("group snapshot", error))?);
        }
        Ok(saved)
    }

    pub(in crate::store) async fn commit(&self, claims: &[Claim], commit: &Commit) -> Result<u64, StoreError> {
        let mut transaction = self.write().await?;
        for claim in claims {
            check_claim(&mut transaction, claim).await?;
        }
        let mut newest = None;
        let mut inserted = 0;
        for (firing, last) in &commit.firings {
            if let Some(seq) = insert_firing(&mut transaction, firing).await? {
                newest = Some(seq);
                inserted += 1;
            }
            if *last {
                set_status(&mut transaction, firing.binding, "triggered", "").await?;
            }
        }
        for (binding, reason) in &commit.quarantined {
            set_status(&mut transaction, *binding, "quarantined", reason).await?;
        }
        for binding in &commit.recovered {
            set_status(&mut transaction, *binding, "active", "").await?;
        }
        for checkpoint in &commit.checkpoints {
            write_checkpoint(&mut transaction, checkpoint).await?;
        }
        transaction.commit().await?;
        if let Some(newest) = newest {
            self.0.newest_firing.send_replace(newest as u64);
        }
        Ok(inserted)
    }
}

async fn check_claim(transaction: &mut Transaction<'static, Sqlite>, claim: &Claim) -> Result<(), StoreError> {
    let epoch: Option<i64> = sqlx::query_scalar("SELECT epoch FROM partitions WHERE \"partition\" = ?")
        .bind(claim.partition)
        .fetch_optional(&mut **transaction)
        .await?;
    if epoch == Some(claim.epoch as i64) { Ok(()) } else { Err(StoreError::Fenced(claim.partition)) }
}

/// Records a firing; None if it is recorded already or its binding is no longer active.
async fn insert_firing(
    transaction: &mut Transaction<'static, Sqlite>,
    firing: &Firing,
) -> Result<Option<i64>, StoreError> {
    Ok(sqlx::query_scalar(
        "INSERT INTO firings (id, tenant, alert_id, binding_id, symbol, price, volume, time_ms, conditions,
                              \"partition\", \"offset\", rule_name, rule_version, rule_digest, evidence)
         SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?
         WHERE EXISTS (SELECT 1 FROM bindings WHERE id = ? AND status IN ('active', 'quarantined'))
         ON CONFLICT (id) DO NOTHING RETURNING seq",
    )
    .bind(&firing.id.as_bytes()[..])
    .bind(firing.tenant.as_str())
    .bind(firing.alert.0)
    .bind(firing.binding.0)
    .bind(firing.tick.symbol.as_str())
    .bind(firing.tick.price)
    .bind(firing.tick.volume)
    .bind(firing.tick.time_ms)
    .bind(firing.tick.conditions.0 as i64)
    .bind(firing.position.partition)
    .bind(firing.position.offset as i64)
    .bind(firing.rule.name.as_str())
    .bind(firing.rule.version.to_string())
    .bind(&firing.rule.digest.0[..])
    .bind(rows::evidence_json(&firing.evidence))
    .bind(firing.binding.0)
    .fetch_optional(&mut **transaction)
    .await?)
}

/// Ends an active binding. The evaluator that says so knows already: no new revision.
async fn set_status(
    transaction: &mut Transaction<'static, Sqlite>,
    binding: BindingId,
    status: &str,
    reason: &str,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE bindings SET status = ?, reason = ? WHERE id = ? AND status IN ('active', 'quarantined')")
        .bind(status)
        .bind(reason)
        .bind(binding.0)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

async fn write_checkpoint(
    transaction: &mut Transaction<'static, Sqlite>,
    checkpoint: &Checkpoint,
) -> Result<(), StoreError> {
    for group in &checkpoint.groups {
        sqlx::query(
            "INSERT INTO group_states (\"partition\", tenant, rule_digest, symbol, records) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT DO UPDATE SET records = excluded.records",
        )
        .bind(checkpoint.partition)
        .bind(group.tenant.as_str())
        .bind(&group.rule.0[..])
        .bind(group.symbol.as_str())
        .bind(&group.bytes)
        .execute(&mut **transaction)
        .await?;
    }
    sqlx::query("UPDATE partitions SET next_offset = ?, revision = ? WHERE \"partition\" = ?")
        .bind(checkpoint.next_offset as i64)
        .bind(checkpoint.revision as i64)
        .bind(checkpoint.partition)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}
