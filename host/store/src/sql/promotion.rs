//! Promotions: marking what moves, and ending one in a single transaction.

use sqlx::{QueryBuilder, Row as _};
use tocsin_engine::SavedBinding;
use tocsin_engine::domain::{AlertId, BindingId, RuleQuarantine, RuleRef, Tenant};

use super::alerts::record_bytes;
use super::quarantine::rule_quarantine;
use super::{Backend, CLOCK_MS, Db, DbConnection, DbRow, ROWS_AT_ONCE, Tx, rows};
use crate::newest::Announcement;
use crate::{
    BegunPromotion, BindingCaps, CapReached, Capped, FinishedPromotion, HeldBinding, Moved, NewPromotion, Promotable,
    PromotedAlert, PromotionId, StoreError, UnfinishedPromotion, WaitingFor,
};

impl Backend {
    pub(crate) async fn promotable(
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

    pub(crate) async fn begin_promotion(&self, new: &NewPromotion) -> Result<BegunPromotion, StoreError> {
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
            "UPDATE bindings SET revision = $1 + p.ordinal,
                                 handoff = CASE WHEN bindings.\"partition\" < 0 OR p.out_of_service = 1 THEN 'held' ELSE 'requested' END
             FROM promotion_alerts p
             WHERE p.alert_id = bindings.alert_id AND status IN ('active', 'quarantined')",
        )
        .bind(base)
        .execute(&mut *transaction)
        .await?;
        let ends = new.out_of_service.as_ref().map_or(&[][..], |out_of_service| &out_of_service.ends);
        begin_at(&mut transaction, ends).await?;
        let revision = newest_revision(&mut transaction).await?;
        self.commit_durable(transaction, Announcement::revision(revision)).await?;
        Ok(BegunPromotion::Begun(id))
    }

