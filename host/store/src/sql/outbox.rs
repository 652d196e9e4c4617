//! The outbox: firings that are still to be delivered. An alert has one owner at any time, by the clock of the database,
//! and only its owner delivers its firings: so each alert's order holds. A firing leaves the outbox once it is delivered.
//!
//! Whoever leases, renews, releases or acknowledges does so alone (`lock_outbox_owners`). Otherwise a lease could read that
//! an alert has no owner while a renewal of it is not committed yet, pass over the rows that the renewal has locked, and
//! take later firings of the same alert.

use std::collections::BTreeSet;

use sqlx::QueryBuilder;
use tocsin_engine::domain::Firing;

use super::{Backend, CLOCK_MS, Db, ROWS_AT_ONCE, Tx, rows};
use crate::{OutboxLease, StoreError};

impl Backend {
    pub(crate) async fn lease_outbox(&self, lease: &OutboxLease, limit: u32) -> Result<Vec<(u64, Firing)>, StoreError> {
        let mut transaction = self.begin_commit(false).await?;
        Self::lock_outbox_owners(&mut transaction).await?;
        let due = sqlx::query(sqlx::AssertSqlSafe(format!(
            "WITH due AS MATERIALIZED
               (SELECT seq FROM outbox WHERE alert_id NOT IN
                  (SELECT alert_id FROM outbox_owners WHERE until_ms > {CLOCK_MS}) ORDER BY seq LIMIT $1)
             SELECT f.* FROM due JOIN firings f ON f.seq = due.seq ORDER BY f.seq"
        )))
        .bind(i64::from(limit))
        .fetch_all(&mut *transaction)
        .await?;
        let firings = due.iter().map(rows::firing).collect::<Result<Vec<_>, _>>()?;
        let alerts: BTreeSet<i64> = firings.iter().map(|(_, firing)| firing.alert.0).collect();
        own(&mut transaction, lease, alerts.into_iter().collect()).await?;
        transaction.commit().await?;
        Ok(firings)
    }

    pub(crate) async fn renew_outbox(&self, lease: &OutboxLease) -> Result<u64, StoreError> {
        let mut transaction = self.begin_commit(false).await?;
        Self::lock_outbox_owners(&mut transaction).await?;
        let renewed = sqlx::query(sqlx::AssertSqlSafe(format!(
            "UPDATE outbox_owners SET until_ms = {CLOCK_MS} + $1 WHERE owner = $2 AND until_ms > {CLOCK_MS}"
        )))
        .bind(lease.duration_ms())
        .bind(&lease.owner)
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        transaction.commit().await?;
        Ok(renewed)
    }

    pub(crate) async fn release_outbox(&self, owner: &str) -> Result<(), StoreError> {
        let mut transaction = self.begin_commit(false).await?;
        Self::lock_outbox_owners(&mut transaction).await?;
        disown(&mut transaction, owner).await?;
        transaction.commit().await?;
        Ok(())
    }

    pub(crate) async fn ack_outbox(&self, owner: &str, delivered: &[u64]) -> Result<u64, StoreError> {
        let mut transaction = self.begin_commit(false).await?;
        Self::lock_outbox_owners(&mut transaction).await?;
        let mut gone = 0;
        for delivered in delivered.chunks(ROWS_AT_ONCE) {
            let mut delete = QueryBuilder::<Db>::new(
                "DELETE FROM outbox WHERE alert_id IN (SELECT alert_id FROM outbox_owners WHERE owner = ",
            );
            delete.push_bind(owner).push(") AND seq IN (");
            let mut list = delete.separated(", ");
            delivered.iter().for_each(|seq| _ = list.push_bind(*seq as i64));
            gone += delete.push(")").build().execute(&mut *transaction).await?.rows_affected();
        }
        disown(&mut transaction, owner).await?;
        transaction.commit().await?;
        Ok(gone)
    }
}

/// Makes a deliverer the owner of alerts that have none, or whose owner's lease has run out.
async fn own(transaction: &mut Tx, lease: &OutboxLease, alerts: Vec<i64>) -> Result<(), StoreError> {
    for alerts in alerts.chunks(ROWS_AT_ONCE) {
        let mut insert = QueryBuilder::<Db>::new("INSERT INTO outbox_owners (alert_id, owner, until_ms) ");
        insert.push_values(alerts, |mut row, alert| {
            row.push_bind(*alert).push_bind(&lease.owner);
            row.push(CLOCK_MS).push_unseparated(" + ").push_bind_unseparated(lease.duration_ms());
        });
        insert.push(" ON CONFLICT (alert_id) DO UPDATE SET owner = excluded.owner, until_ms = excluded.until_ms");
        insert.build().execute(&mut **transaction).await?;
    }
    Ok(())
}

async fn disown(transaction: &mut Tx, owner: &str) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM outbox_owners WHERE owner = $1").bind(owner).execute(&mut **transaction).await?;
    Ok(())
}

/// Puts firings into the outbox by their numbers: all between the two were recorded by this transaction.
pub(super) async fn put_into_outbox(transaction: &mut Tx, first: i64, last: i64) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO outbox (seq, alert_id) SELECT seq, alert_id FROM firings WHERE seq BETWEEN $1 AND $2")
        .bind(first)
        .bind(last)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}
