//! GoStocks' alerts: a target price on one symbol, above or below, once. They are alerts on the built-in rules.

use serde_json::json;
use tocsin_engine::domain::{Alert, AlertId, Lifecycle, RuleName, Symbol, SymbolError, Tenant};
use tocsin_store::{AlertFilter, NewAlert};

use super::alerts::check_user;
use super::{Control, ControlError, FieldViolation, MAX_PAGE};

/// When a price alert fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// At or above the target.
    Above,
    /// At or below the target.
    Below,
}

/// A client's request for a price alert.
#[derive(Clone, Debug)]
pub struct CreatePriceAlert {
    /// From 1.
    pub user_id: Option<i64>,
    /// Upper-cased here.
    pub symbol: Option<String>,
    /// Greater than 0.
    pub target_price: Option<f64>,
    /// When it fires.
    pub condition: Option<Condition>,
    /// What was wrong with it where it came in; what is missing above is among it.
    pub violations: Vec<FieldViolation>,
}

impl Condition {
    /// Every condition.
    pub const ALL: [Self; 2] = [Self::Above, Self::Below];

    /// The condition as GoStocks writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Above => "ABOVE",
            Self::Below => "BELOW",
        }
    }

    fn rule(self) -> RuleName {
        match self {
            Self::Above => RuleName::above(),
            Self::Below => RuleName::below(),
        }
    }

    /// The condition and target of an alert that GoStocks can express.
    pub fn of(alert: &Alert) -> Option<(Self, f64)> {
        let condition = Self::ALL.into_iter().find(|c| c.rule() == alert.rule.name)?;
        let target = alert.params.packed.as_slice().try_into().ok().map(f64::from_le_bytes)?;
        Some((condition, target))
    }
}

impl Control {
    /// Creates a price alert.
    pub async fn create_price_alert(&self, tenant: &Tenant, request: CreatePriceAlert) -> Result<Alert, ControlError> {
        let CreatePriceAlert { user_id, symbol, target_price, condition, mut violations } = request;
        let user = user_id.and_then(|user| check_user(user, "user_id").map_err(|v| violations.push(v)).ok());
        let symbol = symbol.and_then(|text| {
            let wrong = |error: SymbolError| FieldViolation::new("symbol", error.to_string());
            Symbol::parse(&text).map_err(|error| violations.push(wrong(error))).ok()
        });
        if let Some(target) = target_price.filter(|target| !(target.is_finite() && *target > 0.0)) {
            // As Rust writes it: 1e308 in full has 309 digits.
            let message = format!("{target:?} is not a finite number greater than 0");
            violations.push(FieldViolation::new("target_price", message));
        }
        let (Some(user), Some(symbol), Some(target), Some(condition), true) =
            (user, symbol, target_price, condition, violations.is_empty())
        else {
            return Err(ControlError::Invalid(violations));
        };
        let rule = self.find_rule(tenant, &condition.rule(), None).await?;
        let compiled = self.0.library.get(rule.reference.digest).await?;
        let params = compiled.manifest().params.pack(&json!({ "target": target })).map_err(|errors| {
            let message = errors.iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("; ");
            ControlError::invalid("target_price", message)
        })?;
        let (symbols, log) = self.starts(vec![symbol]).await?;
        let new = NewAlert {
            tenant: tenant.clone(),
            user,
            rule: rule.reference,
            params,
            lifecycle: Lifecycle::default(),
            symbols,
            log: Some(log),
            created_at_ms: self.now_ms(),
            idempotency: None,
        };
        Ok(self.store_alert(new).await?.0)
    }

    /// All alerts that GoStocks can express: `above` and `below` on one symbol. It has no pages.
    pub async fn price_alerts(
        &self,
        tenant: &Tenant,
        user_id: Option<i32>,
        active_only: bool,
    ) -> Result<Vec<Alert>, ControlError> {
        let user = user_id.map(tocsin_engine::domain::UserId);
        let filter = AlertFilter { user, active_only, price_alerts_only: true };
        let mut alerts: Vec<Alert> = Vec::new();
        loop {
            let after = alerts.last().map_or(AlertId(0), |alert| alert.id);
            let page = self.0.store.alerts(tenant, filter, after, MAX_PAGE).await?;
            let last = page.len() < MAX_PAGE as usize;
            alerts.extend(page);
            if last {
                return Ok(alerts);
            }
        }
    }
}
