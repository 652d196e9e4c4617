//! What evaluators write: firings, faults, quarantines and checkpoints, in one transaction that holds only while their
//! claims do.

use std::collections::{BTreeMap, HashMap, HashSet};

use sqlx::QueryBuilder;
use tocsin_engine::domain::{BindingId, Firing, LogSalt};

use super::faults::insert_faults;
use super::handoffs::{forget_resumed, take_over};
use super::outbox::put_into_outbox;
use super::quarantine::quarantine_rule;
use super::{Backend, Db, GROUPS_AT_ONCE, LOCK_CLAIMS, ROWS_AT_ONCE, Tx, rows};
use crate::newest::Announcement;
use crate::{Checkpoint, Claim, Commit, StoreError};

impl Backend {
    /// Statuses and checkpoints come first: numbers of events are drawn last, since others wait from then on.
    pub(crate) async fn commit(&self, claims: &[Claim], commit: &Commit) -> Result<u64, StoreError> {
        let mut transaction = self.begin_commit(draws_revision(commit)).await?;
        check_claims(&mut transaction, claims).await?;
        let quarantined = commit.faults.iter().filter(|fault| fault.quarantined);
        let quarantined = quarantined.map(|fault| (fault.binding.0, fault.bundle.fault.to_string())).collect();
        set_status(&mut transaction, "quarantined", quarantined).await?;
        let mut announcement = Announcement::default();
        for (rule, reason) in &commit.impure_rules {
            let revision = quarantine_rule(&mut transaction, rule.digest, reason, commit.at_ms).await?;
            announcement.revision = revision.or(announcement.revision);
        }
        for checkpoint in &commit.checkpoints {
            write_checkpoint(&mut transaction, checkpoint).await?;
            if !checkpoint.handoffs.is_empty() {
                // Whoever promotes is waiting for it.
                announcement.revision = Some(Self::next_revision(&mut transaction).await?);
            }
        }
        let salts = Salts::of(claims);
        let recorded = record_events(&mut transaction, commit, &salts).await?;
        note_references(&mut transaction, commit).await?;
        announcement.firing = recorded.last().copied();
        self.commit_replayable(transaction, announcement).await?;
        Ok(recorded.len() as u64)
    }
}

/// The logs of partitions that are written to, for ids of what happened on them.
pub(super) struct Salts(HashMap<u32, LogSalt>);

impl Salts {
    fn of(claims: &[Claim]) -> Self {
        Self(claims.iter().map(|claim| (claim.partition, claim.salt)).collect())
    }

    pub(super) fn of_partition(&self, partition: u32) -> LogSalt {
        self.0.get(&partition).copied().unwrap_or_default()
    }
}

/// Notes up to which offsets firings and faults refer, so that a log that lost its end uses none of them again.
async fn note_references(transaction: &mut Tx, commit: &Commit) -> Result<(), StoreError> {
    let firings = commit.firings.iter().map(|(firing, _)| firing.position);
    let faults = commit.faults.iter().map(|fault| fault.bundle.position);
    let mut behind: BTreeMap<u32, u64> = BTreeMap::new();
    for position in firings.chain(faults) {
        let behind = behind.entry(position.partition).or_default();
        *behind = (*behind).max(position.offset + 1);
    }
    for (partition, behind) in behind {
        sqlx::query("UPDATE partitions SET referenced = $1 WHERE \"partition\" = $2 AND referenced < $1")
            .bind(behind as i64)
            .bind(i64::from(partition))
            .execute(&mut **transaction)
            .await?;
    }
    Ok(())
}

fn draws_revision(commit: &Commit) -> bool {
    !commit.impure_rules.is_empty() || commit.checkpoints.iter().any(|checkpoint| !checkpoint.handoffs.is_empty())
}

/// Fails unless all claims hold; they do then until the transaction ends.
async fn check_claims(transaction: &mut Tx, claims: &[Claim]) -> Result<(), StoreError> {
    if claims.is_empty() {
        return Ok(());
    }
    let mut query = QueryBuilder::<Db>::new("SELECT \"partition\", epoch FROM partitions WHERE \"partition\" IN (");
    let mut list = query.separated(", ");
    claims.iter().for_each(|claim| _ = list.push_bind(i64::from(claim.partition)));
    query.push(") ORDER BY \"partition\"").push(LOCK_CLAIMS);
    let epochs: Vec<(i64, i64)> = query.build_query_as().fetch_all(&mut **transaction).await?;
    let holds = |claim: &Claim| epochs.contains(&(i64::from(claim.partition), claim.epoch as i64));
    match claims.iter().find(|claim| !holds(claim)) {
        Some(lost) => Err(StoreError::Fenced(lost.partition)),
        None => Ok(()),
    }
}