    pub(crate) async fn unfinished_promotion(&self) -> Result<Option<UnfinishedPromotion>, StoreError> {
        let mut transaction = self.snapshot().await?;
        let row = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT p.*, {CLOCK_MS} - begun_at_ms AS age_ms FROM promotions p"
        )))
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let mut promotion = UnfinishedPromotion {
            id: PromotionId(row.try_get("id")?),
            tenant: Tenant::from_stored(row.try_get("tenant")?),
            to: rows::rule_ref(&row)?,
            age_ms: row.try_get("age_ms")?,
            held: 0,
            waiting_for: Vec::new(),
        };
        // The first condition is that of the index.
        let on_hold = sqlx::query(
            "SELECT b.handoff, b.\"partition\", count(*) AS many, min(p.halted) AS halted
             FROM bindings b LEFT JOIN partitions p ON p.\"partition\" = b.\"partition\"
             WHERE b.handoff <> 'none' AND b.status IN ('active', 'quarantined')
             GROUP BY b.handoff, b.\"partition\" ORDER BY b.\"partition\"",
        );
        for row in on_hold.fetch_all(&mut *transaction).await? {
            let bindings = row.try_get::<i64, _>("many")? as u64;
            if row.try_get::<&str, _>("handoff")? == "held" {
                promotion.held += bindings;
            } else {
                let partition = row.try_get::<i64, _>("partition")? as u32;
                promotion.waiting_for.push(WaitingFor { partition, bindings, halted: row.try_get("halted")? });
            }
        }
        Ok(Some(promotion))
    }

    pub(crate) async fn held_bindings(&self, after: BindingId, limit: u32) -> Result<Vec<HeldBinding>, StoreError> {
        let rows = sqlx::query(
            "SELECT b.id, b.alert_id, b.symbol, p.from_digest, p.packed_params, s.record AS resume_record
             FROM bindings b JOIN promotion_alerts p ON p.alert_id = b.alert_id
             LEFT JOIN resume_states s ON s.binding_id = b.id
             WHERE b.handoff = 'held' AND b.status IN ('active', 'quarantined') AND b.id > $1 ORDER BY b.id LIMIT $2",
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

    pub(crate) async fn stage_promotion(&self, id: PromotionId, states: &[SavedBinding]) -> Result<(), StoreError> {
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

    pub(crate) async fn finish_promotion(
        &self,
        id: PromotionId,
        caps: BindingCaps,
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
        if let Some(reached) = cap_reached(&mut transaction, &to, moved, caps).await? {
            return Ok(FinishedPromotion::CapReached(reached));
        }
        move_alerts(&mut transaction, &to).await?;
        let revision = end(&mut transaction).await?;
        self.commit_durable(transaction, Announcement::revision(revision)).await?;
        Ok(FinishedPromotion::Finished(moved))
    }

    pub(crate) async fn roll_back_promotion(&self, id: PromotionId) -> Result<Option<u64>, StoreError> {
        let mut transaction = self.write().await?;
        if unfinished(&mut transaction).await?.is_none_or(|(running, _)| running != id) {
            return Ok(None);
        }
        let held = "SELECT count(*) FROM bindings
                    WHERE handoff <> 'none' AND handoff = 'held' AND status IN ('active', 'quarantined')";
        let held: i64 = sqlx::query_scalar(held).fetch_one(&mut *transaction).await?;
        sqlx::query("DELETE FROM resume_states WHERE record IS NULL").execute(&mut *transaction).await?;
        sqlx::query("UPDATE resume_states SET next_record = NULL").execute(&mut *transaction).await?;
        let revision = end(&mut transaction).await?;
        self.commit_durable(transaction, Announcement::revision(revision)).await?;
        Ok(Some(held as u64))
    }
}

async fn unfinished(connection: &mut DbConnection) -> Result<Option<(PromotionId, RuleRef)>, StoreError> {
    let row = sqlx::query("SELECT * FROM promotions").fetch_optional(connection).await?;
    row.map(|row| Ok((PromotionId(row.try_get("id")?), rows::rule_ref(&row)?))).transpose()
}

async fn insert_promotion(transaction: &mut Tx, new: &NewPromotion) -> Result<PromotionId, StoreError> {
    let id: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "INSERT INTO promotions (tenant, rule_name, rule_version, rule_digest, begun_at_ms)
         VALUES ($1, $2, $3, $4, {CLOCK_MS}) RETURNING id"
    )))
    .bind(new.tenant.as_str())
    .bind(new.to.name.as_str())
    .bind(new.to.version.to_string())
    .bind(&new.to.digest.0[..])
    .fetch_one(&mut **transaction)
    .await?;
    let numbered: Vec<(i64, &PromotedAlert)> = (1..).zip(&new.alerts).collect();
    for alerts in numbered.chunks(ROWS_AT_ONCE) {
        let mut insert = QueryBuilder::<Db>::new(
            "INSERT INTO promotion_alerts (ordinal, alert_id, from_digest, params, packed_params, out_of_service)
             SELECT v.column1, a.id, v.column3, v.column4, v.column5, v.column6 FROM (",
        );
        let versions = new.out_of_service.as_ref().map_or(&[][..], |out_of_service| &out_of_service.versions);
        insert.push_values(alerts, |mut row, (ordinal, alert)| {
            row.push_bind(*ordinal).push_bind(alert.alert.0).push_bind(&alert.from.0[..]);
            row.push_bind(&alert.params.json).push_bind(&alert.params.packed);
            row.push_bind(i64::from(versions.contains(&alert.from)));
        });
        insert.push(") AS v JOIN alerts a ON a.id = v.column2 WHERE a.deleted_at_ms IS NULL AND a.tenant = ");
        insert.push_bind(new.tenant.as_str()).build().execute(&mut **transaction).await?;
    }
    Ok(PromotionId(id))
}

