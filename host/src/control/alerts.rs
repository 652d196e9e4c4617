//! Creating, reading and deleting alerts.

use serde_json::Value;
use tocsin_engine::domain::{
    Alert, AlertId, Lifecycle, Position, RuleName, RuleRef, RuleVersion, Symbol, Tenant, UserId,
};
use tocsin_engine::params::ParamError;
use tocsin_store::{AlertFilter, CapReached, Capped, Idempotency, NewAlert, Start, StoredAlert};

use super::rules::{parse_version, rule_quarantined};
use super::{Control, ControlError, FieldViolation, Page, page_size};

/// The most symbols of one alert.
pub const MAX_SYMBOLS: usize = 100;

/// The longest Idempotency-Key, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// A client's request for an alert.
#[derive(Clone, Debug)]
pub struct CreateAlert {
    /// From 1.
    pub user_id: Option<i64>,
    /// 1 to [`MAX_SYMBOLS`], each once.
    pub symbols: Option<Vec<String>>,
    /// The rule's name.
    pub rule: Option<String>,
    /// None for the newest.
    pub version: Option<String>,
    /// Checked against the rule's schema.
    pub params: Option<Value>,
    /// What follows a fire verdict.
    pub lifecycle: Lifecycle,
    /// The request's Idempotency-Key, if it had one.
    pub idempotency: Option<Idempotency>,
    /// What was wrong with it where it came in; what is missing above is among it. The rest is checked all the same, so
    /// that a client learns of all violations at once.
    pub violations: Vec<FieldViolation>,
}

/// Which alerts a client lists.
#[derive(Clone, Debug, Default)]
pub struct AlertQuery {
    /// Only those of one user.
    pub user_id: Option<i64>,
    /// Only those with an active binding.
    pub active_only: bool,
    /// A page's cursor.
    pub after: Option<String>,
    /// The size of a page.
    pub limit: Option<i64>,
}

impl Control {
    /// Creates an alert with a binding for each symbol. It takes effect within milliseconds, and counts ticks that are
    /// published from now on. The flag is false where an earlier request with the same key created it.
    pub async fn create_alert(&self, tenant: &Tenant, mut request: CreateAlert) -> Result<(Alert, bool), ControlError> {
        let mut violations = std::mem::take(&mut request.violations);
        let user = request.user_id.and_then(|user| check_user(user, "user_id").map_err(|v| violations.push(v)).ok());
        let symbols = request.symbols.as_deref().map(|texts| check_symbols(texts, &mut violations));
        if let Some(idempotency) = &request.idempotency {
            check_key(&idempotency.key, &mut violations);
        }
        let rule = match self.requested_rule(tenant, &request, &mut violations).await? {
            Some(rule) => rule,
            None => return Err(ControlError::Invalid(violations)),
        };
        let compiled = self.0.library.get(rule.reference.digest).await?;
        let params = request.params.as_ref().and_then(|params| {
            let packed = compiled.manifest().params.pack(params);
            packed.map_err(|errors| violations.extend(params_violations(errors))).ok()
        });
        let (Some(user), Some(symbols), Some(params), true) = (user, symbols, params, violations.is_empty()) else {
            return Err(ControlError::Invalid(violations));
        };
        let (symbols, log) = self.starts(symbols).await?;
        self.store_alert(NewAlert {
            tenant: tenant.clone(),
            user,
            rule: rule.reference,
            params,
            lifecycle: request.lifecycle,
            symbols,
            log: Some(log),
            created_at_ms: self.now_ms(),
            idempotency: request.idempotency,
        })
        .await
    }

    /// An alert.
    pub async fn alert(&self, tenant: &Tenant, id: i64) -> Result<Alert, ControlError> {
        self.0.store.alert(tenant, AlertId(id)).await?.ok_or_else(|| no_alert(id))
    }

    /// Alerts in the order of their creation.
    pub async fn alerts(&self, tenant: &Tenant, query: AlertQuery) -> Result<Page<Alert>, ControlError> {
        let mut violations = Vec::new();
        let user = query.user_id.map(|user| check_user(user, "user_id").map_err(|v| violations.push(v)));
        let limit = page_size(query.limit, "limit").map_err(|violation| violations.push(violation));
        let after = match query.after.as_deref() {
            None | Some("") => Ok(0),
            Some(cursor) => cursor.parse::<u32>().map(i64::from).map_err(|_| {
                violations.push(FieldViolation::new("after", "is not the cursor of a page of alerts"));
            }),
        };
        let (Ok(limit), Ok(after), true) = (limit, after, violations.is_empty()) else {
            return Err(ControlError::Invalid(violations));
        };
        let filter =
            AlertFilter { user: user.and_then(Result::ok), active_only: query.active_only, price_alerts_only: false };
        let alerts = self.0.store.alerts(tenant, filter, AlertId(after), limit + 1).await?;
        Ok(Page::of(alerts, limit, |alert| alert.id.0.to_string()))
    }

    /// Ends an alert; its firings stay.
    pub async fn delete_alert(&self, tenant: &Tenant, id: i64) -> Result<(), ControlError> {
        let deleted = self.0.store.delete_alert(tenant, AlertId(id), self.now_ms()).await?;
        if deleted { Ok(()) } else { Err(no_alert(id)) }
    }

