//! Values of columns into words of the domain, and back. A value that cannot be one is damage, reported with its place.

use std::fmt::Display;

use sqlx::Row as _;
use sqlx::query_builder::Separated;
use tocsin_engine::domain::{
    AlertId, BindingId, BindingStatus, Conditions, Digest, Evidence, FaultId, Firing, FiringId, Lifecycle, Position,
    Repeat, RuleName, RuleQuarantine, RuleRef, RuleVersion, Symbol, Tenant, Tick, Version,
};
use tocsin_engine::{Fault, GroupSnapshot, SavedBinding};

use super::{Db, DbRow};
use crate::{BindingRow, FaultRecord, HandoffState, Standing, StoreError};

pub(super) fn damaged(what: &'static str, detail: impl Display) -> StoreError {
    StoreError::Damaged { what, detail: detail.to_string() }
}

pub(super) fn symbol(text: &str) -> Result<Symbol, StoreError> {
    Symbol::parse(text).map_err(|error| damaged("symbol", error))
}

pub(super) fn digest(bytes: &[u8]) -> Result<Digest, StoreError> {
    bytes.try_into().map(Digest).map_err(|_| damaged("digest", format!("{} bytes", bytes.len())))
}

pub(super) fn repeat_text(lifecycle: Lifecycle) -> &'static str {
    match lifecycle.repeat {
        Repeat::Once => "once",
        Repeat::Every => "every",
    }
}

pub(super) fn lifecycle(text: &str) -> Result<Lifecycle, StoreError> {
    let repeat = match text {
        "once" => Repeat::Once,
        "every" => Repeat::Every,
        other => return Err(damaged("lifecycle", other)),
    };
    Ok(Lifecycle { repeat })
}

/// None for a deleted alert's binding.
pub(super) fn status(text: &str, reason: String) -> Result<Option<BindingStatus>, StoreError> {
    Ok(Some(match text {
        "active" => BindingStatus::Active,
        "triggered" => BindingStatus::Triggered,
        "quarantined" => BindingStatus::Quarantined(reason),
        "deleted" => return Ok(None),
        other => return Err(damaged("binding status", other)),
    }))
}

pub(super) fn rule_ref(row: &DbRow) -> Result<RuleRef, StoreError> {
    Ok(RuleRef {
        name: RuleName::parse(row.try_get("rule_name")?).map_err(|error| damaged("rule name", error))?,
        version: Version::parse(row.try_get("rule_version")?).map_err(|error| damaged("rule version", error))?,
        digest: digest(row.try_get("rule_digest")?)?,
    })
}

pub(super) fn rule_version(row: &DbRow) -> Result<RuleVersion, StoreError> {
    Ok(RuleVersion {
        reference: rule_ref(row)?,
        manifest: row.try_get("manifest")?,
        created_at_ms: row.try_get("created_at_ms")?,
        quarantine: rule_quarantine(row)?,
    })
}

pub(super) fn rule_quarantine(row: &DbRow) -> Result<Option<RuleQuarantine>, StoreError> {
    let reason: Option<String> = row.try_get("quarantine_reason")?;
    let at_ms: Option<i64> = row.try_get("quarantined_at_ms")?;
    Ok(reason.zip(at_ms).map(|(reason, at_ms)| RuleQuarantine { reason, at_ms }))
}

pub(super) fn position(row: &DbRow, offset: &str) -> Result<Position, StoreError> {
    Ok(Position {
        partition: row.try_get::<i64, _>("partition")? as u32,
        offset: row.try_get::<i64, _>(offset)? as u64,
    })
}

/// Where a binding began to count; None if it waits for the home of its symbol.
pub(super) fn start(row: &DbRow) -> Result<Option<Position>, StoreError> {
    let waits = row.try_get::<i64, _>("partition")? < 0;
    if waits { Ok(None) } else { position(row, "counts_from").map(Some) }
}

/// What [`binding_row`] reads of a binding `b`, its alert `a`, its rule `r` and what it resumes with, `s`. A million rows are
/// read at a start, and each column of each costs: so all that is one of a few values is in one number.
pub(super) const BINDING_COLUMNS: &str = "b.id, b.alert_id, b.symbol, b.\"partition\",
    COALESCE(b.resumes_from, b.counts_from) AS goes_on_from, b.revision, b.armed_revision, a.tenant, a.rule_digest,
    a.packed_params, s.record AS resume_record, CAST(
        CASE a.repeat WHEN 'every' THEN 1 ELSE 0 END + CASE WHEN b.unquarantine_due THEN 2 ELSE 0 END
        + CASE b.handoff WHEN 'requested' THEN 4 WHEN 'held' THEN 8 ELSE 0 END
        + CASE b.status WHEN 'triggered' THEN 16 WHEN 'deleted' THEN 32 ELSE 0 END
        + CASE WHEN r.quarantine_revision IS NULL THEN 0 ELSE 64 END AS BIGINT) AS marks";

