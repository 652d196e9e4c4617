//! What evaluators read: bindings and their changes, what was remembered of them.

use tocsin_engine::domain::{BindingId, Digest};
use tocsin_engine::{GroupSnapshot, SavedBinding};
use tokio::sync::watch;

use super::{Backend, Tx, rows};
use crate::{BindingRow, Changed, Claim, StoreError};

/// The bindings of `page`, with what evaluators need of their alerts and rules. The page is cut before anything is joined:
/// left to themselves, databases join all that is behind it, and sort that.
fn of_page(page: &str, order: &str) -> sqlx::AssertSqlSafe<String> {
    let columns = rows::BINDING_COLUMNS;
    sqlx::AssertSqlSafe(format!(
        "WITH page AS MATERIALIZED (SELECT * FROM bindings WHERE {page})
         SELECT {columns} FROM page b JOIN alerts a ON a.id = b.alert_id
         JOIN rule_versions r ON (r.tenant, r.name, r.version) = (a.tenant, a.rule_name, a.rule_version)
         LEFT JOIN resume_states s ON s.binding_id = b.id ORDER BY {order}"
    ))
}

impl Backend {
    pub(crate) async fn newest_revision(&self) -> Result<watch::Receiver<u64>, StoreError> {
        Ok(self.newest().revision.subscribe())
    }

    /// The next revision, to be announced by [`Self::commit_durable`].
    pub(super) async fn next_revision(transaction: &mut Tx) -> Result<i64, StoreError> {
        Ok(sqlx::query_scalar("UPDATE revisions SET newest = newest + 1 RETURNING newest")
            .fetch_one(&mut **transaction)
            .await?)
    }

    pub(crate) async fn changes(&self, after: u64, limit: u32) -> Result<Changed, StoreError> {
        let mut transaction = self.snapshot().await?;
        let newest: i64 = sqlx::query_scalar("SELECT newest FROM revisions").fetch_one(&mut *transaction).await?;
        let changed = of_page("revision > $1 ORDER BY revision, id LIMIT $2", "b.revision, b.id");
        let mut bindings = page(&mut transaction, changed, after, limit).await?;
        let armed = of_page(
            "armed_revision > $1 AND armed_revision <> revision AND status IN ('active', 'quarantined')
             ORDER BY armed_revision, id LIMIT $2",
            "b.armed_revision, b.id",
        );
        let armed = page(&mut transaction, armed, after, limit).await?;
        let revision = (newest as u64)
            .min(whole_up_to(bindings.iter().map(|row| row.revision), after, limit))
            .min(whole_up_to(armed.iter().map(|row| row.armed_revision), after, limit));
        bindings.retain(|row| row.revision <= revision);
        // Of these the change itself is on a later page, and their beginning was on no page before.
        bindings.extend(armed.into_iter().filter(|row| row.armed_revision <= revision && row.revision > revision));
        let impure: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT DISTINCT digest FROM rule_versions WHERE quarantine_revision > $1 AND quarantine_revision <= $2",
        )
        .bind(after as i64)
        .bind(revision as i64)
        .fetch_all(&mut *transaction)
        .await?;
        let impure_rules = impure.iter().map(|digest| rows::digest(digest)).collect::<Result<_, _>>()?;
        Ok(Changed { bindings, impure_rules, revision })
    }

    pub(crate) async fn live_bindings(
        &self,
        partition: u32,
        up_to_revision: u64,
        after: BindingId,
        limit: u32,
    ) -> Result<Vec<BindingRow>, StoreError> {
        sqlx::query(of_page(
            "\"partition\" = $1 AND status IN ('active', 'quarantined') AND armed_revision <= $2 AND id > $3
             ORDER BY id LIMIT $4",
            "b.id",
        ))
        .bind(i64::from(partition))
        .bind(up_to_revision as i64)
        .bind(after.0)
        .bind(i64::from(limit))
        .fetch_all(self.readers())
        .await?
        .iter()
        .map(rows::binding_row)
        .collect()
    }

    pub(crate) async fn halt_partition(&self, claim: &Claim, why: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE partitions SET halted = $1 WHERE \"partition\" = $2 AND epoch = $3")
            .bind(why)
            .bind(i64::from(claim.partition))
            .bind(claim.epoch as i64)
            .execute(self.writer())
            .await?;
        Ok(())
    }

    pub(crate) async fn saved_states(&self, partition: u32) -> Result<Vec<(Digest, SavedBinding)>, StoreError> {
        let records: Vec<(Vec<u8>, Vec<u8>)> =
            sqlx::query_as("SELECT rule_digest, records FROM group_states WHERE \"partition\" = $1")
                .bind(i64::from(partition))
                .fetch_all(self.readers())
                .await?;
        let mut saved = Vec::new();
        for (digest, bytes) in records {
            let digest = rows::digest(&digest)?;
            let records = GroupSnapshot::unpack(&bytes).map_err(|error| rows::damaged("group snapshot", error))?;
            saved.extend(records.into_iter().map(|saved| (digest, saved)));
        }
        Ok(saved)
    }
}

/// A page of bindings, by a statement of [`of_page`].
async fn page(
    transaction: &mut Tx,
    statement: sqlx::AssertSqlSafe<String>,
    after: u64,
    limit: u32,
) -> Result<Vec<BindingRow>, StoreError> {
    let query = sqlx::query(statement).bind(after as i64).bind(i64::from(limit));
    query.fetch_all(&mut **transaction).await?.iter().map(rows::binding_row).collect()
}

/// The last revision of a page that is on it as a whole, given the revision of each of its rows. The last one of a full page
/// may go on behind the limit: it is read again.
fn whole_up_to(revisions: impl DoubleEndedIterator<Item = u64> + ExactSizeIterator, after: u64, limit: u32) -> u64 {
    if revisions.len() < limit as usize {
        return u64::MAX;
    }
    let mut backwards = revisions.rev();
    let last = backwards.next();
    backwards.find(|revision| Some(*revision) != last).unwrap_or(after)
}
