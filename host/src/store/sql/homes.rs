//! Homes of symbols, and bindings that wait for one.
//!
//! A symbol is at home where its first tick turned up since somebody watches it, and stays there for as long as somebody
//! does.

use std::collections::HashMap;

use sqlx::{QueryBuilder, Row as _};
use tocsin_engine::domain::{Position, Symbol};

use super::{Db, Member, ROWS_AT_ONCE, Tx, rows};
use crate::store::homes::end_of;
use crate::store::newest::News;
use crate::store::{Sought, Start, StoreError};

impl Member {
    pub(in crate::store) async fn homes(&self) -> Result<Vec<(Symbol, Option<u32>)>, StoreError> {
        let homes: Vec<(String, i64)> =
            sqlx::query_as("SELECT symbol, \"partition\" FROM symbol_assignments").fetch_all(self.readers()).await?;
        homes.iter().map(|(symbol, home)| Ok((rows::symbol(symbol)?, u32::try_from(*home).ok()))).collect()
    }

    pub(in crate::store) async fn sought(
        &self,
        after_revision: u64,
        up_to_revision: u64,
    ) -> Result<Vec<Sought>, StoreError> {
        let rows: Vec<(String, String)> = sqlx::query_as(
            "SELECT symbol, partition_ends FROM bindings
             WHERE \"partition\" < 0 AND status IN ('active', 'quarantined') AND revision > $1 AND revision <= $2",
        )
        .bind(after_revision as i64)
        .bind(up_to_revision as i64)
        .fetch_all(self.readers())
        .await?;
        let mut sought: HashMap<String, Vec<u64>> = HashMap::new();
        for (symbol, ends) in rows {
            let ends = parse_ends(&ends)?;
            let first = sought.entry(symbol).or_insert_with(|| ends.clone());
            let both = 0..first.len().min(ends.len()) as u32;
            *first = both.map(|partition| end_of(first, partition).min(end_of(&ends, partition))).collect();
        }
        sought.into_iter().map(|(symbol, ends)| Ok(Sought { symbol: rows::symbol(&symbol)?, ends })).collect()
    }

    pub(in crate::store) async fn watched_symbols(&self) -> Result<Vec<Symbol>, StoreError> {
        let live = "SELECT DISTINCT symbol FROM bindings WHERE status IN ('active', 'quarantined') ORDER BY symbol";
        let symbols: Vec<String> = sqlx::query_scalar(live).fetch_all(self.readers()).await?;
        symbols.iter().map(|symbol| rows::symbol(symbol)).collect()
    }

    pub(in crate::store) async fn settle(&self, symbol: &Symbol, partition: u32) -> Result<Option<u32>, StoreError> {
        let mut transaction = self.write().await?;
        // Revisions are drawn before anything is read: whoever creates alerts waits, or was before this.
        let mut revision = Self::next_revision(&mut transaction).await?;
        let mut begins = waiting(&mut transaction, symbol).await?;
        if begins.is_empty() {
            // The alert that awaited it was deleted, or another evaluator was first.
            return assigned(&mut transaction, symbol).await;
        }
        let home = home_or(&mut transaction, symbol, Some(partition)).await?.unwrap_or(partition);
        while !begins.is_empty() {
            begin(&mut transaction, home, revision, &begins).await?;
            revision = Self::next_revision(&mut transaction).await?;
            begins = waiting(&mut transaction, symbol).await?;
        }
        self.conclude(transaction, News::revision(revision)).await?;
        Ok(Some(home))
    }

    pub(in crate::store) async fn live_among(&self, symbols: &[Symbol]) -> Result<Vec<Symbol>, StoreError> {
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

/// Where a new binding counts from; None if that is still to be seen. An asserted position makes its partition the home.
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
            let home = home_or(transaction, symbol, None).await?;
            Ok(home.map(|partition| Position { partition, offset: end_of(ends, partition) }))
        }
    }
}

async fn is_watched(transaction: &mut Tx, symbol: &Symbol) -> Result<bool, StoreError> {
    let live = "SELECT EXISTS (SELECT 1 FROM bindings WHERE symbol = $1 AND status IN ('active', 'quarantined'))";
    Ok(sqlx::query_scalar(live).bind(symbol.as_str()).fetch_one(&mut **transaction).await?)
}

/// The partition that a symbol is assigned to, if it is to one.
async fn assigned(transaction: &mut Tx, symbol: &Symbol) -> Result<Option<u32>, StoreError> {
    let query = sqlx::query_scalar("SELECT \"partition\" FROM symbol_assignments WHERE symbol = $1");
    let partition: Option<i64> = query.bind(symbol.as_str()).fetch_optional(&mut **transaction).await?;
    Ok(partition.and_then(|partition| u32::try_from(partition).ok()))
}

/// The home of a symbol. Where it has none it gets this one, or waits for one.
async fn home_or(transaction: &mut Tx, symbol: &Symbol, home: Option<u32>) -> Result<Option<u32>, StoreError> {
    let home: i64 = sqlx::query_scalar(
        "INSERT INTO symbol_assignments (symbol, \"partition\") VALUES ($1, $2) ON CONFLICT (symbol) DO UPDATE
         SET \"partition\" = CASE WHEN symbol_assignments.\"partition\" < 0 THEN excluded.\"partition\"
                                  ELSE symbol_assignments.\"partition\" END
         RETURNING \"partition\"",
    )
    .bind(symbol.as_str())
    .bind(home.map_or(-1, i64::from))
    .fetch_one(&mut **transaction)
    .await?;
    Ok(u32::try_from(home).ok())
}

/// Some bindings that wait for the home of a symbol, each with the ends that it has noted.
async fn waiting(transaction: &mut Tx, symbol: &Symbol) -> Result<Vec<(i64, Vec<u64>)>, StoreError> {
    let rows = sqlx::query(
        "SELECT id, partition_ends FROM bindings
         WHERE symbol = $1 AND status IN ('active', 'quarantined') AND \"partition\" < 0 ORDER BY id LIMIT $2",
    )
    .bind(symbol.as_str())
    .bind(ROWS_AT_ONCE as i64)
    .fetch_all(&mut **transaction)
    .await?;
    rows.iter().map(|row| Ok((row.try_get("id")?, parse_ends(row.try_get("partition_ends")?)?))).collect()
}

fn parse_ends(text: &str) -> Result<Vec<u64>, StoreError> {
    serde_json::from_str(text).map_err(|error| rows::damaged("list of ends", error))
}

async fn begin(transaction: &mut Tx, home: u32, revision: i64, waiting: &[(i64, Vec<u64>)]) -> Result<(), StoreError> {
    let mut update = QueryBuilder::<Db>::new("UPDATE bindings AS b SET \"partition\" = ");
    update.push_bind(i64::from(home)).push(", partition_ends = NULL, revision = ").push_bind(revision);
    update.push(", armed_revision = ").push_bind(revision).push(", counts_from = v.column2 FROM (");
    update.push_values(waiting, |mut row, (binding, ends)| {
        row.push_bind(*binding).push_bind(end_of(ends, home) as i64);
    });
    update.push(") AS v WHERE b.id = v.column1");
    update.build().execute(&mut **transaction).await?;
    Ok(())
}
