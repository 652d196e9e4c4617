//! Locks with a lease. Times are those of the database's clock: holders on several machines need not agree on theirs.

use sqlx::AssertSqlSafe;

use super::{Backend, CLOCK_MS};
use crate::{Lease, Leased, StoreError};

impl Backend {
    pub(crate) async fn acquire_lease(&self, lease: &Lease) -> Result<Leased, StoreError> {
        // Asking again for what one holds is no error: the answer may have been lost.
        let taken: Option<String> = sqlx::query_scalar(AssertSqlSafe(format!(
            "INSERT INTO leases AS l (name, owner, until_ms) VALUES ($1, $2, {CLOCK_MS} + $3)
             ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until_ms = excluded.until_ms
             WHERE l.until_ms <= {CLOCK_MS} OR l.owner = excluded.owner RETURNING owner"
        )))
        .bind(&lease.name)
        .bind(&lease.owner)
        .bind(lease.duration_ms())
        .fetch_optional(self.writer())
        .await?;
        if taken.is_some() {
            return Ok(Leased::Held);
        }
        let holder: Option<String> = sqlx::query_scalar("SELECT owner FROM leases WHERE name = $1")
            .bind(&lease.name)
            .fetch_optional(self.writer())
            .await?;
        // It was released in between: whoever asks again gets it.
        Ok(Leased::HeldBy(holder.unwrap_or_default()))
    }

    pub(crate) async fn renew_lease(&self, lease: &Lease) -> Result<bool, StoreError> {
        let renewed = sqlx::query(AssertSqlSafe(format!(
            "UPDATE leases SET until_ms = {CLOCK_MS} + $1 WHERE name = $2 AND owner = $3 AND until_ms > {CLOCK_MS}"
        )))
        .bind(lease.duration_ms())
        .bind(&lease.name)
        .bind(&lease.owner)
        .execute(self.writer())
        .await?;
        Ok(renewed.rows_affected() == 1)
    }

    pub(crate) async fn release_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        let release = sqlx::query("DELETE FROM leases WHERE name = $1 AND owner = $2");
        release.bind(&lease.name).bind(&lease.owner).execute(self.writer()).await?;
        Ok(())
    }
}
