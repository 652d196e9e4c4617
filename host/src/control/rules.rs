//! Uploading and reading rules.

use tocsin_engine::domain::{self, RuleName, RuleQuarantine, RuleRef, RuleVersion, Tenant, Version};
use tocsin_engine::trial::trial_migration;
use tocsin_engine::{Rule, builtin};
use tocsin_store::StoredRule;

use super::thread::on_thread;
use super::{Control, ControlError, Page, page, page_size};

/// What an upload led to.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The stored version.
    pub rule: RuleVersion,
    /// False if these bytes were stored before.
    pub created: bool,
}

impl Control {
    /// Validates, compiles, tries out and stores a module.
    pub async fn upload_rule(&self, tenant: &Tenant, module: Vec<u8>) -> Result<Upload, ControlError> {
        let rule = self.0.library.load(module.clone()).await?;
        check_name_is_free(&rule.reference().name, &module)?;
        self.try_migrations(tenant, &rule).await?;
        let version = RuleVersion {
            reference: rule.reference().clone(),
            manifest: rule.manifest().json.to_string(),
            created_at_ms: self.now_ms(),
            quarantine: None,
        };
        match self.0.store.put_rule(tenant, &version, &module).await? {
            StoredRule::Created(rule) => Ok(Upload { rule, created: true }),
            StoredRule::Existing(rule) => Ok(Upload { rule, created: false }),
            StoredRule::Conflict(other) => Err(ControlError::Conflict(format!(
                "{} {} is stored with other bytes ({}), and versions never change: raise the version in the manifest",
                other.reference.name, other.reference.version, other.reference.digest
            ))),
        }
    }

    /// Has a rule take over states of the versions that it says it can, where they are stored.
    async fn try_migrations(&self, tenant: &Tenant, rule: &Rule) -> Result<(), ControlError> {
        if rule.manifest().migrates.is_empty() {
            return Ok(());
        }
        let mut olds = Vec::new();
        for stored in self.0.store.rule_versions(tenant, &rule.reference().name).await? {
            if rule.manifest().migrates.contains(&stored.reference.version) {
                olds.push(self.0.library.get(stored.reference.digest).await?);
            }
        }
        let rule = rule.clone();
        let tried = on_thread(move || {
            olds.iter().map(|old| trial_migration(&rule, old.manifest())).collect::<Result<Vec<_>, _>>()
        });
        let violations = tried.await?.map_err(|error| ControlError::Unavailable(error.to_string()))?.concat();
        if violations.is_empty() { Ok(()) } else { Err(ControlError::Rejected(violations)) }
    }

    /// One version of a rule, the newest if none is named.
    pub async fn rule(&self, tenant: &Tenant, name: &str, version: Option<&str>) -> Result<RuleVersion, ControlError> {
        let name = RuleName::parse(name).map_err(|error| ControlError::invalid("name", error.to_string()))?;
        let version = version.map(|text| parse_version("version", text)).transpose()?;
        self.find_rule(tenant, &name, version.as_ref()).await
    }

    /// All versions of a rule, oldest first.
    pub async fn rule_versions(&self, tenant: &Tenant, name: &str) -> Result<Vec<RuleVersion>, ControlError> {
        let name = RuleName::parse(name).map_err(|error| ControlError::invalid("name", error.to_string()))?;
        let versions = self.0.store.rule_versions(tenant, &name).await?;
        if versions.is_empty() {
            return Err(no_rule(&name));
        }
        Ok(versions)
    }

    /// The bytes of a stored rule version.
    pub async fn rule_module(&self, tenant: &Tenant, rule: &RuleRef) -> Result<Vec<u8>, ControlError> {
        let module = self.0.store.module(tenant, &rule.name, &rule.version).await?;
        module.ok_or_else(|| ControlError::Internal(format!("the module of {} {} is missing", rule.name, rule.version)))
    }

    /// The newest version of every rule, by name. `after` is a page's cursor.
    pub async fn rules(
        &self,
        tenant: &Tenant,
        after: Option<&str>,
        limit: Option<i64>,
    ) -> Result<Page<RuleVersion>, ControlError> {
        let after = match after {
            None | Some("") => Ok(String::new()),
            Some(cursor) => RuleName::parse(cursor)
                .map(|name| name.to_string())
                .map_err(|_| ControlError::invalid("after", "is not the cursor of a page of rules")),
        };
        let (limit, after) = page(page_size(limit, "limit"), after)?;
        let rules = self.0.store.rules(tenant, &after, limit + 1).await?;
        Ok(Page::of(rules, limit, |rule| rule.reference.name.to_string()))
    }

    pub(super) async fn find_rule(
        &self,
        tenant: &Tenant,
        name: &RuleName,
        version: Option<&Version>,
    ) -> Result<RuleVersion, ControlError> {
        let mut versions = self.0.store.rule_versions(tenant, name).await?;
        let Some(version) = version else { return RuleVersion::newest(versions).ok_or_else(|| no_rule(name)) };
        let found = versions.iter().position(|rule| rule.reference.version == *version);
        match found {
            Some(at) => Ok(versions.swap_remove(at)),
            None if versions.is_empty() => Err(no_rule(name)),
            None => Err(ControlError::NotFound(format!("the rule {name} has no version {version}"))),
        }
    }
}

pub(super) fn parse_version(field: &str, text: &str) -> Result<Version, ControlError> {
    domain::parse_version(text).map_err(|error| ControlError::invalid(field, error.to_string()))
}

/// Returns the error of a request on a rule version that is no longer evaluated.
pub(super) fn rule_quarantined(rule: &RuleRef, quarantine: &RuleQuarantine) -> ControlError {
    ControlError::Precondition(format!(
        "the rule {} {} is impure and no longer evaluated: {}; upload a version without this fault, promote the alerts to it \
         with `tocsin rule promote {} VERSION --reset-state`, and create new ones on it",
        rule.name, rule.version, quarantine.reason, rule.name
    ))
}

/// Alerts are created on `above` and `below` without a version, by clients that know what these mean.
fn check_name_is_free(name: &RuleName, module: &[u8]) -> Result<(), ControlError> {
    let is_builtin = [RuleName::above(), RuleName::below()].contains(name);
    if !is_builtin || builtin::ALL.contains(&module) {
        return Ok(());
    }
    Err(ControlError::Conflict(format!(
        "the rule {name} is built in, and its versions come with Tocsin: give yours another name in the manifest"
    )))
}

fn no_rule(name: &RuleName) -> ControlError {
    ControlError::NotFound(format!("there is no rule {name}: upload it, or choose one of the list of rules"))
}
