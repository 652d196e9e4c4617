//! Promotions: marking what moves, taking over what evaluators hand over, and ending one in a single transaction.

use std::collections::{BTreeMap, HashSet};

use sqlx::{QueryBuilder, Row as _};
use tocsin_engine::SavedBinding;
use tocsin_engine::domain::{AlertId, BindingId, RuleQuarantine, RuleRef, Tenant};

use super::quarantine::rule_quarantine;
use super::{Db, DbConnection, DbRow, Member, ROWS_AT_ONCE, Tx, rows};
use crate::store::newest::News;
use crate::store::{
    BegunPromotion, CapReached, Capped, Checkpoint, FinishedPromotion, HeldBinding, Moved, NewPromotion, Promotable,
    PromotedAlert, PromotionId, StoreError,
};

impl Member {
    pub(in crate::store) async fn promotable(
        &self,
        tenant: &Tenant,
        to: &RuleRef,
        from: Option<&RuleRef>,
        after: AlertId,
        limit: u32,
    ) -> Result<Vec<Promotable>, StoreError> {
        let mut query = QueryBuilder::new(
            "SELECT * FROM alerts a WHERE deleted_at_ms IS NULL AND EXISTS
               (SELECT 1 FROM bindings b WHERE b.alert_id = a.id AND b.status IN ('active', 'quarantined'))",
        );
        query.push(" AND tenant = ").push_bind(tenant.as_str());
        query.push(" AND rule_name = ").push_bind(to.name.as_str());
        match from {
            Some(from) => query.push(" AND rule_digest = ").push_bind(&from.digest.0[..]),
            None => query.push(" AND rule_digest <> ").push_bind(&to.digest.0[..]),
        };
        query.push(" AND id > ").push_bind(after.0).push(" ORDER BY id LIMIT ").push_bind(i64::from(limit));
        let rows = query.build().fetch_all(self.readers()).await?;
        let promotable = |row: &DbRow| {
            Ok(Promotable {
                alert: AlertId(row.try_get("id")?),
                rule: rows::rule_ref(row)?,
                params_json: row.try_get("params")?,
            })
        };
        rows.iter().map(promotable).collect()
    }

    pub(in crate::store) async fn begin_promotion(&self, new: &NewPromotion) -> Result<BegunPromotion, StoreError> {
        let mut transaction = self.write().await?;
        if let Some((_, other)) = unfinished(&mut transaction).await? {
            return Ok(BegunPromotion::AnotherRuns(other));
        }
        let id = insert_promotion(&mut transaction, new).await?;
        if let Some(refused) = refusal(&mut transaction).await? {
            return Ok(refused);
        }
        if let Some((rule, quarantine)) = impure(&mut transaction).await? {
            return Ok(BegunPromotion::RuleQuarantined(rule, quarantine));
        }
        let base = next_revisions(&mut transaction).await?;
        sqlx::query(
            "UPDATE bindings SET hold = CASE WHEN bindings.\"partition\" < 0 THEN 'held' ELSE 'asked' END, revision = $1 + p.ordinal FROM promotion_alerts p
             WHERE p.alert_id = bindings.alert_id AND status IN ('active', 'quarantined')",
        )
        .bind(base)
        .execute(&mut *transaction)
        .await?;
        let revision = newest_revision(&mut transaction).await?;
        self.conclude(transaction, News::revision(revision)).await?;
        Ok(BegunPromotion::Begun(id))
    }

    pub(in crate::store) async fn unfinished_promotion(&self) -> Result<Option<(PromotionId, RuleRef)>, StoreError> {
        let mut connection = self.readers().acquire().await?;
        unfinished(&mut connection).await
    }

    pub(in crate::store) async fn bindings_asked_for(&self) -> Result<u64, StoreError> {
        let mut connection = self.readers().acquire().await?;
        asked_for(&mut connection).await
    }

    pub(in crate::store) async fn held_bindings(
        &self,
        after: BindingId,
        limit: u32,
    ) -> Result<Vec<HeldBinding>, StoreError> {
        let rows = sqlx::query(
            "SELECT b.id, b.alert_id, b.symbol, p.from_digest, p.packed_params, s.record AS resume_record
             FROM bindings b JOIN promotion_alerts p ON p.alert_id = b.alert_id
             LEFT JOIN resume_states s ON s.binding_id = b.id
             WHERE b.hold = 'held' AND b.status IN ('active', 'quarantined') AND b.id > $1 ORDER BY b.id LIMIT $2",
        )
        .bind(after.0)
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await?;
        let held = |row: &DbRow| {
            Ok(HeldBinding {
                id: BindingId(row.try_get("id")?),
                alert: AlertId(row.try_get("alert_id")?),
                symbol: rows::symbol(row.try_get("symbol")?)?,
                from: rows::digest(row.try_get("from_digest")?)?,
                packed_params: row.try_get("packed_params")?,
                saved: rows::saved_binding(row)?,
            })
        };
        rows.iter().map(held).collect()
    }

