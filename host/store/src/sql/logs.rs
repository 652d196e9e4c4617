//! Which log the offsets in the store refer to, and taking another one in its place.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, Row as _};
use tocsin_engine::domain::{BindingId, LogSalt};

use super::{Backend, CLOCK_MS, Tx, rows};
use crate::{AcceptedLog, Claim, LogStart, StoreError, TickLog};

impl Backend {
    pub(crate) async fn tick_log(&self) -> Result<Option<TickLog>, StoreError> {
        let row = sqlx::query("SELECT identity, generation, accepted_at_ms FROM tick_log");
        row.fetch_optional(self.readers()).await?.as_ref().map(tick_log).transpose()
    }

    pub(crate) async fn accept_log(&self, identity: &str, starts: &[LogStart]) -> Result<AcceptedLog, StoreError> {
        let mut transaction = self.write().await?;
        let promotions: i64 =
            sqlx::query_scalar("SELECT count(*) FROM promotions").fetch_one(&mut *transaction).await?;
        if promotions > 0 {
            return Ok(AcceptedLog::PromotionUnderWay);
        }
        let before = current(&mut transaction).await?;
        let is_known = before.is_some_and(|log| log.identity == identity);
        let generation: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
            "INSERT INTO tick_log AS l (only_one, identity, generation, accepted_at_ms) VALUES (1, $1, 0, {CLOCK_MS})
             ON CONFLICT (only_one) DO UPDATE SET identity = excluded.identity, generation = l.generation + 1,
                                                  accepted_at_ms = excluded.accepted_at_ms
             RETURNING generation"
        )))
        .bind(identity)
        .fetch_one(&mut *transaction)
        .await?;
        let mut moved_bindings = 0;
        if is_known {
            let mut changed = 0;
            for start in starts.iter().filter(|start| start.has_lost_records) {
                changed += cut_partition(&mut transaction, generation, start).await?;
            }
            if changed == 0 {
                return Ok(AcceptedLog::Known);
            }
        } else {
            forget_partitions(&mut transaction, identity, generation).await?;
            for start in starts {
                begin_partition(&mut transaction, start).await?;
            }
            moved_bindings = await_first_ticks(&mut transaction, starts).await?;
        }
        let log = current(&mut transaction).await?.ok_or_else(|| rows::damaged("log", "none was stored"))?;
        transaction.commit().await?;
        self.make_durable().await?;
        Ok(AcceptedLog::Accepted { log, moved_bindings })
    }

    pub(crate) async fn referenced(&self) -> Result<HashMap<u32, u64>, StoreError> {
        let rows: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT \"partition\", max(behind) FROM (
                 SELECT \"partition\", next_offset AS behind FROM partitions
                 UNION ALL SELECT \"partition\", referenced FROM partitions
                 UNION ALL SELECT \"partition\", coalesce(resumes_from, counts_from) FROM bindings
                     WHERE \"partition\" >= 0 AND status IN ('active', 'quarantined')
             ) AS stored GROUP BY \"partition\"",
        )
        .fetch_all(self.readers())
        .await?;
        // -1 stands for a partition that was never evaluated.
        Ok(rows.iter().filter_map(|(partition, end)| Some((*partition as u32, u64::try_from(*end).ok()?))).collect())
    }

    pub(crate) async fn claim(&self, partition: u32, log: Option<&str>) -> Result<Claim, StoreError> {
        let mut transaction = self.begin_commit(false).await?;
        let known = know_log(&mut transaction, log).await?;
        // A first claim has evaluated nothing: -1 stands for that.
        let row = sqlx::query(
            "INSERT INTO partitions (\"partition\", epoch, next_offset, revision, log, generation)
             VALUES ($1, 1, -1, 0, $2, $3) ON CONFLICT (\"partition\")
             DO UPDATE SET epoch = partitions.epoch + 1, log = coalesce(partitions.log, excluded.log)
             RETURNING epoch, next_offset, revision, unquarantined, referenced, log, generation",
        )
        .bind(i64::from(partition))
        .bind(known.as_ref().map(|log| log.identity.as_str()))
        .bind(known.as_ref().map_or(0, |log| i64::from(log.generation)))
        .fetch_one(&mut *transaction)
        .await?;
        let checkpointed: Option<String> = row.try_get("log")?;
        if let (Some(checkpointed), Some(found)) = (&checkpointed, log)
            && checkpointed != found
        {
            return Err(StoreError::OtherLog { expected: checkpointed.clone(), found: found.into() });
        }
        let generation = u32::try_from(row.try_get::<i64, _>("generation")?);
        let generation = generation.map_err(|error| rows::damaged("generation of a log", error))?;
        transaction.commit().await?;
        let unquarantined: Vec<i64> = serde_json::from_str(row.try_get("unquarantined")?)
            .map_err(|error| rows::damaged("list of unquarantined bindings", error))?;
        Ok(Claim {
            partition,
            epoch: row.try_get::<i64, _>("epoch")? as u64,
            next_offset: u64::try_from(row.try_get::<i64, _>("next_offset")?).ok(),
            referenced: row.try_get::<i64, _>("referenced")? as u64,
            revision: row.try_get::<i64, _>("revision")? as u64,
            unquarantined: unquarantined.into_iter().map(BindingId).collect(),
            salt: LogSalt::of(&checkpointed.unwrap_or_default(), generation),
        })
    }
}

