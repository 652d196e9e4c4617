//! Domain types as messages.

use prost_types::Timestamp;
use serde_json::Value;
use tocsin_engine::domain::{Alert, Binding, BindingStatus, Firing, Lifecycle, Repeat, RuleVersion};
use tocsin_proto::alert as gostocks;
use tocsin_proto::tocsin::v1 as pb;
use tocsin_store::FaultRecord;

use super::structs;
use crate::api;
use crate::control::{Condition, ControlError};

pub(super) fn rule(rule: &RuleVersion) -> Result<pb::Rule, ControlError> {
    let manifest = stored_json("manifest", &rule.manifest)?;
    let text = |member: &str| manifest[member].as_str().unwrap_or_default().to_owned();
    let size = |member: &str| manifest[member]["size"].as_u64().unwrap_or_default() as u32;
    let evidence = manifest["evidence"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Ok(pb::Rule {
        name: rule.reference.name.to_string(),
        version: rule.reference.version.to_string(),
        digest: rule.reference.digest.to_string(),
        description: text("description"),
        author: text("author"),
        params_schema: Some(structs::from_json(&manifest["params"]["schema"])),
        params_size: size("params"),
        state_size: size("state"),
        evidence: evidence.map(str::to_owned).collect(),
        sleeps: manifest["sleeps"].as_bool().unwrap_or_default(),
        created_at: Some(timestamp(rule.created_at_ms)),
        quarantine: rule.quarantine.as_ref().map(|quarantine| pb::RuleQuarantine {
            reason: quarantine.reason.clone(),
            at: Some(timestamp(quarantine.at_ms)),
        }),
    })
}

pub(super) fn alert(alert: Alert) -> Result<pb::Alert, ControlError> {
    Ok(pb::Alert {
        id: alert.id.0,
        user_id: alert.user.0,
        rule: alert.rule.name.to_string(),
        version: alert.rule.version.to_string(),
        digest: alert.rule.digest.to_string(),
        params: Some(structs::from_json(&stored_json("params", &alert.params.json)?)),
        lifecycle: Some(lifecycle(alert.lifecycle)),
        bindings: alert.bindings.into_iter().map(binding).collect(),
        created_at: Some(timestamp(alert.created_at_ms)),
        unserved: Vec::new(),
    })
}

fn lifecycle(lifecycle: Lifecycle) -> pb::Lifecycle {
    let repeat = match lifecycle.repeat {
        Repeat::Once => pb::Repeat::Once,
        Repeat::Every => pb::Repeat::Every,
    };
    pb::Lifecycle { repeat: repeat.into() }
}

fn binding(binding: Binding) -> pb::Binding {
    let (status, reason) = match binding.status {
        BindingStatus::Active => (pb::BindingStatus::Active, String::new()),
        BindingStatus::Triggered => (pb::BindingStatus::Triggered, String::new()),
        BindingStatus::Quarantined(reason) => (pb::BindingStatus::Quarantined, reason),
    };
    pb::Binding { symbol: binding.symbol.to_string(), status: status.into(), reason, suppressed: binding.suppressed }
}

pub(super) fn firing(firing: Firing) -> pb::Firing {
    pb::Firing {
        id: firing.id.to_string(),
        alert_id: firing.alert.0,
        symbol: firing.tick.symbol.to_string(),
        price: firing.tick.price,
        volume: firing.tick.volume,
        timestamp: firing.tick.time_ms,
        partition: firing.position.partition as i32,
        offset: firing.position.offset as i64,
        rule: firing.rule.name.to_string(),
        version: firing.rule.version.to_string(),
        digest: firing.rule.digest.to_string(),
        evidence: firing.evidence.into_iter().map(|(name, value)| (name.to_string(), value)).collect(),
    }
}

pub(super) fn fault(record: FaultRecord) -> pb::Fault {
    pb::Fault {
        id: record.id.to_string(),
        alert_id: record.alert.0,
        kind: record.fault.kind().to_owned(),
        fault: record.fault.to_string(),
        quarantined: record.quarantined,
        symbol: record.tick.symbol.to_string(),
        price: record.tick.price,
        volume: record.tick.volume,
        timestamp: record.tick.time_ms,
        partition: record.position.partition as i32,
        offset: record.position.offset as i64,
        rule: record.rule.name.to_string(),
        version: record.rule.version.to_string(),
        digest: record.rule.digest.to_string(),
    }
}

/// The answer to the request that created an alert.
pub(super) fn price_alert_created(alert: &Alert) -> Result<gostocks::CreateAlertResponse, ControlError> {
    let symbol = alert.bindings.first().map_or("", |binding| binding.symbol.as_str());
    let (condition, target) =
        Condition::of(alert).map_or(("", 0.0), |(condition, target)| (condition.as_str(), target));
    let message = api::price_alert_message(symbol, condition, target);
    Ok(gostocks::CreateAlertResponse { alert_id: small_id(alert)?, message })
}

/// An alert in GoStocks' words; None if it has none for it.
pub(super) fn price_alert(alert: &Alert) -> Option<Result<gostocks::Alert, ControlError>> {
    let (condition, target_price) = Condition::of(alert)?;
    let [binding] = alert.bindings.as_slice() else { return None };
    let condition = match condition {
        Condition::Above => gostocks::AlertCondition::Above,
        Condition::Below => gostocks::AlertCondition::Below,
    };
    Some(small_id(alert).map(|id| gostocks::Alert {
        id,
        user_id: alert.user.0,
        symbol: binding.symbol.to_string(),
        target_price,
        condition: condition.into(),
        triggered: binding.status == BindingStatus::Triggered,
        created_at: alert.created_at_ms.div_euclid(1_000),
    }))
}

/// GoStocks numbers alerts in 32 bits.
fn small_id(alert: &Alert) -> Result<i32, ControlError> {
    let id = alert.id.0;
    id.try_into().map_err(|_| {
        ControlError::Internal(format!(
            "alert {id} has outgrown the 32 bits of this service: use tocsin.v1.AlertService"
        ))
    })
}

fn timestamp(unix_ms: i64) -> Timestamp {
    Timestamp { seconds: unix_ms.div_euclid(1_000), nanos: unix_ms.rem_euclid(1_000) as i32 * 1_000_000 }
}

fn stored_json(what: &str, json: &str) -> Result<Value, ControlError> {
    serde_json::from_str(json).map_err(|error| ControlError::Internal(format!("a stored {what} is damaged: {error}")))
}