    pub(in crate::store) async fn stage_promotion(
        &self,
        id: PromotionId,
        states: &[SavedBinding],
    ) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        for states in states.chunks(ROWS_AT_ONCE) {
            let mut insert = QueryBuilder::<Db>::new(
                "INSERT INTO resume_states (binding_id, next_record) SELECT v.column1, v.column2 FROM (",
            );
            insert.push_values(states, |mut row, saved| {
                row.push_bind(saved.binding.0).push_bind(saved.pack());
            });
            insert.push(") AS v WHERE EXISTS (SELECT 1 FROM promotions WHERE id = ").push_bind(id.0);
            insert.push(") ON CONFLICT (binding_id) DO UPDATE SET next_record = excluded.next_record");
            insert.build().execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    pub(in crate::store) async fn finish_promotion(
        &self,
        id: PromotionId,
        max_bindings_per_rule: u64,
    ) -> Result<FinishedPromotion, StoreError> {
        let mut transaction = self.write().await?;
        let to = match unfinished(&mut transaction).await? {
            Some((running, to)) if running == id => to,
            _ => return Ok(FinishedPromotion::RolledBack),
        };
        if let Some((rule, quarantine)) = impure(&mut transaction).await? {
            return Ok(FinishedPromotion::RuleQuarantined(rule, quarantine));
        }
        let moved = count_moved(&mut transaction).await?;
        if let Some(reached) = cap_reached(&mut transaction, &to, moved, max_bindings_per_rule).await? {
            return Ok(FinishedPromotion::CapReached(reached, moved));
        }
        move_alerts(&mut transaction, &to).await?;
        let revision = end(&mut transaction).await?;
        self.conclude(transaction, News::revision(revision)).await?;
        Ok(FinishedPromotion::Finished(moved))
    }

    pub(in crate::store) async fn roll_back_promotion(&self, id: PromotionId) -> Result<bool, StoreError> {
        let mut transaction = self.write().await?;
        if unfinished(&mut transaction).await?.is_none_or(|(running, _)| running != id) {
            return Ok(true);
        }
        if asked_for(&mut transaction).await? > 0 {
            return Ok(false);
        }
        sqlx::query("DELETE FROM resume_states WHERE record IS NULL").execute(&mut *transaction).await?;
        sqlx::query("UPDATE resume_states SET next_record = NULL").execute(&mut *transaction).await?;
        let revision = end(&mut transaction).await?;
        self.conclude(transaction, News::revision(revision)).await?;
        Ok(true)
    }
}

async fn unfinished(connection: &mut DbConnection) -> Result<Option<(PromotionId, RuleRef)>, StoreError> {
    let row = sqlx::query("SELECT * FROM promotions").fetch_optional(connection).await?;
    row.map(|row| Ok((PromotionId(row.try_get("id")?), rows::rule_ref(&row)?))).transpose()
}

async fn asked_for(connection: &mut DbConnection) -> Result<u64, StoreError> {
    // The first condition is that of the index.
    let asked = "SELECT count(*) FROM bindings
                 WHERE hold <> 'none' AND hold = 'asked' AND status IN ('active', 'quarantined')";
    let asked: i64 = sqlx::query_scalar(asked).fetch_one(connection).await?;
    Ok(asked as u64)
}

async fn insert_promotion(transaction: &mut Tx, new: &NewPromotion) -> Result<PromotionId, StoreError> {
    let id: i64 = sqlx::query_scalar(
        "INSERT INTO promotions (tenant, rule_name, rule_version, rule_digest) VALUES ($1, $2, $3, $4) RETURNING id",
    )
    .bind(new.tenant.as_str())
    .bind(new.to.name.as_str())
    .bind(new.to.version.to_string())
    .bind(&new.to.digest.0[..])
    .fetch_one(&mut **transaction)
    .await?;
    let numbered: Vec<(i64, &PromotedAlert)> = (1..).zip(&new.alerts).collect();
    for alerts in numbered.chunks(ROWS_AT_ONCE) {
        let mut insert = QueryBuilder::<Db>::new(
            "INSERT INTO promotion_alerts (ordinal, alert_id, from_digest, params, packed_params)
             SELECT v.column1, a.id, v.column3, v.column4, v.column5 FROM (",
        );
        insert.push_values(alerts, |mut row, (ordinal, alert)| {
            row.push_bind(*ordinal).push_bind(alert.alert.0).push_bind(&alert.from.0[..]);
            row.push_bind(&alert.params.json).push_bind(&alert.params.packed);
        });
        insert.push(") AS v JOIN alerts a ON a.id = v.column2 WHERE a.deleted_at_ms IS NULL AND a.tenant = ");
        insert.push_bind(new.tenant.as_str()).build().execute(&mut **transaction).await?;
    }
    Ok(PromotionId(id))
}

/// Why the alerts of a promotion cannot move now.
async fn refusal(transaction: &mut Tx) -> Result<Option<BegunPromotion>, StoreError> {
    let moved: Option<i64> = sqlx::query_scalar(
        "SELECT a.id FROM promotion_alerts p JOIN alerts a ON a.id = p.alert_id WHERE a.rule_digest <> p.from_digest",
    )
    .fetch_optional(&mut **transaction)
    .await?;
    let release_due: Option<i64> = sqlx::query_scalar(
        "SELECT b.alert_id FROM promotion_alerts p JOIN bindings b ON b.alert_id = p.alert_id
         WHERE b.release_due AND b.status IN ('active', 'quarantined')",
    )
    .fetch_optional(&mut **transaction)
    .await?;
    let moved = moved.map(|alert| BegunPromotion::Moved(AlertId(alert)));
    Ok(moved.or(release_due.map(|alert| BegunPromotion::ReleaseDue(AlertId(alert)))))
}

/// A version of the promotion under way that is judged no more.
async fn impure(transaction: &mut Tx) -> Result<Option<(RuleRef, RuleQuarantine)>, StoreError> {
    let row = sqlx::query(
        "SELECT p.tenant, r.name AS rule_name, r.version AS rule_version, r.digest AS rule_digest
         FROM promotions p JOIN rule_versions r ON (r.tenant, r.name) = (p.tenant, p.rule_name)
         WHERE r.quarantine_revision IS NOT NULL
           AND (r.digest = p.rule_digest OR r.digest IN (SELECT from_digest FROM promotion_alerts)) LIMIT 1",
    )
    .fetch_optional(&mut **transaction)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let (tenant, rule) = (Tenant::from_stored(row.try_get("tenant")?), rows::rule_ref(&row)?);
    Ok(rule_quarantine(transaction, &tenant, &rule).await?.map(|quarantine| (rule, quarantine)))
}

async fn count_moved(transaction: &mut Tx) -> Result<Moved, StoreError> {
    let (alerts, bindings, unstaged): (i64, i64, i64) = sqlx::query_as(
        "SELECT count(DISTINCT b.alert_id), count(*), count(*) FILTER (WHERE b.hold <> 'held' OR s.next_record IS NULL)
         FROM promotion_alerts p JOIN bindings b ON b.alert_id = p.alert_id
         LEFT JOIN resume_states s ON s.binding_id = b.id WHERE b.status IN ('active', 'quarantined')",
    )
    .fetch_one(&mut **transaction)
    .await?;
    if unstaged > 0 {
        return Err(rows::damaged("promotion", format!("{unstaged} bindings are not ready to move")));
    }
    Ok(Moved { alerts: alerts as u64, bindings: bindings as u64 })
}

async fn cap_reached(
    transaction: &mut Tx,
    to: &RuleRef,
    moved: Moved,
    cap: u64,
) -> Result<Option<CapReached>, StoreError> {
    let live: Option<i64> = sqlx::query_scalar(
        "SELECT live FROM live_by_rule WHERE tenant = (SELECT tenant FROM promotions) AND rule_digest = $1",
    )
    .bind(&to.digest.0[..])
    .fetch_optional(&mut **transaction)
    .await?;
    let live = live.unwrap_or(0) as u64;
    Ok((live + moved.bindings > cap).then_some(CapReached { capped: Capped::Rule, live, cap }))
}

/// Alerts that have come to an end meanwhile stay on the version that ended them.
async fn move_alerts(transaction: &mut Tx, to: &RuleRef) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE faults SET params = a.params FROM alerts a JOIN promotion_alerts p ON p.alert_id = a.id
         WHERE faults.alert_id = a.id AND faults.params IS NULL",
    )
    .execute(&mut **transaction)
    .await?;
    sqlx::query(
        "UPDATE alerts SET rule_version = $1, rule_digest = $2, params = p.params, packed_params = p.packed_params
         FROM promotion_alerts p WHERE p.alert_id = alerts.id AND EXISTS
           (SELECT 1 FROM bindings b WHERE b.alert_id = alerts.id AND b.status IN ('active', 'quarantined'))",
    )
    .bind(to.version.to_string())
    .bind(&to.digest.0[..])
    .execute(&mut **transaction)
    .await?;
    sqlx::query("UPDATE resume_states SET record = next_record, next_record = NULL WHERE next_record IS NOT NULL")
        .execute(&mut **transaction)
        .await?;
    // Records of a version that nobody is on any more; what else is left of it is told apart by the digest.
    sqlx::query(
        "DELETE FROM group_states WHERE rule_digest IN (SELECT from_digest FROM promotion_alerts) AND NOT EXISTS
           (SELECT 1 FROM live_by_rule l WHERE (l.tenant, l.rule_digest) = (group_states.tenant, group_states.rule_digest)
              AND l.live > 0)",
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Takes the marks away: evaluators go on with the bindings. Returns the newest revision.
async fn end(transaction: &mut Tx) -> Result<i64, StoreError> {
    let base = next_revisions(transaction).await?;
    sqlx::query(
        "UPDATE bindings SET revision = $1 + p.ordinal, armed_revision = $1 + p.ordinal FROM promotion_alerts p
         WHERE p.alert_id = bindings.alert_id AND hold = 'held' AND status IN ('active', 'quarantined')",
    )
    .bind(base)
    .execute(&mut **transaction)
    .await?;
    sqlx::query("UPDATE bindings SET hold = 'none' WHERE hold <> 'none'").execute(&mut **transaction).await?;
    sqlx::query("DELETE FROM promotion_alerts").execute(&mut **transaction).await?;
    sqlx::query("DELETE FROM promotions").execute(&mut **transaction).await?;
    newest_revision(transaction).await
}

/// Takes a revision for each alert of the promotion, at least one; returns the one before the first.
async fn next_revisions(transaction: &mut Tx) -> Result<i64, StoreError> {
    let base = newest_revision(transaction).await?;
    sqlx::query("UPDATE revisions SET newest = newest + coalesce((SELECT max(ordinal) FROM promotion_alerts), 1)")
        .execute(&mut **transaction)
        .await?;
    Ok(base)
}

async fn newest_revision(transaction: &mut Tx) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar("SELECT newest FROM revisions").fetch_one(&mut **transaction).await?)
}

