//! Alerts and their bindings.

use std::collections::HashMap;

use sqlx::{QueryBuilder, Row as _};
use tocsin_engine::domain::{Alert, AlertId, Binding, BindingId, Digest, Params, Tenant, UserId};

use super::logs::check_log;
use super::quarantine::rule_quarantine;
use super::symbol_assignments::resolve;
use super::{Backend, Db, DbConnection, DbRow, Tx, rows};
use crate::newest::Announcement;
use crate::{AlertFilter, BindingCaps, CapReached, Capped, Idempotency, NewAlert, Start, StoreError, StoredAlert};

impl Backend {
    pub(crate) async fn create_alert(&self, new: &NewAlert, caps: BindingCaps) -> Result<StoredAlert, StoreError> {
        let mut transaction = self.write().await?;
        if let Some(idempotency) = &new.idempotency
            && let Some(earlier) = earlier_request(&mut transaction, &new.tenant, idempotency).await?
        {
            return Ok(earlier);
        }
        check_log(&mut transaction, new.log.as_deref()).await?;
        if let Some(quarantine) = rule_quarantine(&mut transaction, &new.tenant, &new.rule).await? {
            return Ok(StoredAlert::RuleQuarantined(quarantine));
        }
        if let Some(reached) = cap_reached(&mut transaction, new, caps).await? {
            return Ok(StoredAlert::CapReached(reached));
        }
        let revision = Self::next_revision(&mut transaction).await?;
        let id = insert_alert(&mut transaction, new, revision).await?;
        let alert = fetch_alert(&mut transaction, &new.tenant, id).await?;
        let alert = alert.ok_or_else(|| rows::damaged("alert", "it vanished while it was created"))?;
        self.commit_durable(transaction, Announcement::revision(revision)).await?;
        Ok(StoredAlert::Created(alert))
    }

    pub(crate) async fn alert(&self, tenant: &Tenant, id: AlertId) -> Result<Option<Alert>, StoreError> {
        let mut connection = self.readers().acquire().await?;
        fetch_alert(&mut connection, tenant, id).await
    }

    pub(crate) async fn has_had_alert(&self, tenant: &Tenant, id: AlertId) -> Result<bool, StoreError> {
        let query = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM alerts WHERE tenant = $1 AND id = $2)");
        Ok(query.bind(tenant.as_str()).bind(id.0).fetch_one(self.readers()).await?)
    }

    pub(crate) async fn alerts(
        &self,
        tenant: &Tenant,
        filter: AlertFilter,
        after: AlertId,
        limit: u32,
    ) -> Result<Vec<Alert>, StoreError> {
        let mut query = QueryBuilder::new("SELECT * FROM alerts a WHERE deleted_at_ms IS NULL AND tenant = ");
        query.push_bind(tenant.as_str()).push(" AND id > ").push_bind(after.0);
        if let Some(user) = filter.user {
            query.push(" AND user_id = ").push_bind(user.0);
        }
        if filter.active_only {
            query.push(" AND EXISTS (SELECT 1 FROM bindings b WHERE b.alert_id = a.id AND b.status = 'active')");
        }
        if filter.price_alerts_only {
            query.push(
                " AND rule_name IN ('above', 'below') AND (SELECT count(*) FROM bindings b WHERE b.alert_id = a.id) = 1",
            );
        }
        query.push(" ORDER BY id LIMIT ").push_bind(i64::from(limit));
        let mut transaction = self.snapshot().await?;
        let rows = query.build().fetch_all(&mut *transaction).await?;
        let (first, last) = match (rows.first(), rows.last()) {
            (Some(first), Some(last)) => (first.try_get("id")?, last.try_get("id")?),
            _ => return Ok(Vec::new()),
        };
        let mut bindings = fetch_bindings(&mut transaction, first, last).await?;
        rows.iter().map(|row| alert(row, bindings.remove(&row.try_get("id")?).unwrap_or_default())).collect()
    }

    pub(crate) async fn delete_alert(&self, tenant: &Tenant, id: AlertId, now_ms: i64) -> Result<bool, StoreError> {
        let mut transaction = self.write().await?;
        let deleted =
            sqlx::query("UPDATE alerts SET deleted_at_ms = $1 WHERE tenant = $2 AND id = $3 AND deleted_at_ms IS NULL")
                .bind(now_ms)
                .bind(tenant.as_str())
                .bind(id.0)
                .execute(&mut *transaction)
                .await?
                .rows_affected();
        if deleted == 0 {
            return Ok(false);
        }
        let revision = Self::next_revision(&mut transaction).await?;
        sqlx::query("UPDATE bindings SET status = 'deleted', revision = $1 WHERE alert_id = $2")
            .bind(revision)
            .bind(id.0)
            .execute(&mut *transaction)
            .await?;
        self.commit_durable(transaction, Announcement::revision(revision)).await?;
        // Firings that are being recorded at this moment may not have seen the deletion: they come before its answer.
        self.wait_for_recording().await?;
        Ok(true)
    }
}