    /// The rule that a request names; None if its name is missing or wrong, which is then among the violations. A rule that does
    /// not exist is only reported if nothing else is wrong.
    async fn requested_rule(
        &self,
        tenant: &Tenant,
        request: &CreateAlert,
        violations: &mut Vec<FieldViolation>,
    ) -> Result<Option<RuleVersion>, ControlError> {
        let name = request.rule.as_deref().map(RuleName::parse).transpose();
        let version = request.version.as_deref().map(|text| parse_version("version", text)).transpose();
        if let Err(error) = &name {
            violations.push(FieldViolation::new("rule", error.to_string()));
        }
        if let Err(ControlError::Invalid(more)) = &version {
            violations.extend_from_slice(more);
        }
        let (Ok(Some(name)), Ok(version)) = (name, version) else { return Ok(None) };
        match self.find_rule(tenant, &name, version.as_ref()).await {
            Err(ControlError::NotFound(_)) if !violations.is_empty() => Ok(None),
            found => found.map(Some),
        }
    }

    /// The first tick that counts for each symbol, the next one that is published, and the log that it is in.
    pub(super) async fn starts(&self, symbols: Vec<Symbol>) -> Result<(Vec<(Symbol, Start)>, String), ControlError> {
        let bus = &self.0.bus;
        let ends = bus.ends().await?;
        // After the ends: where the log is made anew in between, they are not taken for its own.
        let log = bus.identity().await?;
        let start = |symbol: &Symbol| match bus.home_of(symbol) {
            Some(partition) => Start::At(Position { partition, offset: ends[partition as usize] }),
            None => Start::FirstSeen(ends.clone()),
        };
        Ok((symbols.into_iter().map(|symbol| (symbol.clone(), start(&symbol))).collect(), log))
    }

    pub(super) async fn store_alert(&self, new: NewAlert) -> Result<(Alert, bool), ControlError> {
        match self.0.store.create_alert(&new, self.0.caps).await? {
            StoredAlert::Created(alert) => Ok((alert, true)),
            StoredAlert::Repeated(alert) => Ok((alert, false)),
            StoredAlert::KeyReused => {
                Err(ControlError::Conflict("this Idempotency-Key was used for another request: send a new key".into()))
            }
            StoredAlert::CapReached(reached) => Err(cap_reached(reached, &new.tenant, &new.rule, "this alert")),
            StoredAlert::RuleQuarantined(quarantine) => Err(rule_quarantined(&new.rule, &quarantine)),
        }
    }
}

pub(super) fn no_alert(id: i64) -> ControlError {
    ControlError::NotFound(format!("there is no alert {id}"))
}

/// What is wrong with the params of an alert.
pub(super) fn params_violations(errors: Vec<ParamError>) -> Vec<FieldViolation> {
    let violation = |error: ParamError| FieldViolation {
        field: if error.path.is_empty() { "params".into() } else { format!("params.{}", error.path) },
        message: error.message,
    };
    errors.into_iter().map(violation).collect()
}

/// `what` would exceed the cap.
pub(super) fn cap_reached(reached: CapReached, tenant: &Tenant, rule: &RuleRef, what: &str) -> ControlError {
    let CapReached { capped, live, needs, cap } = reached;
    let of = match capped {
        Capped::Tenant | Capped::TenantBytes => format!("the tenant {tenant}"),
        Capped::Rule | Capped::RuleBytes => format!("the rule {} {}", rule.name, rule.version),
    };
    let has = match capped {
        Capped::Tenant | Capped::Rule => {
            format!("has {live} live bindings (one for each alert and symbol) of at most {cap}")
        }
        Capped::TenantBytes | Capped::RuleBytes => {
            format!("has live bindings whose params and states take {live} bytes of at most {cap}")
        }
    };
    let setting = match capped {
        Capped::Tenant => "--max-bindings-per-tenant",
        Capped::Rule => "--max-bindings-per-rule",
        Capped::TenantBytes => "--max-state-mib-per-tenant",
        Capped::RuleBytes => "--max-state-mib-per-rule",
    };
    ControlError::CapReached(format!(
        "{of} {has}, and {what} needs {needs} more: delete alerts that are not needed, or have the operator raise {setting}"
    ))
}

pub(super) fn check_user(user: i64, field: &str) -> Result<UserId, FieldViolation> {
    i32::try_from(user)
        .ok()
        .filter(|user| *user > 0)
        .map(UserId)
        .ok_or_else(|| FieldViolation::new(field, format!("{user} is not between 1 and {}", i32::MAX)))
}

fn check_symbols(texts: &[String], violations: &mut Vec<FieldViolation>) -> Vec<Symbol> {
    if texts.is_empty() || texts.len() > MAX_SYMBOLS {
        let message = format!("{} symbols: give 1 to {MAX_SYMBOLS}", texts.len());
        violations.push(FieldViolation::new("symbols", message));
        return Vec::new();
    }
    let mut symbols = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        match Symbol::parse(text) {
            Ok(symbol) if symbols.contains(&symbol) => {
                violations.push(FieldViolation::new(format!("symbols[{i}]"), format!("{symbol} is given twice")));
            }
            Ok(symbol) => symbols.push(symbol),
            Err(error) => violations.push(FieldViolation::new(format!("symbols[{i}]"), error.to_string())),
        }
    }
    symbols
}

fn check_key(key: &str, violations: &mut Vec<FieldViolation>) {
    if !(1..=MAX_KEY_BYTES).contains(&key.len()) || !key.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        let message = format!("is not 1 to {MAX_KEY_BYTES} printable ASCII characters");
        violations.push(FieldViolation::new("Idempotency-Key", message));
    }
}
