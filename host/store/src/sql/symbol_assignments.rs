//! Symbol assignments, and bindings that wait for one.
//!
//! A symbol is assigned to the partition on which its first tick arrives after it is watched, and stays assigned to it for as
//! long as a live binding watches the symbol.

use std::collections::HashMap;

use sqlx::{QueryBuilder, Row as _};
use tocsin_engine::domain::{Position, Symbol};

use super::{Backend, Db, DbRow, ROWS_AT_ONCE, Tx, rows};
use crate::newest::Announcement;
use crate::symbol_assignment::end_of;
use crate::{Start, StoreError, SymbolAssignment, UnassignedSymbol};

impl Backend {
    pub(crate) async fn symbol_assignments(&self) -> Result<Vec<SymbolAssignment>, StoreError> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT symbol, \"partition\" FROM symbol_assignments").fetch_all(self.readers()).await?;
        let assignment = |(symbol, partition): &(String, i64)| {
            Ok(SymbolAssignment { symbol: rows::symbol(symbol)?, partition: u32::try_from(*partition).ok() })
        };
        rows.iter().map(assignment).collect()
    }

    pub(crate) async fn unassigned_symbols(
        &self,
        after_revision: u64,
        up_to_revision: u64,
    ) -> Result<Vec<UnassignedSymbol>, StoreError> {
        let rows: Vec<(String, String)> = sqlx::query_as(
            "SELECT symbol, partition_ends FROM bindings
             WHERE \"partition\" < 0 AND status IN ('active', 'quarantined') AND revision > $1 AND revision <= $2",
        )
        .bind(after_revision as i64)
        .bind(up_to_revision as i64)
        .fetch_all(self.readers())
        .await?;
        let mut unassigned: HashMap<String, Vec<u64>> = HashMap::new();
        for (symbol, ends) in rows {
            let ends = parse_ends(&ends)?;
            let first = unassigned.entry(symbol).or_insert_with(|| ends.clone());
            let both = 0..first.len().min(ends.len()) as u32;
            *first = both.map(|partition| end_of(first, partition).min(end_of(&ends, partition))).collect();
        }
        unassigned
            .into_iter()
            .map(|(symbol, ends)| Ok(UnassignedSymbol { symbol: rows::symbol(&symbol)?, ends }))
            .collect()
    }

    pub(crate) async fn watched_symbols(&self) -> Result<Vec<Symbol>, StoreError> {
        let live = "SELECT DISTINCT symbol FROM bindings WHERE status IN ('active', 'quarantined') ORDER BY symbol";
        let symbols: Vec<String> = sqlx::query_scalar(live).fetch_all(self.readers()).await?;
        symbols.iter().map(|symbol| rows::symbol(symbol)).collect()
    }

    pub(crate) async fn assign_symbol(&self, symbol: &Symbol, partition: u32) -> Result<Option<u32>, StoreError> {
        let mut transaction = self.write().await?;
        // Draw a revision before anything is read: creations of alerts wait for it, or were committed before.
        let mut revision = Self::next_revision(&mut transaction).await?;
        let mut bindings = waiting_bindings(&mut transaction, symbol).await?;
        if bindings.is_empty() {
            // The alert that waited was deleted, or another evaluator assigned the symbol first.
            return assigned_partition(&mut transaction, symbol).await;
        }
        let partition = assign_if_unassigned(&mut transaction, symbol, Some(partition)).await?.unwrap_or(partition);
        while !bindings.is_empty() {
            start_bindings(&mut transaction, partition, revision, &bindings).await?;
            revision = Self::next_revision(&mut transaction).await?;
            bindings = waiting_bindings(&mut transaction, symbol).await?;
        }
        self.commit_durable(transaction, Announcement::revision(revision)).await?;
        Ok(Some(partition))
    }

    pub(crate) async fn live_among(&self, symbols: &[Symbol]) -> Result<Vec<Symbol>, StoreError> {
        if symbols.is_empty() {
            return Ok(Vec::new());
        }
        let mut query = QueryBuilder::<Db>::new(
            "SELECT DISTINCT symbol FROM bindings WHERE status IN ('active', 'quarantined') AND symbol IN (",
        );
        let mut list = query.separated(", ");
        symbols.iter().for_each(|symbol| _ = list.push_bind(symbol.as_str().to_owned()));
        query.push(") ORDER BY symbol");
        let live: Vec<String> = query.build_query_scalar().fetch_all(self.status()).await?;
        live.iter().map(|symbol| rows::symbol(symbol)).collect()
    }
}