/// Records what happened, in its order; returns the numbers of new firings.
async fn record_events(transaction: &mut Tx, commit: &Commit, salts: &Salts) -> Result<Vec<i64>, StoreError> {
    if commit.firings.is_empty() && commit.faults.is_empty() {
        return Ok(Vec::new());
    }
    Backend::lock_event_numbers(transaction).await?;
    let recorded = insert_firings(transaction, &commit.firings, salts).await?;
    if let (true, Some(first), Some(last)) = (commit.outbox, recorded.first(), recorded.last()) {
        put_into_outbox(transaction, *first, *last).await?;
    }
    insert_faults(transaction, &commit.faults, salts).await?;
    let ended: Vec<BindingId> =
        commit.firings.iter().filter(|(_, last)| *last).map(|(firing, _)| firing.binding).collect();
    set_status(transaction, "triggered", without_reason(&ended)).await?;
    Ok(recorded)
}

/// Records firings but those that are recorded already, whose binding is no longer active, or is ended by an earlier one.
async fn insert_firings(
    transaction: &mut Tx,
    firings: &[(Firing, bool)],
    salts: &Salts,
) -> Result<Vec<i64>, StoreError> {
    let mut ended = HashSet::new();
    let standing = |(firing, last): &&(Firing, bool)| match last {
        true => ended.insert(firing.binding),
        false => !ended.contains(&firing.binding),
    };
    let firings: Vec<&Firing> = firings.iter().filter(standing).map(|(firing, _)| firing).collect();
    let mut recorded = Vec::new();
    for firings in firings.chunks(ROWS_AT_ONCE) {
        let mut insert = QueryBuilder::<Db>::new(
            "INSERT INTO firings (id, tenant, alert_id, binding_id, symbol, price, volume, time_ms, conditions,
                                  \"partition\", \"offset\", rule_name, rule_version, rule_digest, evidence)
             SELECT v.column2, v.column3, v.column4, b.id, v.column6, v.column7, v.column8, v.column9, v.column10,
                    v.column11, v.column12, v.column13, v.column14, v.column15, v.column16 FROM (",
        );
        insert.push_values((0i64..).zip(firings), |mut row, (ordinal, firing)| {
            let id = firing.id.in_log(salts.of_partition(firing.position.partition));
            row.push_bind(ordinal).push_bind(id.as_bytes().to_vec()).push_bind(firing.tenant.as_str());
            row.push_bind(firing.alert.0).push_bind(firing.binding.0);
            rows::push_event(&mut row, &firing.tick, firing.position, &firing.rule);
            row.push_bind(rows::evidence_json(&firing.evidence));
        });
        insert.push(
            ") AS v JOIN bindings b ON b.id = v.column5 WHERE b.status IN ('active', 'quarantined')
             ORDER BY v.column1 ON CONFLICT (id) DO NOTHING RETURNING seq",
        );
        recorded.extend(insert.build_query_scalar::<i64>().fetch_all(&mut **transaction).await?);
    }
    recorded.sort_unstable();
    Ok(recorded)
}

fn without_reason(bindings: &[BindingId]) -> BTreeMap<i64, String> {
    bindings.iter().map(|binding| (binding.0, String::new())).collect()
}

/// Changes live bindings, each with a reason. The evaluator that says so knows already: no new revision. One whose rule is
/// impure stays in quarantine for as long as it lives.
async fn set_status(
    transaction: &mut Tx,
    status: &'static str,
    bindings: BTreeMap<i64, String>,
) -> Result<(), StoreError> {
    let bindings: Vec<(i64, String)> = bindings.into_iter().collect();
    for bindings in bindings.chunks(ROWS_AT_ONCE) {
        let mut update = QueryBuilder::<Db>::new("UPDATE bindings AS b SET status = ");
        update.push_bind(status).push(", reason = v.column2 FROM (");
        update.push_values(bindings, |mut row, (binding, reason)| {
            row.push_bind(*binding).push_bind(reason);
        });
        update.push(") AS v WHERE b.id = v.column1 AND b.status IN ('active', 'quarantined')");
        if status != "triggered" {
            update.push(
                " AND NOT EXISTS (SELECT 1 FROM alerts a
                    JOIN rule_versions r ON (r.tenant, r.name, r.version) = (a.tenant, a.rule_name, a.rule_version)
                    WHERE a.id = b.alert_id AND r.quarantine_revision IS NOT NULL)",
            );
        }
        update.build().execute(&mut **transaction).await?;
    }
    Ok(())
}

