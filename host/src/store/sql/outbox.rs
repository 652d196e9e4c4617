//! The outbox: firings that are still to be told. Each is leased to one deliverer at a time, and goes once it is told.
//! Deliverers lease one after the other, and pass over alerts of which another has a firing: so each alert's order holds.

use sqlx::QueryBuilder;
use tocsin_engine::domain::Firing;

use super::{Db, Member, ROWS_AT_ONCE, SKIP_LOCKED, Tx, rows};
use crate::store::{OutboxLease, StoreError};

impl Member {
    pub(in crate::store) async fn lease_outbox(
        &self,
        lease: &OutboxLease,
        limit: u32,
        now_ms: i64,
    ) -> Result<Vec<(u64, Firing)>, StoreError> {
        let mut transaction = self.begin_commit(false).await?;
        Self::take_lessors_turn(&mut transaction).await?;
        // That leases end after 0 is said apart, since that is what the index of leased rows knows.
        let leased: Vec<i64> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "WITH due AS MATERIALIZED
               (SELECT seq FROM outbox o WHERE leased_until_ms <= $1 AND alert_id NOT IN
                  (SELECT alert_id FROM outbox WHERE leased_until_ms > 0 AND leased_until_ms > $1)
                ORDER BY seq LIMIT $2{SKIP_LOCKED})
             UPDATE outbox SET lease = $3, leased_until_ms = $4 WHERE seq IN (SELECT seq FROM due) RETURNING seq"
        )))
        .bind(now_ms)
        .bind(i64::from(limit))
        .bind(&lease.owner)
        .bind(now_ms.saturating_add(lease.duration_ms))
        .fetch_all(&mut *transaction)
        .await?;
        let mut firings = Vec::new();
        for leased in leased.chunks(ROWS_AT_ONCE) {
            let mut query = QueryBuilder::<Db>::new("SELECT * FROM firings WHERE seq IN (");
            let mut list = query.separated(", ");
            leased.iter().for_each(|seq| _ = list.push_bind(*seq));
            let read = query.push(")").build().fetch_all(&mut *transaction).await?;
            firings.extend(read.iter().map(rows::firing).collect::<Result<Vec<_>, _>>()?);
        }
        transaction.commit().await?;
        firings.sort_unstable_by_key(|(seq, _)| *seq);
        Ok(firings)
    }

    pub(in crate::store) async fn renew_outbox(&self, lease: &OutboxLease, now_ms: i64) -> Result<(), StoreError> {
        self.lease_again(&lease.owner, now_ms.saturating_add(lease.duration_ms)).await
    }

    pub(in crate::store) async fn release_outbox(&self, owner: &str) -> Result<(), StoreError> {
        self.lease_again(owner, 0).await
    }

    async fn lease_again(&self, owner: &str, until_ms: i64) -> Result<(), StoreError> {
        let update = sqlx::query("UPDATE outbox SET leased_until_ms = $1 WHERE lease = $2 AND leased_until_ms > 0");
        update.bind(until_ms).bind(owner).execute(self.writer()).await?;
        Ok(())
    }

    pub(in crate::store) async fn ack_outbox(&self, owner: &str, told: &[u64]) -> Result<u64, StoreError> {
        let mut transaction = self.begin_commit(false).await?;
        let mut gone = 0;
        for told in told.chunks(ROWS_AT_ONCE) {
            let mut delete = QueryBuilder::<Db>::new("DELETE FROM outbox WHERE lease = ");
            delete.push_bind(owner).push(" AND seq IN (");
            let mut list = delete.separated(", ");
            told.iter().for_each(|seq| _ = list.push_bind(*seq as i64));
            gone += delete.push(")").build().execute(&mut *transaction).await?.rows_affected();
        }
        transaction.commit().await?;
        Ok(gone)
    }
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
