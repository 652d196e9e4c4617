//! Values of columns into words of the domain, and back. A value that cannot be one is damage, told with its place.

use std::fmt::Display;

use sqlx::Row as _;
use sqlx::query_builder::Separated;
use tocsin_engine::domain::{
    AlertId, BindingId, BindingStatus, Conditions, Digest, Evidence, FaultId, Firing, FiringId, Lifecycle, Position,
    Repeat, RuleName, RuleQuarantine, RuleRef, RuleVersion, Symbol, Tenant, Tick, Version,
};
use tocsin_engine::{Fault, GroupSnapshot, SavedBinding};

use super::{Db, DbRow};
use crate::store::{BindingRow, FaultRecord, Hold, StoreError};

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

pub(super) fn binding_row(row: &DbRow) -> Result<BindingRow, StoreError> {
    let resumes_from: Option<i64> = row.try_get("resumes_from")?;
    let resumed =
        |from: Position| Position { offset: resumes_from.map_or(from.offset, |offset| offset as u64), ..from };
    Ok(BindingRow {
        id: BindingId(row.try_get("id")?),
        alert: AlertId(row.try_get("alert_id")?),
        tenant: Tenant::from_stored(row.try_get("tenant")?),
        symbol: symbol(row.try_get("symbol")?)?,
        counts_from: start(row)?.map(resumed),
        rule: digest(row.try_get("rule_digest")?)?,
        packed_params: row.try_get("packed_params")?,
        lifecycle: lifecycle(row.try_get("repeat")?)?,
        status: status(row.try_get("status")?, row.try_get("reason")?)?,
        revision: row.try_get::<i64, _>("revision")? as u64,
        armed_revision: row.try_get::<i64, _>("armed_revision")? as u64,
        resume: saved_binding(row)?,
        hold: hold(row.try_get("hold")?)?,
        rule_impure: row.try_get("rule_impure")?,
        release_due: row.try_get("release_due")?,
    })
}

/// What a binding remembers at a promotion.
pub(super) fn saved_binding(row: &DbRow) -> Result<Option<SavedBinding>, StoreError> {
    let record: Option<&[u8]> = row.try_get("resume_record")?;
    let records = GroupSnapshot::unpack(record.unwrap_or_default()).map_err(|error| damaged("resume state", error))?;
    Ok(records.into_iter().next())
}

fn hold(text: &str) -> Result<Hold, StoreError> {
    match text {
        "none" => Ok(Hold::None),
        "asked" => Ok(Hold::Asked),
        "held" => Ok(Hold::Held),
        other => Err(damaged("hold of a binding", other)),
    }
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

/// Binds a tick, where it is in the bus, and the rule that judged it: ten columns, from `symbol` to `rule_digest`.
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