async fn earlier_request(
    transaction: &mut Tx,
    tenant: &Tenant,
    idempotency: &Idempotency,
) -> Result<Option<StoredAlert>, StoreError> {
    let earlier: Option<(Vec<u8>, i64)> =
        sqlx::query_as("SELECT fingerprint, alert_id FROM idempotency_keys WHERE tenant = $1 AND key = $2")
            .bind(tenant.as_str())
            .bind(&idempotency.key)
            .fetch_optional(&mut **transaction)
            .await?;
    let Some((fingerprint, id)) = earlier else { return Ok(None) };
    if fingerprint != idempotency.fingerprint {
        return Ok(Some(StoredAlert::KeyReused));
    }
    // A deleted alert is no answer to its own creation: the key is then spent.
    let alert = fetch_alert(transaction, tenant, AlertId(id)).await?;
    Ok(Some(alert.map_or(StoredAlert::KeyReused, StoredAlert::Repeated)))
}

/// The cap that an alert would exceed: the counters are kept by triggers.
async fn cap_reached(
    transaction: &mut Tx,
    new: &NewAlert,
    caps: BindingCaps,
) -> Result<Option<CapReached>, StoreError> {
    let of_tenant = sqlx::query_scalar("SELECT live FROM live_by_tenant WHERE tenant = $1").bind(new.tenant.as_str());
    let of_tenant: Option<i64> = of_tenant.fetch_optional(&mut **transaction).await?;
    let of_rule: Option<i64> =
        sqlx::query_scalar("SELECT live FROM live_by_rule WHERE tenant = $1 AND rule_digest = $2")
            .bind(new.tenant.as_str())
            .bind(&new.rule.digest.0[..])
            .fetch_optional(&mut **transaction)
            .await?;
    let more = new.symbols.len() as u64;
    let counts = [(Capped::Tenant, of_tenant, caps.per_tenant), (Capped::Rule, of_rule, caps.per_rule)];
    let counts =
        counts.map(|(capped, live, cap)| CapReached { capped, live: live.unwrap_or(0) as u64, needs: more, cap });
    match counts.into_iter().find(|count| count.live + more > count.cap) {
        None => bytes_reached(transaction, new, caps).await,
        reached => Ok(reached),
    }
}

/// The cap on bytes that an alert would exceed.
async fn bytes_reached(
    transaction: &mut Tx,
    new: &NewAlert,
    caps: BindingCaps,
) -> Result<Option<CapReached>, StoreError> {
    let (of_tenant, of_rule, record) = record_bytes(transaction, new.tenant.as_str(), &new.rule.digest).await?;
    let more = new.symbols.len() as u64 * record;
    let counts =
        [(Capped::TenantBytes, of_tenant, caps.bytes_per_tenant), (Capped::RuleBytes, of_rule, caps.bytes_per_rule)];
    let counts = counts.map(|(capped, live, cap)| CapReached { capped, live, needs: more, cap });
    Ok(counts.into_iter().find(|count| count.live + more > count.cap))
}

/// Bytes of params and states of the live bindings of a tenant, of one of its rule versions, and of one binding of that
/// version.
pub(super) async fn record_bytes(
    transaction: &mut Tx,
    tenant: &str,
    rule: &Digest,
) -> Result<(u64, u64, u64), StoreError> {
    let (of_tenant, of_rule): (i64, i64) = sqlx::query_as(
        "SELECT CAST(COALESCE(SUM(l.live * r.record_bytes), 0) AS BIGINT),
                CAST(COALESCE(SUM(CASE WHEN l.rule_digest = $1 THEN l.live * r.record_bytes ELSE 0 END), 0) AS BIGINT)
         FROM live_by_rule l JOIN (SELECT DISTINCT digest, record_bytes FROM rule_versions WHERE tenant = $2) r
           ON r.digest = l.rule_digest
         WHERE l.tenant = $3 AND l.live > 0",
    )
    .bind(&rule.0[..])
    .bind(tenant)
    .bind(tenant)
    .fetch_one(&mut **transaction)
    .await?;
    let of_one: Option<i64> =
        sqlx::query_scalar("SELECT record_bytes FROM rule_versions WHERE tenant = $1 AND digest = $2 LIMIT 1")
            .bind(tenant)
            .bind(&rule.0[..])
            .fetch_optional(&mut **transaction)
            .await?;
    Ok((of_tenant as u64, of_rule as u64, of_one.unwrap_or(0) as u64))
}