/// Returns where a new binding counts from; None while its symbol is not assigned. [`Start::At`] assigns the symbol.
pub(super) async fn resolve(
    transaction: &mut Tx,
    symbol: &Symbol,
    start: &Start,
) -> Result<Option<Position>, StoreError> {
    match start {
        Start::At(position) => {
            sqlx::query(
                "INSERT INTO symbol_assignments (symbol, \"partition\") VALUES ($1, $2) ON CONFLICT (symbol)
                 DO UPDATE SET \"partition\" = excluded.\"partition\"
                 WHERE symbol_assignments.\"partition\" <> excluded.\"partition\"",
            )
            .bind(symbol.as_str())
            .bind(i64::from(position.partition))
            .execute(&mut **transaction)
            .await?;
            Ok(Some(*position))
        }
        Start::FirstSeen(ends) => {
            if !is_watched(transaction, symbol).await? {
                sqlx::query("DELETE FROM symbol_assignments WHERE symbol = $1")
                    .bind(symbol.as_str())
                    .execute(&mut **transaction)
                    .await?;
            }
            let assigned = assign_if_unassigned(transaction, symbol, None).await?;
            Ok(assigned.map(|partition| Position { partition, offset: end_of(ends, partition) }))
        }
    }
}

async fn is_watched(transaction: &mut Tx, symbol: &Symbol) -> Result<bool, StoreError> {
    let live = "SELECT EXISTS (SELECT 1 FROM bindings WHERE symbol = $1 AND status IN ('active', 'quarantined'))";
    Ok(sqlx::query_scalar(live).bind(symbol.as_str()).fetch_one(&mut **transaction).await?)
}

/// Returns the partition that a symbol is assigned to.
async fn assigned_partition(transaction: &mut Tx, symbol: &Symbol) -> Result<Option<u32>, StoreError> {
    let query = sqlx::query_scalar("SELECT \"partition\" FROM symbol_assignments WHERE symbol = $1");
    let partition: Option<i64> = query.bind(symbol.as_str()).fetch_optional(&mut **transaction).await?;
    Ok(partition.and_then(|partition| u32::try_from(partition).ok()))
}

/// Returns the partition that a symbol is assigned to. An unassigned symbol is assigned to `partition` first; with None it is
/// stored as unassigned.
async fn assign_if_unassigned(
    transaction: &mut Tx,
    symbol: &Symbol,
    partition: Option<u32>,
) -> Result<Option<u32>, StoreError> {
    let assigned: i64 = sqlx::query_scalar(
        "INSERT INTO symbol_assignments (symbol, \"partition\") VALUES ($1, $2) ON CONFLICT (symbol) DO UPDATE
         SET \"partition\" = CASE WHEN symbol_assignments.\"partition\" < 0 THEN excluded.\"partition\"
                                  ELSE symbol_assignments.\"partition\" END
         RETURNING \"partition\"",
    )
    .bind(symbol.as_str())
    .bind(partition.map_or(-1, i64::from))
    .fetch_one(&mut **transaction)
    .await?;
    Ok(u32::try_from(assigned).ok())
}

/// A binding whose symbol is not assigned yet.
struct WaitingBinding {
    id: i64,
    /// Where each partition ended when it was created.
    ends: Vec<u64>,
}

/// Returns at most [`ROWS_AT_ONCE`] bindings that wait for a symbol's assignment.
async fn waiting_bindings(transaction: &mut Tx, symbol: &Symbol) -> Result<Vec<WaitingBinding>, StoreError> {
    let rows = sqlx::query(
        "SELECT id, partition_ends FROM bindings
         WHERE symbol = $1 AND status IN ('active', 'quarantined') AND \"partition\" < 0 ORDER BY id LIMIT $2",
    )
    .bind(symbol.as_str())
    .bind(ROWS_AT_ONCE as i64)
    .fetch_all(&mut **transaction)
    .await?;
    let waiting =
        |row: &DbRow| Ok(WaitingBinding { id: row.try_get("id")?, ends: parse_ends(row.try_get("partition_ends")?)? });
    rows.iter().map(waiting).collect()
}

fn parse_ends(text: &str) -> Result<Vec<u64>, StoreError> {
    serde_json::from_str(text).map_err(|error| rows::damaged("list of partition ends", error))
}

/// Starts waiting bindings on a partition, each where that partition ended when the binding was created.
async fn start_bindings(
    transaction: &mut Tx,
    partition: u32,
    revision: i64,
    waiting: &[WaitingBinding],
) -> Result<(), StoreError> {
    let mut update = QueryBuilder::<Db>::new("UPDATE bindings AS b SET \"partition\" = ");
    update.push_bind(i64::from(partition)).push(", partition_ends = NULL, revision = ").push_bind(revision);
    update.push(", armed_revision = ").push_bind(revision).push(", counts_from = v.column2 FROM (");
    update.push_values(waiting, |mut row, binding| {
        row.push_bind(binding.id).push_bind(end_of(&binding.ends, partition) as i64);
    });
    update.push(") AS v WHERE b.id = v.column1");
    update.build().execute(&mut **transaction).await?;
    Ok(())
}
