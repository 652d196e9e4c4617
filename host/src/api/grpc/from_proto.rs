//! Requests as use cases take them. An empty string and a 0 mean "not given" where the .proto says so.

use serde_json::{Map, Value};
use tocsin_engine::domain::{Lifecycle, Repeat};
use tocsin_proto::alert as gostocks;
use tocsin_proto::tocsin::v1 as pb;

use super::structs;
use crate::control::{AlertQuery, Condition, ControlError, CreateAlert, CreatePriceAlert, FieldViolation};

pub(super) fn create_price_alert(request: gostocks::CreateAlertRequest) -> CreatePriceAlert {
    let mut violations = Vec::new();
    let condition = match request.condition() {
        gostocks::AlertCondition::ConditionUnspecified => {
            violations.push(FieldViolation::new("condition", "is not ABOVE or BELOW"));
            None
        }
        gostocks::AlertCondition::Above => Some(Condition::Above),
        gostocks::AlertCondition::Below => Some(Condition::Below),
    };
    CreatePriceAlert {
        user_id: Some(request.user_id.into()),
        symbol: Some(request.symbol),
        target_price: Some(request.target_price),
        condition,
        violations,
    }
}

/// The user whose alerts are asked for; None for all.
pub(super) fn price_alerts_user(request: &gostocks::GetAlertsRequest) -> Result<Option<i32>, ControlError> {
    match request.user_id {
        0 => Ok(None),
        user @ 1.. => Ok(Some(user)),
        user => Err(ControlError::invalid("user_id", format!("{user} is not a user; leave it out for all users"))),
    }
}

pub(super) fn create_alert(request: pb::CreateAlertRequest) -> CreateAlert {
    let mut violations = Vec::new();
    let params = match request.params {
        None => Some(Value::Object(Map::new())),
        Some(params) => structs::to_json("params", params).map_err(|more| violations.extend(more)).ok(),
    };
    let lifecycle = request.lifecycle.map_or(Ok(Lifecycle::default()), lifecycle);
    let lifecycle = lifecycle.map_err(|violation| violations.push(violation)).unwrap_or_default();
    CreateAlert {
        user_id: Some(request.user_id.into()),
        symbols: Some(request.symbols),
        rule: Some(request.rule),
        version: given(request.version),
        params,
        lifecycle,
        idempotency: None,
        violations,
    }
}

fn lifecycle(lifecycle: pb::Lifecycle) -> Result<Lifecycle, FieldViolation> {
    let repeat = match pb::Repeat::try_from(lifecycle.repeat) {
        Ok(pb::Repeat::Unspecified | pb::Repeat::Once) => Repeat::Once,
        Ok(pb::Repeat::Every) => Repeat::Every,
        Err(_) => {
            let message = format!("{} is not REPEAT_ONCE (1) or REPEAT_EVERY (2)", lifecycle.repeat);
            return Err(FieldViolation::new("lifecycle.repeat", message));
        }
    };
    Ok(Lifecycle { repeat })
}

pub(super) fn alert_query(request: pb::ListAlertsRequest) -> AlertQuery {
    AlertQuery {
        user_id: (request.user_id != 0).then(|| request.user_id.into()),
        active_only: request.active_only,
        after: given(request.page_token),
        limit: page_size(request.page_size),
    }
}

/// The number of an alert that must be named.
pub(super) fn alert_id(field: &str, id: i64) -> Result<i64, ControlError> {
    if id > 0 {
        Ok(id)
    } else {
        Err(ControlError::invalid(field, format!("{id} is no alert: their numbers begin at 1")))
    }
}

/// The number of an alert; None for all alerts.
pub(super) fn any_alert_id(field: &str, id: i64) -> Result<Option<i64>, ControlError> {
    if id == 0 { Ok(None) } else { alert_id(field, id).map(Some) }
}

pub(super) fn page_size(page_size: i32) -> Option<i64> {
    (page_size != 0).then(|| page_size.into())
}

pub(super) fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}