pub(super) fn binding_row(row: &DbRow) -> Result<BindingRow, StoreError> {
    let marks: i64 = row.try_get("marks")?;
    let marked = |mark: i64| marks & mark != 0;
    let waits = row.try_get::<i64, _>("partition")? < 0;
    Ok(BindingRow {
        id: BindingId(row.try_get("id")?),
        alert: AlertId(row.try_get("alert_id")?),
        tenant: Tenant::from_stored(row.try_get("tenant")?),
        symbol: symbol(row.try_get("symbol")?)?,
        counts_from: if waits { None } else { Some(position(row, "goes_on_from")?) },
        rule: digest(row.try_get("rule_digest")?)?,
        packed_params: row.try_get("packed_params")?,
        lifecycle: Lifecycle { repeat: if marked(1) { Repeat::Every } else { Repeat::Once } },
        standing: match marks & (16 | 32) {
            0 => Standing::Live,
            16 => Standing::Triggered,
            _ => Standing::Deleted,
        },
        revision: row.try_get::<i64, _>("revision")? as u64,
        armed_revision: row.try_get::<i64, _>("armed_revision")? as u64,
        resume: saved_binding(row)?,
        handoff: match marks & (4 | 8) {
            0 => HandoffState::None,
            4 => HandoffState::Requested,
            _ => HandoffState::Held,
        },
        rule_impure: marked(64),
        unquarantine_due: marked(2),
    })
}

/// What a binding remembers at a promotion.
pub(super) fn saved_binding(row: &DbRow) -> Result<Option<SavedBinding>, StoreError> {
    let record: Option<&[u8]> = row.try_get("resume_record")?;
    let records = GroupSnapshot::unpack(record.unwrap_or_default()).map_err(|error| damaged("resume state", error))?;
    Ok(records.into_iter().next())
}

pub(super) fn evidence_json(evidence: &Evidence) -> String {
    let pairs: Vec<(&str, f64)> = evidence.iter().map(|(name, number)| (&**name, *number)).collect();
    serde_json::to_string(&pairs).expect("names and finite numbers are JSON")
}

/// The tick that something happened on.
pub(super) fn tick(row: &DbRow) -> Result<Tick, StoreError> {
    let conditions = Conditions(row.try_get::<i64, _>("conditions")? as u64);
    let (price, volume) = (row.try_get("price")?, row.try_get("volume")?);
    Tick::new(symbol(row.try_get("symbol")?)?, price, volume, row.try_get("time_ms")?, conditions)
        .map_err(|error| damaged("tick", error))
}

/// Binds a tick, where it is in the bus, and the rule that evaluated it: ten columns, from `symbol` to `rule_digest`.
pub(super) fn push_event(row: &mut Separated<'_, Db, &str>, tick: &Tick, position: Position, rule: &RuleRef) {
    row.push_bind(tick.symbol.as_str()).push_bind(tick.price).push_bind(tick.volume).push_bind(tick.time_ms);
    row.push_bind(tick.conditions.0 as i64);
    row.push_bind(i64::from(position.partition)).push_bind(position.offset as i64);
    row.push_bind(rule.name.as_str()).push_bind(rule.version.to_string()).push_bind(&rule.digest.0[..]);
}

fn id_bytes(row: &DbRow, what: &'static str) -> Result<[u8; 16], StoreError> {
    let id: &[u8] = row.try_get("id")?;
    id.try_into().map_err(|_| damaged(what, format!("{} bytes", id.len())))
}

pub(super) fn firing(row: &DbRow) -> Result<(u64, Firing), StoreError> {
    let evidence: Vec<(String, f64)> =
        serde_json::from_str(row.try_get("evidence")?).map_err(|error| damaged("evidence", error))?;
    let firing = Firing {
        id: FiringId::from_bytes(id_bytes(row, "firing id")?),
        tenant: Tenant::from_stored(row.try_get("tenant")?),
        alert: AlertId(row.try_get("alert_id")?),
        binding: BindingId(row.try_get("binding_id")?),
        tick: tick(row)?,
        position: position(row, "offset")?,
        rule: rule_ref(row)?,
        evidence: evidence.into_iter().map(|(name, number)| (name.into(), number)).collect(),
    };
    Ok((row.try_get::<i64, _>("seq")? as u64, firing))
}

pub(super) fn fault(row: &DbRow) -> Result<(u64, FaultRecord), StoreError> {
    let (kind, detail): (&str, &str) = (row.try_get("kind")?, row.try_get("detail")?);
    let record = FaultRecord {
        id: FaultId::from_bytes(id_bytes(row, "fault id")?),
        alert: AlertId(row.try_get("alert_id")?),
        rule: rule_ref(row)?,
        tick: tick(row)?,
        position: position(row, "offset")?,
        fault: Fault::from_parts(kind, detail).ok_or_else(|| damaged("fault", format!("{kind} {detail}")))?,
        quarantined: row.try_get("quarantined")?,
    };
    Ok((row.try_get::<i64, _>("seq")? as u64, record))
}