/// Lets bindings of versions that are out of service go on where their partitions end: what was published before was not
/// evaluated, and must not fire now.
async fn begin_at(transaction: &mut Tx, ends: &[u64]) -> Result<(), StoreError> {
    for (partition, end) in ends.iter().enumerate() {
        sqlx::query(
            "UPDATE bindings SET resumes_from = $1 WHERE \"partition\" = $2 AND handoff = 'held'
               AND alert_id IN (SELECT alert_id FROM promotion_alerts WHERE out_of_service = 1)",
        )
        .bind(*end as i64)
        .bind(partition as i64)
        .execute(&mut **transaction)
        .await?;
    }
    Ok(())
}

/// Why the alerts of a promotion cannot move now.
async fn refusal(transaction: &mut Tx) -> Result<Option<BegunPromotion>, StoreError> {
    let moved: Option<i64> = sqlx::query_scalar(
        "SELECT a.id FROM promotion_alerts p JOIN alerts a ON a.id = p.alert_id WHERE a.rule_digest <> p.from_digest",
    )
    .fetch_optional(&mut **transaction)
    .await?;
    let unquarantine_due: Option<i64> = sqlx::query_scalar(
        "SELECT b.alert_id FROM promotion_alerts p JOIN bindings b ON b.alert_id = p.alert_id
         WHERE b.unquarantine_due AND b.status IN ('active', 'quarantined')",
    )
    .fetch_optional(&mut **transaction)
    .await?;
    let moved = moved.map(|alert| BegunPromotion::Moved(AlertId(alert)));
    let halted = on_halted_partition(transaction).await?;
    Ok(moved.or(halted).or(unquarantine_due.map(|alert| BegunPromotion::UnquarantineDue(AlertId(alert)))))
}

/// An alert of a promotion that no evaluator could hand over.
async fn on_halted_partition(transaction: &mut Tx) -> Result<Option<BegunPromotion>, StoreError> {
    let row = sqlx::query(
        "SELECT b.alert_id, b.\"partition\", p.halted FROM partitions p
         JOIN bindings b ON b.\"partition\" = p.\"partition\" JOIN promotion_alerts a ON a.alert_id = b.alert_id
         WHERE p.halted IS NOT NULL AND b.status IN ('active', 'quarantined') ORDER BY b.id LIMIT 1",
    )
    .fetch_optional(&mut **transaction)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(BegunPromotion::PartitionHalted {
        alert: AlertId(row.try_get("alert_id")?),
        partition: row.try_get::<i64, _>("partition")? as u32,
        why: row.try_get("halted")?,
    }))
}

/// A version of the promotion under way that is out of service, although it is not one of those that alerts leave for that
/// reason.
async fn impure(transaction: &mut Tx) -> Result<Option<(RuleRef, RuleQuarantine)>, StoreError> {
    let row = sqlx::query(
        "SELECT p.tenant, r.name AS rule_name, r.version AS rule_version, r.digest AS rule_digest
         FROM promotions p JOIN rule_versions r ON (r.tenant, r.name) = (p.tenant, p.rule_name)
         WHERE r.quarantine_revision IS NOT NULL
           AND (r.digest = p.rule_digest
             OR r.digest IN (SELECT from_digest FROM promotion_alerts WHERE out_of_service = 0)) LIMIT 1",
    )
    .fetch_optional(&mut **transaction)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let (tenant, rule) = (Tenant::from_stored(row.try_get("tenant")?), rows::rule_ref(&row)?);
    Ok(rule_quarantine(transaction, &tenant, &rule).await?.map(|quarantine| (rule, quarantine)))
}