/// The log that the store refers to: the one that was found, where it refers to none yet.
async fn know_log(transaction: &mut Tx, found: Option<&str>) -> Result<Option<TickLog>, StoreError> {
    if let Some(found) = found {
        sqlx::query(AssertSqlSafe(format!(
            "INSERT INTO tick_log (only_one, identity, generation, accepted_at_ms) VALUES (1, $1, 0, {CLOCK_MS})
             ON CONFLICT (only_one) DO NOTHING"
        )))
        .bind(found)
        .execute(&mut **transaction)
        .await?;
    }
    let known = current(transaction).await?;
    match (&known, found) {
        (Some(known), Some(found)) if known.identity != found => {
            Err(StoreError::OtherLog { expected: known.identity.clone(), found: found.into() })
        }
        _ => Ok(known),
    }
}

/// Fails unless offsets that are to be stored are those of the log that the store refers to.
pub(super) async fn check_log(transaction: &mut Tx, found: Option<&str>) -> Result<(), StoreError> {
    match (current(transaction).await?, found) {
        (Some(known), Some(found)) if known.identity != found => {
            Err(StoreError::OtherLog { expected: known.identity, found: found.into() })
        }
        _ => Ok(()),
    }
}

async fn current(transaction: &mut Tx) -> Result<Option<TickLog>, StoreError> {
    let row = sqlx::query("SELECT identity, generation, accepted_at_ms FROM tick_log");
    row.fetch_optional(&mut **transaction).await?.as_ref().map(tick_log).transpose()
}

fn tick_log(row: &super::DbRow) -> Result<TickLog, StoreError> {
    let generation: i64 = row.try_get("generation")?;
    Ok(TickLog {
        identity: row.try_get("identity")?,
        generation: generation.try_into().map_err(|error| rows::damaged("generation of a log", error))?,
        accepted_at_ms: row.try_get("accepted_at_ms")?,
    })
}

/// Forgets how far partitions were evaluated in the log before. Whoever evaluates at this moment writes nothing more.
async fn forget_partitions(transaction: &mut Tx, identity: &str, generation: i64) -> Result<(), StoreError> {
    let forget = "UPDATE partitions SET epoch = epoch + 1, log = $1, generation = $2, next_offset = -1, referenced = 0";
    sqlx::query(forget).bind(identity).bind(generation).execute(&mut **transaction).await?;
    Ok(())
}

/// Lets evaluation of a partition, and its live bindings, go on at an offset of the log that was accepted.
async fn begin_partition(transaction: &mut Tx, start: &LogStart) -> Result<(), StoreError> {
    let (partition, offset) = (i64::from(start.partition), start.offset as i64);
    // One that was never evaluated has no row, and begins at the earliest tick anyway.
    sqlx::query("UPDATE partitions SET next_offset = $1 WHERE \"partition\" = $2")
        .bind(offset)
        .bind(partition)
        .execute(&mut **transaction)
        .await?;
    sqlx::query(
        "UPDATE bindings SET counts_from = $1, resumes_from = NULL
         WHERE \"partition\" = $2 AND status IN ('active', 'quarantined')",
    )
    .bind(offset)
    .bind(partition)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Lets evaluation of a partition that has lost its last records go on at its end, if anything refers to one of those, and
/// gives ids of what happens from there on another salt. Returns how much referred to them.
async fn cut_partition(transaction: &mut Tx, generation: i64, start: &LogStart) -> Result<u64, StoreError> {
    let (partition, end) = (i64::from(start.partition), start.end as i64);
    let partitions = sqlx::query(
        "UPDATE partitions SET epoch = epoch + 1, generation = $1, referenced = $2,
                               next_offset = CASE WHEN next_offset > $2 THEN $2 ELSE next_offset END
         WHERE \"partition\" = $3 AND (next_offset > $2 OR referenced > $2)",
    )
    .bind(generation)
    .bind(end)
    .bind(partition)
    .execute(&mut **transaction)
    .await?;
    let bindings = sqlx::query(
        "UPDATE bindings SET counts_from = $1, resumes_from = NULL
         WHERE \"partition\" = $2 AND status IN ('active', 'quarantined') AND coalesce(resumes_from, counts_from) > $1",
    )
    .bind(end)
    .bind(partition)
    .execute(&mut **transaction)
    .await?;
    Ok(partitions.rows_affected() + bindings.rows_affected())
}

/// Has bindings wait for the first tick of their symbol where they did before, or where the log has no such partition any
/// more. Returns how many are of the latter kind.
async fn await_first_ticks(transaction: &mut Tx, starts: &[LogStart]) -> Result<u64, StoreError> {
    let partitions = starts.len() as i64;
    let ends: Vec<u64> = starts.iter().map(|start| start.offset).collect();
    let ends = serde_json::to_string(&ends).expect("numbers are JSON");
    sqlx::query("UPDATE symbol_assignments SET \"partition\" = -1 WHERE \"partition\" >= $1")
        .bind(partitions)
        .execute(&mut **transaction)
        .await?;
    let moved = sqlx::query(
        "UPDATE bindings SET \"partition\" = -1, counts_from = 0
         WHERE \"partition\" >= $1 AND status IN ('active', 'quarantined')",
    )
    .bind(partitions)
    .execute(&mut **transaction)
    .await?
    .rows_affected();
    sqlx::query(
        "UPDATE bindings SET partition_ends = $1 WHERE \"partition\" < 0 AND status IN ('active', 'quarantined')",
    )
    .bind(ends)
    .execute(&mut **transaction)
    .await?;
    Ok(moved)
}
