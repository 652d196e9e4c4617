//! What evaluators read and write: bindings and their changes, claims, firings, checkpoints.

use sqlx::{Row, Sqlite, Transaction};
use tocsin_engine::domain::{BindingId, Digest, Firing};
use tocsin_engine::{GroupSnapshot, SavedBinding};
use tokio::sync::watch;

use super::faults::insert_faults;
use super::promotion::{forget_resumed, take_over};
use super::quarantine::quarantine_rule;
use super::{SqliteStore, rows};
use crate::store::{BindingRow, Changed, Checkpoint, Claim, Commit, StoreError};

/// Bindings with what evaluators need of their alerts and rules.
const BINDINGS: &str = "SELECT b.*, a.tenant, a.rule_digest, a.packed_params, a.repeat, s.record AS resume_record,
                               r.quarantine_revision IS NOT NULL AS rule_impure
                        FROM bindings b JOIN alerts a ON a.id = b.alert_id
                        JOIN rule_versions r ON (r.tenant, r.name, r.version) = (a.tenant, a.rule_name, a.rule_version)
                        LEFT JOIN resume_states s ON s.binding_id = b.id";

impl SqliteStore {
    pub(in crate::store) async fn newest_revision(&self) -> Result<watch::Receiver<u64>, StoreError> {
        Ok(self.0.newest_revision.subscribe())
    }