async fn write_checkpoint(transaction: &mut Tx, checkpoint: &Checkpoint) -> Result<(), StoreError> {
    advance(transaction, checkpoint).await?;
    for groups in checkpoint.groups.chunks(GROUPS_AT_ONCE) {
        let mut insert =
            QueryBuilder::<Db>::new("INSERT INTO group_states (\"partition\", tenant, rule_digest, symbol, records) ");
        insert.push_values(groups, |mut row, group| {
            row.push_bind(i64::from(checkpoint.partition)).push_bind(group.tenant.as_str());
            row.push_bind(&group.rule.0[..]).push_bind(group.symbol.as_str()).push_bind(&group.bytes);
        });
        insert
            .push(" ON CONFLICT (\"partition\", tenant, rule_digest, symbol) DO UPDATE SET records = excluded.records");
        insert.build().execute(&mut **transaction).await?;
    }
    set_status(transaction, "active", without_reason(&checkpoint.recovered)).await?;
    unquarantine(transaction, &checkpoint.unquarantined).await?;
    count_suppressed(transaction, &checkpoint.suppressed).await?;
    take_over(transaction, checkpoint).await?;
    forget_resumed(transaction, checkpoint).await?;
    Ok(())
}

/// Adds firings that were not recorded. Those since the last checkpoint are counted again by a replay from there, and written
/// once.
async fn count_suppressed(transaction: &mut Tx, suppressed: &[(BindingId, u64)]) -> Result<(), StoreError> {
    for suppressed in suppressed.chunks(ROWS_AT_ONCE) {
        let mut update =
            QueryBuilder::<Db>::new("UPDATE bindings AS b SET suppressed = b.suppressed + v.column2 FROM (");
        update.push_values(suppressed, |mut row, (binding, count)| {
            row.push_bind(binding.0).push_bind(*count as i64);
        });
        update.push(") AS v WHERE b.id = v.column1").build().execute(&mut **transaction).await?;
    }
    Ok(())
}

/// Moves a partition to a checkpoint, unless that is behind the one that is stored.
async fn advance(transaction: &mut Tx, checkpoint: &Checkpoint) -> Result<(), StoreError> {
    let unquarantined: Vec<i64> = checkpoint.unquarantined.iter().map(|binding| binding.0).collect();
    let advanced = sqlx::query(
        "UPDATE partitions SET next_offset = $1, revision = $2, unquarantined = $3, halted = NULL
         WHERE \"partition\" = $4 AND next_offset <= $1 AND revision <= $2",
    )
    .bind(checkpoint.next_offset as i64)
    .bind(checkpoint.revision as i64)
    .bind(serde_json::to_string(&unquarantined).expect("numbers are JSON"))
    .bind(i64::from(checkpoint.partition))
    .execute(&mut **transaction)
    .await?
    .rows_affected();
    if advanced == 1 {
        return Ok(());
    }
    let stored: Option<(i64, i64)> =
        sqlx::query_as("SELECT next_offset, revision FROM partitions WHERE \"partition\" = $1")
            .bind(i64::from(checkpoint.partition))
            .fetch_optional(&mut **transaction)
            .await?;
    // Without a claim there is no row to advance.
    let Some((stored_offset, stored_revision)) = stored else { return Err(StoreError::Fenced(checkpoint.partition)) };
    Err(StoreError::CheckpointBehind {
        partition: checkpoint.partition,
        next_offset: checkpoint.next_offset,
        revision: checkpoint.revision,
        stored_offset: stored_offset as u64,
        stored_revision: stored_revision as u64,
    })
}

/// Lets bindings out of quarantine: a replay of the fault that quarantined one may have said so again.
async fn unquarantine(transaction: &mut Tx, unquarantined: &[BindingId]) -> Result<(), StoreError> {
    set_status(transaction, "active", without_reason(unquarantined)).await?;
    for unquarantined in unquarantined.chunks(ROWS_AT_ONCE) {
        let mut update = QueryBuilder::<Db>::new("UPDATE bindings SET unquarantine_due = FALSE WHERE id IN (");
        let mut list = update.separated(", ");
        unquarantined.iter().for_each(|binding| _ = list.push_bind(binding.0));
        update.push(")").build().execute(&mut **transaction).await?;
    }
    Ok(())
}