/// Takes bindings over from their evaluator, which has judged them up to the checkpoint's offset. Each is taken once.
pub(super) async fn take_over(transaction: &mut Tx, checkpoint: &Checkpoint) -> Result<(), StoreError> {
    let mut handed_over = BTreeMap::new();
    for binding in &checkpoint.handed_over {
        handed_over.entry(binding.binding.0).or_insert(&binding.saved);
    }
    let handed_over: Vec<(i64, &Option<SavedBinding>)> = handed_over.into_iter().collect();
    for handed_over in handed_over.chunks(ROWS_AT_ONCE) {
        let mut hold =
            QueryBuilder::<Db>::new("UPDATE bindings SET hold = 'held', resumes_from = CASE WHEN v.column2 THEN ");
        hold.push_bind(checkpoint.next_offset as i64).push(" ELSE resumes_from END FROM (");
        hold.push_values(handed_over, |mut row, (binding, saved)| {
            row.push_bind(*binding).push_bind(saved.is_some());
        });
        hold.push(
            ") AS v WHERE bindings.id = v.column1 AND hold = 'asked' AND status IN ('active', 'quarantined') RETURNING id",
        );
        let taken: HashSet<i64> = hold.build_query_scalar().fetch_all(&mut **transaction).await?.into_iter().collect();
        let mut saved: Vec<&SavedBinding> = Vec::new();
        saved.extend(handed_over.iter().filter(|(id, _)| taken.contains(id)).filter_map(|(_, saved)| saved.as_ref()));
        if !saved.is_empty() {
            let mut remember = QueryBuilder::<Db>::new("INSERT INTO resume_states (binding_id, record) ");
            remember.push_values(saved, |mut row, saved| {
                row.push_bind(saved.binding.0).push_bind(saved.pack());
            });
            remember.push(" ON CONFLICT (binding_id) DO UPDATE SET record = excluded.record");
            remember.build().execute(&mut **transaction).await?;
        }
    }
    Ok(())
}

/// Forgets what bindings were to go on with, once a checkpoint remembers what came of it.
pub(super) async fn forget_resumed(transaction: &mut Tx, checkpoint: &Checkpoint) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM resume_states WHERE binding_id IN (
           SELECT b.id FROM resume_states s JOIN bindings b ON b.id = s.binding_id
           WHERE b.\"partition\" = $1 AND (b.status NOT IN ('active', 'quarantined')
             OR (b.hold = 'none' AND b.armed_revision <= $2 AND coalesce(b.resumes_from, b.counts_from) <= $3)))",
    )
    .bind(i64::from(checkpoint.partition))
    .bind(checkpoint.revision as i64)
    .bind(checkpoint.next_offset as i64)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