    pub(in crate::store) async fn changes(&self, after: u64, limit: u32) -> Result<Changed, StoreError> {
        // One transaction, so that all of it is of one moment.
        let mut transaction = self.0.readers.begin().await?;
        let newest: i64 = sqlx::query_scalar("SELECT newest FROM revisions").fetch_one(&mut *transaction).await?;
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{BINDINGS} WHERE b.revision > ? ORDER BY b.revision, b.id LIMIT ?"
        )))
        .bind(after as i64)
        .bind(limit)
        .fetch_all(&mut *transaction)
        .await?;
        let mut bindings = rows.iter().map(rows::binding_row).collect::<Result<Vec<_>, _>>()?;
        let mut revision = newest as u64;
        if bindings.len() == limit as usize {
            // The last revision may go on behind the limit: it is read again, whole.
            let last = bindings.last().map_or(0, |row| row.revision);
            bindings.retain(|row| row.revision != last);
            revision = bindings.last().map_or(after, |row| row.revision);
        }
        let impure: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT DISTINCT digest FROM rule_versions WHERE quarantine_revision > ? AND quarantine_revision <= ?",
        )
        .bind(after as i64)
        .bind(revision as i64)
        .fetch_all(&mut *transaction)
        .await?;
        let impure_rules = impure.iter().map(|digest| rows::digest(digest)).collect::<Result<_, _>>()?;
        Ok(Changed { bindings, impure_rules, revision })
    }

    pub(in crate::store) async fn live_bindings(
        &self,
        partition: u32,
        up_to_revision: u64,
        after: BindingId,
        limit: u32,
    ) -> Result<Vec<BindingRow>, StoreError> {
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "{BINDINGS} WHERE b.\"partition\" = ? AND b.status IN ('active', 'quarantined') AND b.armed_revision <= ?
               AND b.id > ? AND r.quarantine_revision IS NULL ORDER BY b.id LIMIT ?"
        )))
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
             ON CONFLICT DO UPDATE SET epoch = epoch + 1 RETURNING epoch, next_offset, revision, released",
        )
        .bind(partition)
        .fetch_one(&self.0.writer)
        .await?;
        let released: Vec<i64> =
            serde_json::from_str(row.try_get("released")?).map_err(|error| rows::damaged("list of releases", error))?;
        Ok(Claim {
            partition,
            epoch: row.try_get::<i64, _>("epoch")? as u64,
            next_offset: u64::try_from(row.try_get::<i64, _>("next_offset")?).ok(),
            revision: row.try_get::<i64, _>("revision")? as u64,
            released: released.into_iter().map(BindingId).collect(),
        })
    }

    pub(in crate::store) async fn saved_states(
        &self,
        partition: u32,
    ) -> Result<Vec<(Digest, SavedBinding)>, StoreError> {
        let records: Vec<(Vec<u8>, Vec<u8>)> =
            sqlx::query_as("SELECT rule_digest, records FROM group_states WHERE \"partition\" = ?")
                .bind(partition)
                .fetch_all(&self.0.readers)
                .await?;
        let mut saved = Vec::new();
        for (digest, bytes) in records {
            let digest = rows::digest(&digest)?;
            let records = GroupSnapshot::unpack(&bytes).map_err(|error| rows::damaged("group snapshot", error))?;
            saved.extend(records.into_iter().map(|saved| (digest, saved)));
        }
        Ok(saved)
    }

    pub(in crate::store) async fn commit(&self, claims: &[Claim], commit: &Commit) -> Result<u64, StoreError> {
        let mut transaction = self.write().await?;
        for claim in claims {
            check_claim(&mut transaction, claim).await?;
        }
        let (mut newest, mut revision, mut inserted) = (None, None, 0);
        for (firing, last) in &commit.firings {
            if let Some(seq) = insert_firing(&mut transaction, firing).await? {
                newest = Some(seq);
                inserted += 1;
            }
            if *last {
                set_status(&mut transaction, firing.binding, "triggered", "").await?;
            }
        }
        insert_faults(&mut transaction, &commit.faults).await?;
        for fault in commit.faults.iter().filter(|fault| fault.quarantined) {
            set_status(&mut transaction, fault.binding, "quarantined", &fault.bundle.fault.to_string()).await?;
        }
        for binding in &commit.recovered {
            set_status(&mut transaction, *binding, "active", "").await?;
        }
        for (rule, reason) in &commit.impure_rules {
            revision = quarantine_rule(&mut transaction, rule, reason, commit.at_ms).await?.or(revision);
        }
        for checkpoint in &commit.checkpoints {
            write_checkpoint(&mut transaction, checkpoint).await?;
            if !checkpoint.handed_over.is_empty() {
                // Whoever promotes is waiting for it.
                revision = Some(Self::next_revision(&mut transaction).await?);
            }
        }
        transaction.commit().await?;
        if let Some(newest) = newest {
            self.0.newest_firing.send_replace(newest as u64);
        }
        if let Some(revision) = revision {
            self.publish_revision(revision);
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

/// Changes a live binding. The evaluator that says so knows already: no new revision. One whose rule is impure stays in
/// quarantine for as long as it lives.
async fn set_status(
    transaction: &mut Transaction<'static, Sqlite>,
    binding: BindingId,
    status: &str,
    reason: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE bindings AS b SET status = ?1, reason = ?2 WHERE id = ?3 AND status IN ('active', 'quarantined')
           AND NOT (?1 IN ('active', 'quarantined') AND EXISTS (
             SELECT 1 FROM alerts a
             JOIN rule_versions r ON (r.tenant, r.name, r.version) = (a.tenant, a.rule_name, a.rule_version)
             WHERE a.id = b.alert_id AND r.quarantine_revision IS NOT NULL))",
    )
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
    for binding in &checkpoint.released {
        // A replay of the fault that quarantined it may have said so again.
        set_status(transaction, *binding, "active", "").await?;
        sqlx::query("UPDATE bindings SET release_due = 0 WHERE id = ?")
            .bind(binding.0)
            .execute(&mut **transaction)
            .await?;
    }
    for handed_over in &checkpoint.handed_over {
        take_over(transaction, handed_over, checkpoint.next_offset).await?;
    }
    forget_resumed(transaction, checkpoint).await?;
    let released: Vec<i64> = checkpoint.released.iter().map(|binding| binding.0).collect();
    sqlx::query("UPDATE partitions SET next_offset = ?, revision = ?, released = ? WHERE \"partition\" = ?")
        .bind(checkpoint.next_offset as i64)
        .bind(checkpoint.revision as i64)
        .bind(serde_json::to_string(&released).expect("numbers are JSON"))
        .bind(checkpoint.partition)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}
