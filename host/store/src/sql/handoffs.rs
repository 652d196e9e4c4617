//! Handoffs: what evaluators hand over for a promotion, and what bindings go on with after it.

use std::collections::{BTreeMap, HashSet};

use sqlx::QueryBuilder;
use tocsin_engine::SavedBinding;

use super::{Backend, Db, ROWS_AT_ONCE, Tx};
use crate::{Checkpoint, Handoff, StoreError};

/// Takes bindings over from their evaluator, which has evaluated them up to the checkpoint's offset. Each is taken once:
/// evaluators begin with it anew after that. One that is asked for no more, since its promotion was taken back, is given
/// back at once, by a revision that the caller announces.
pub(super) async fn take_over(transaction: &mut Tx, checkpoint: &Checkpoint) -> Result<(), StoreError> {
    let handoffs: BTreeMap<i64, &Handoff> =
        checkpoint.handoffs.iter().map(|handoff| (handoff.binding.0, handoff)).collect();
    let handoffs: Vec<&Handoff> = handoffs.into_values().collect();
    for handoffs in handoffs.chunks(ROWS_AT_ONCE) {
        let mut taken = mark(transaction, checkpoint, handoffs, "requested", "handoff = 'held'").await?;
        let left: Vec<&Handoff> =
            handoffs.iter().copied().filter(|handoff| !taken.contains(&handoff.binding.0)).collect();
        if !left.is_empty() {
            let revision = Backend::next_revision(transaction).await?;
            let back = format!("revision = {revision}, armed_revision = {revision}");
            taken.extend(mark(transaction, checkpoint, &left, "none", &back).await?);
        }
        remember(transaction, handoffs.iter().filter(|handoff| taken.contains(&handoff.binding.0))).await?;
    }
    Ok(())
}

/// Marks bindings that were handed over while their hold was this one. Returns their numbers.
async fn mark(
    transaction: &mut Tx,
    checkpoint: &Checkpoint,
    handoffs: &[&Handoff],
    state: &'static str,
    marks: &str,
) -> Result<HashSet<i64>, StoreError> {
    let mut update = QueryBuilder::<Db>::new("UPDATE bindings SET ");
    update.push(marks).push(", resumes_from = CASE WHEN v.column3 THEN ");
    update.push_bind(checkpoint.next_offset as i64).push(" ELSE resumes_from END FROM (");
    update.push_values(handoffs, |mut row, handoff| {
        row.push_bind(handoff.binding.0).push_bind(handoff.armed_revision as i64).push_bind(handoff.saved.is_some());
    });
    update.push(") AS v WHERE bindings.id = v.column1 AND armed_revision = v.column2 AND handoff = ").push_bind(state);
    update.push(" AND status IN ('active', 'quarantined') RETURNING id");
    let marked = update.build_query_scalar().fetch_all(&mut **transaction).await?;
    Ok(marked.into_iter().collect())
}

/// Keeps what bindings remembered when they were handed over.
async fn remember<'a>(transaction: &mut Tx, handoffs: impl Iterator<Item = &'a &'a Handoff>) -> Result<(), StoreError> {
    let saved: Vec<&SavedBinding> = handoffs.filter_map(|handoff| handoff.saved.as_ref()).collect();
    if saved.is_empty() {
        return Ok(());
    }
    let mut remember = QueryBuilder::<Db>::new("INSERT INTO resume_states (binding_id, record) ");
    remember.push_values(saved, |mut row, saved| {
        row.push_bind(saved.binding.0).push_bind(saved.pack());
    });
    remember.push(" ON CONFLICT (binding_id) DO UPDATE SET record = excluded.record");
    remember.build().execute(&mut **transaction).await?;
    Ok(())
}

/// Forgets what bindings were to go on with, once a checkpoint remembers what came of it.
pub(super) async fn forget_resumed(transaction: &mut Tx, checkpoint: &Checkpoint) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM resume_states WHERE binding_id IN (
           SELECT b.id FROM resume_states s JOIN bindings b ON b.id = s.binding_id
           WHERE b.\"partition\" = $1 AND (b.status NOT IN ('active', 'quarantined')
             OR (b.handoff = 'none' AND b.armed_revision <= $2 AND coalesce(b.resumes_from, b.counts_from) <= $3)))",
    )
    .bind(i64::from(checkpoint.partition))
    .bind(checkpoint.revision as i64)
    .bind(checkpoint.next_offset as i64)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