async fn insert_alert(transaction: &mut Tx, new: &NewAlert, revision: i64) -> Result<AlertId, StoreError> {
    sqlx::query("INSERT INTO users (tenant, id, created_at_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
        .bind(new.tenant.as_str())
        .bind(new.user.0)
        .bind(new.created_at_ms)
        .execute(&mut **transaction)
        .await?;
    let id: i64 = sqlx::query_scalar(
        "INSERT INTO alerts (tenant, user_id, rule_name, rule_version, rule_digest, params, packed_params, repeat,
                             created_at_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id",
    )
    .bind(new.tenant.as_str())
    .bind(new.user.0)
    .bind(new.rule.name.as_str())
    .bind(new.rule.version.to_string())
    .bind(&new.rule.digest.0[..])
    .bind(&new.params.json)
    .bind(&new.params.packed)
    .bind(rows::repeat_text(new.lifecycle))
    .bind(new.created_at_ms)
    .fetch_one(&mut **transaction)
    .await?;
    let mut starts = Vec::with_capacity(new.symbols.len());
    for (symbol, start) in &new.symbols {
        starts.push((symbol, start, resolve(transaction, symbol, start).await?));
    }
    let mut bindings = QueryBuilder::<Db>::new(
        "INSERT INTO bindings (alert_id, symbol, \"partition\", counts_from, partition_ends, status, revision, armed_revision) ",
    );
    bindings.push_values(starts, |mut row, (symbol, start, counts_from)| {
        row.push_bind(id).push_bind(symbol.as_str());
        row.push_bind(counts_from.map_or(-1, |position| i64::from(position.partition)));
        row.push_bind(counts_from.map_or(0, |position| position.offset as i64));
        row.push_bind(match (start, counts_from) {
            (Start::FirstSeen(ends), None) => Some(serde_json::to_string(&ends).expect("numbers are JSON")),
            _ => None,
        });
        row.push("'active'").push_bind(revision).push_bind(revision);
    });
    bindings.build().execute(&mut **transaction).await?;
    if let Some(idempotency) = &new.idempotency {
        sqlx::query(
            "INSERT INTO idempotency_keys (tenant, key, fingerprint, alert_id, created_at_ms) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(new.tenant.as_str())
        .bind(&idempotency.key)
        .bind(&idempotency.fingerprint[..])
        .bind(id)
        .bind(new.created_at_ms)
        .execute(&mut **transaction)
        .await?;
    }
    Ok(AlertId(id))
}

pub(super) async fn fetch_alert(
    connection: &mut DbConnection,
    tenant: &Tenant,
    id: AlertId,
) -> Result<Option<Alert>, StoreError> {
    let row = sqlx::query("SELECT * FROM alerts WHERE tenant = $1 AND id = $2 AND deleted_at_ms IS NULL")
        .bind(tenant.as_str())
        .bind(id.0)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let mut bindings = fetch_bindings(connection, id.0, id.0).await?;
    Ok(Some(alert(&row, bindings.remove(&id.0).unwrap_or_default())?))
}

/// The bindings of all alerts from one number to another.
async fn fetch_bindings(
    connection: &mut DbConnection,
    first: i64,
    last: i64,
) -> Result<HashMap<i64, Vec<Binding>>, StoreError> {
    let rows = sqlx::query("SELECT * FROM bindings WHERE alert_id BETWEEN $1 AND $2 ORDER BY id")
        .bind(first)
        .bind(last)
        .fetch_all(connection)
        .await?;
    let mut bindings: HashMap<i64, Vec<Binding>> = HashMap::new();
    for row in &rows {
        let status = rows::status(row.try_get("status")?, row.try_get("reason")?)?;
        // Deleted together with the alert.
        let Some(status) = status else { continue };
        let binding = Binding {
            id: BindingId(row.try_get("id")?),
            symbol: rows::symbol(row.try_get("symbol")?)?,
            status,
            counts_from: rows::start(row)?,
            suppressed: row.try_get::<i64, _>("suppressed")? as u64,
        };
        bindings.entry(row.try_get("alert_id")?).or_default().push(binding);
    }
    Ok(bindings)
}

fn alert(row: &DbRow, bindings: Vec<Binding>) -> Result<Alert, StoreError> {
    Ok(Alert {
        id: AlertId(row.try_get("id")?),
        tenant: Tenant::from_stored(row.try_get("tenant")?),
        user: UserId(row.try_get("user_id")?),
        rule: rows::rule_ref(row)?,
        params: Params { json: row.try_get("params")?, packed: row.try_get("packed_params")? },
        lifecycle: rows::lifecycle(row.try_get("repeat")?)?,
        created_at_ms: row.try_get("created_at_ms")?,
        bindings,
    })
}