async fn count_moved(transaction: &mut Tx) -> Result<Moved, StoreError> {
    let (alerts, bindings, unstaged): (i64, i64, i64) = sqlx::query_as(
        "SELECT count(DISTINCT b.alert_id), count(*), count(*) FILTER (WHERE b.handoff <> 'held' OR s.next_record IS NULL)
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
    caps: BindingCaps,
) -> Result<Option<CapReached>, StoreError> {
    let live: Option<i64> = sqlx::query_scalar(
        "SELECT live FROM live_by_rule WHERE tenant = (SELECT tenant FROM promotions) AND rule_digest = $1",
    )
    .bind(&to.digest.0[..])
    .fetch_optional(&mut **transaction)
    .await?;
    let (live, cap) = (live.unwrap_or(0) as u64, caps.per_rule);
    if live + moved.bindings > cap {
        return Ok(Some(CapReached { capped: Capped::Rule, live, needs: moved.bindings, cap }));
    }
    bytes_reached(transaction, to, moved, caps).await
}

/// The cap on bytes that the records of the new version would exceed. Those of the older ones go.
async fn bytes_reached(
    transaction: &mut Tx,
    to: &RuleRef,
    moved: Moved,
    caps: BindingCaps,
) -> Result<Option<CapReached>, StoreError> {
    let tenant: String = sqlx::query_scalar("SELECT tenant FROM promotions").fetch_one(&mut **transaction).await?;
    let (of_tenant, of_rule, record_bytes) = record_bytes(transaction, &tenant, &to.digest).await?;
    let leaving: i64 = sqlx::query_scalar(
        "SELECT CAST(COALESCE(SUM(r.record_bytes), 0) AS BIGINT) FROM promotion_alerts p
         JOIN bindings b ON b.alert_id = p.alert_id
         JOIN (SELECT DISTINCT digest, record_bytes FROM rule_versions WHERE tenant = $1) r ON r.digest = p.from_digest
         WHERE b.status IN ('active', 'quarantined')",
    )
    .bind(&tenant)
    .fetch_one(&mut **transaction)
    .await?;
    let (more, leaving) = (moved.bindings * record_bytes, leaving as u64);
    let counts = [
        (Capped::TenantBytes, of_tenant.saturating_sub(leaving), caps.bytes_per_tenant),
        (Capped::RuleBytes, of_rule, caps.bytes_per_rule),
    ];
    let counts = counts.map(|(capped, live, cap)| CapReached { capped, live, needs: more, cap });
    Ok(counts.into_iter().find(|count| count.live + more > count.cap))
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
    sqlx::query(
        "UPDATE bindings SET status = 'active', reason = '' WHERE status = 'quarantined'
           AND alert_id IN (SELECT alert_id FROM promotion_alerts WHERE out_of_service = 1)",
    )
    .execute(&mut **transaction)
    .await?;
    sqlx::query("UPDATE resume_states SET record = next_record, next_record = NULL WHERE next_record IS NOT NULL")
        .execute(&mut **transaction)
        .await?;
    // Records of a version that no binding is on any more; what else is left of it has another digest.
    sqlx::query(
        "DELETE FROM group_states WHERE rule_digest IN (SELECT from_digest FROM promotion_alerts) AND NOT EXISTS
           (SELECT 1 FROM live_by_rule l WHERE (l.tenant, l.rule_digest) = (group_states.tenant, group_states.rule_digest)
              AND l.live > 0)",
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Takes the marks away: evaluators begin anew with bindings that are held, and keep those that they have not handed over.
/// Returns the newest revision.
async fn end(transaction: &mut Tx) -> Result<i64, StoreError> {
    let base = next_revisions(transaction).await?;
    sqlx::query(
        "UPDATE bindings SET revision = $1 + p.ordinal,
                             armed_revision = CASE handoff WHEN 'held' THEN $1 + p.ordinal ELSE armed_revision END
         FROM promotion_alerts p
         WHERE p.alert_id = bindings.alert_id AND handoff <> 'none' AND status IN ('active', 'quarantined')",
    )
    .bind(base)
    .execute(&mut **transaction)
    .await?;
    sqlx::query("UPDATE bindings SET handoff = 'none' WHERE handoff <> 'none'").execute(&mut **transaction).await?;
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
