//! Firings, as they are read.

use sqlx::QueryBuilder;
use tocsin_engine::domain::{AlertId, Firing, FiringId, Tenant};
use tokio::sync::watch;

use super::{Backend, rows};
use crate::StoreError;

impl Backend {
    pub(crate) async fn firings(
        &self,
        tenant: &Tenant,
        alert: Option<AlertId>,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, Firing)>, StoreError> {
        let mut query = QueryBuilder::new("SELECT * FROM firings WHERE tenant = ");
        query.push_bind(tenant.as_str()).push(" AND seq > ").push_bind(after as i64);
        if let Some(alert) = alert {
            query.push(" AND alert_id = ").push_bind(alert.0);
        }
        query.push(" ORDER BY seq LIMIT ").push_bind(i64::from(limit));
        query.build().fetch_all(self.readers()).await?.iter().map(rows::firing).collect()
    }

    pub(crate) async fn firings_of_all(&self, after: u64, limit: u32) -> Result<Vec<(u64, Firing)>, StoreError> {
        let query = sqlx::query("SELECT * FROM firings WHERE seq > $1 ORDER BY seq LIMIT $2");
        let rows = query.bind(after as i64).bind(i64::from(limit)).fetch_all(self.readers()).await?;
        rows.iter().map(rows::firing).collect()
    }

    pub(crate) async fn firing_seq(&self, tenant: &Tenant, id: FiringId) -> Result<Option<u64>, StoreError> {
        let seq: Option<i64> = sqlx::query_scalar("SELECT seq FROM firings WHERE id = $1 AND tenant = $2")
            .bind(&id.as_bytes()[..])
            .bind(tenant.as_str())
            .fetch_optional(self.readers())
            .await?;
        Ok(seq.map(|seq| seq as u64))
    }

    pub(crate) async fn last_firing(&self, tenant: &Tenant) -> Result<Option<(u64, Firing)>, StoreError> {
        let query = sqlx::query("SELECT * FROM firings WHERE tenant = $1 ORDER BY seq DESC LIMIT 1");
        let row = query.bind(tenant.as_str()).fetch_optional(self.readers()).await?;
        row.as_ref().map(rows::firing).transpose()
    }

    pub(crate) async fn newest_firing(&self) -> Result<watch::Receiver<u64>, StoreError> {
        Ok(self.newest().firing.subscribe())
    }
}
