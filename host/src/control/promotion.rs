//! Promoting a rule version: alerts move to it with the states of their bindings, all of them or none.
//!
//! Once begun, a promotion runs to its end whether or not the client waits for it. The process that carries it out holds
//! a lock; one that it does not live to end is rolled back by whichever process has the lock next. It may be cancelled, by
//! any process, for as long as it has not ended. However it fails, all that evaluators have handed over goes back at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use backon::Retryable;
use serde_json::Value;
use tocsin_base::retry::RetryPolicy;
use tocsin_engine::domain::{AlertId, BindingId, Digest, Params, RuleName, RuleQuarantine, RuleRef, Symbol, Tenant};
use tocsin_engine::manifest::Manifest;
use tocsin_engine::{Migration, MigrationError, Rule, SavedBinding};
use tocsin_store::{
    BegunPromotion, FinishedPromotion, HeldBinding, Lease, Moved, NewPromotion, OutOfService, PromotedAlert,
    PromotionId, StoreError, UnfinishedPromotion,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::alerts::{cap_reached, params_violations};
use super::rules::{parse_version, rule_quarantined};
use super::thread::on_thread;
use super::{Control, ControlError, FieldViolation, MAX_PAGE};
use crate::lease::{self, Held};

/// Wrong params that are listed; more are counted.
const MAX_VIOLATIONS: usize = 1_000;

/// States that are loaded, migrated and kept at once: with the largest states there can be they take 32 MiB.
const STATES_AT_ONCE: u32 = 256;

/// The lock of the process that carries a promotion out.
const PROMOTION_LOCK: &str = "promotion";

/// How long evaluators have for handing over: milliseconds are usual, a replay after a start takes longer.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a promotion that waits is looked at, announced or not: it may have been cancelled by another process, and what
/// it waits for may have halted.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A client's request for a promotion.
#[derive(Clone, Debug)]
pub struct PromoteRule {
    /// The rule's name.
    pub name: String,
    /// The version that alerts move to.
    pub version: String,
    /// The version that they leave; None for all others.
    pub from: Option<String>,
    /// Where the new version cannot make a state out of the old one's, it begins at zero: its manifest names no migration, or
    /// the migration refuses or faults.
    pub reset_state: bool,
}

/// What a promotion led to.
#[derive(Clone, Debug)]
pub struct Promoted {
    /// The version that alerts moved to.
    pub rule: RuleRef,
    /// How much was moved.
    pub moved: Moved,
}

/// A promotion that was cancelled.
#[derive(Clone, Debug)]
pub struct CancelledPromotion {
    /// The version that alerts were to move to.
    pub rule: RuleRef,
    /// Bindings that evaluators had handed over, and go on with where they were.
    pub given_back: u64,
}

/// A promotion that was checked.
struct Plan {
    new: NewPromotion,
    rule: Rule,
    paths: HashMap<Digest, Path>,
    reset_state: bool,
}

/// How states come over from one version.
#[derive(Clone)]
enum Path {
    /// As the new version says, from the one with this manifest.
    Migration(Box<Manifest>),
    /// They begin at zero.
    Reset,
}

impl Control {
    /// Moves the alerts of other versions of a rule to one version, with their params and states.
    pub async fn promote_rule(&self, tenant: &Tenant, request: PromoteRule) -> Result<Promoted, ControlError> {
        let (control, tenant) = (self.clone(), tenant.clone());
        // A client that goes away must not leave it in the middle.
        let work = tokio::spawn(async move {
            let plan = control.plan(&tenant, &request).await?;
            let moved = control.carry_out(plan).await;
            if let Ok(Promoted { rule, moved }) = &moved {
                let (alerts, bindings) = (moved.alerts, moved.bindings);
                info!(rule = %rule.name, version = %rule.version, alerts, bindings, "a rule version is promoted");
            }
            moved
        });
        work.await.unwrap_or_else(|error| Err(ControlError::Internal(format!("the promotion died: {error}"))))
    }

    /// Takes back the promotion of a rule to a version that is under way, whichever process carries it out. Its alerts stay
    /// on the versions that they are on.
    pub async fn cancel_promotion(
        &self,
        tenant: &Tenant,
        name: &str,
        version: &str,
    ) -> Result<CancelledPromotion, ControlError> {
        let name = RuleName::parse(name).map_err(|error| ControlError::invalid("name", error.to_string()))?;
        let version = parse_version("version", version)?;
        let none = || ControlError::NotFound(format!("no promotion of {name} to {version} is under way"));
        let unfinished = self.0.store.unfinished_promotion().await?.filter(|unfinished| {
            unfinished.tenant == *tenant && unfinished.to.name == name && unfinished.to.version == version
        });
        let UnfinishedPromotion { id, to: rule, .. } = unfinished.ok_or_else(none)?;
        // It may have ended since it was read.
        let given_back = self.0.store.roll_back_promotion(id).await?.ok_or_else(none)?;
        warn!(rule = %rule.name, version = %rule.version, given_back, "a promotion is cancelled");
        Ok(CancelledPromotion { rule, given_back })
    }

    /// Looks for promotions that no process lives to end, now and then until `stop`, and rolls them back. Evaluators may
    /// be at work already, or be away.
    pub async fn roll_back_abandoned_promotions(&self, stop: CancellationToken) {
        let looking = Box::pin(async {
            loop {
                if let Err(error) = self.roll_back_abandoned_promotion().await {
                    debug!(%error, "cannot look for an unfinished promotion; trying again");
                }
                tokio::time::sleep(lease::LEASE).await;
            }
        });
        stop.run_until_cancelled(looking).await;
    }

    /// Rolls back the promotion under way, if there is one that no process carries out.
    pub async fn roll_back_abandoned_promotion(&self) -> Result<(), ControlError> {
        if self.0.store.unfinished_promotion().await?.is_none() {
            return Ok(());
        }
        let Some(lock) = self.promotion_lock().await? else { return Ok(()) };
        // The one that was seen may have ended meanwhile.
        if let Some(UnfinishedPromotion { id, to: rule, .. }) = self.0.store.unfinished_promotion().await? {
            warn!(rule = %rule.name, version = %rule.version, "an unfinished promotion is rolled back");
            self.roll_back(id).await;
        }
        lock.release().await;
        Ok(())
    }

    /// What a promotion is carried out under; None while another one is.
    async fn promotion_lock(&self) -> Result<Option<Held>, ControlError> {
        // Of this attempt alone: the process may make another one at the same time.
        let owner = format!("{:032x}", rand::random::<u128>());
        let lock = Lease { name: PROMOTION_LOCK.into(), owner, duration: lease::LEASE };
        Ok(Held::acquire(&self.0.store, lock).await?)
    }

    /// Checks all that can be known before anything is touched.
    async fn plan(&self, tenant: &Tenant, request: &PromoteRule) -> Result<Plan, ControlError> {
        let name = RuleName::parse(&request.name).map_err(|error| ControlError::invalid("name", error.to_string()))?;
        let version = parse_version("version", &request.version)?;
        let from = request.from.as_deref().map(|text| parse_version("from", text)).transpose()?;
        if from.as_ref() == Some(&version) {
            return Err(ControlError::invalid("from", format!("{version} is the version to move to: name another")));
        }
        let to = self.find_rule(tenant, &name, Some(&version)).await?;
        if let Some(quarantine) = &to.quarantine {
            return Err(rule_quarantined(&to.reference, quarantine));
        }
        let from = match &from {
            Some(from) => Some(self.find_rule(tenant, &name, Some(from)).await?.reference),
            None => None,
        };
        let rule = self.0.library.get(to.reference.digest).await?;
        let mut plan = Plan {
            new: NewPromotion { tenant: tenant.clone(), to: to.reference, alerts: Vec::new(), out_of_service: None },
            rule,
            paths: HashMap::new(),
            reset_state: request.reset_state,
        };
        let mut violations = Violations::default();
        let mut out_of_service = Vec::new();
        let mut after = AlertId(0);
        loop {
            let page = self.0.store.promotable(tenant, &plan.new.to, from.as_ref(), after, MAX_PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.alert;
            for found in page {
                if let Entry::Vacant(entry) = plan.paths.entry(found.rule.digest) {
                    let old = self.find_rule(tenant, &name, Some(&found.rule.version)).await?;
                    entry.insert(match old.quarantine {
                        Some(_) if request.reset_state => {
                            out_of_service.push(found.rule.digest);
                            Path::Reset
                        }
                        Some(quarantine) => return Err(states_not_trusted(&found.rule, &quarantine)),
                        None => self.path(&plan.rule, &found.rule, request.reset_state).await?,
                    });
                }
                match repack(&plan.rule, &found.params_json)? {
                    Ok(params) => {
                        plan.new.alerts.push(PromotedAlert { alert: found.alert, from: found.rule.digest, params });
                    }
                    Err(wrong) => violations.add(found.alert, wrong),
                }
            }
        }
        violations.none()?;
        if !out_of_service.is_empty() {
            let ends = self.0.bus.ends().await?;
            plan.new.out_of_service = Some(OutOfService { versions: out_of_service, ends });
        }
        Ok(plan)
    }

    /// How states come over from a version.
    async fn path(&self, rule: &Rule, from: &RuleRef, reset_state: bool) -> Result<Path, ControlError> {
        let old = self.0.library.get(from.digest).await?.manifest().clone();
        match Migration::new(rule, &old) {
            Ok(_) => Ok(Path::Migration(Box::new(old))),
            Err(MigrationError::NoPath { .. }) if reset_state => Ok(Path::Reset),
            Err(error @ MigrationError::NoPath { .. }) => Err(ControlError::Precondition(format!(
                "{error}; promote with reset_state to have the states of its alerts begin at zero"
            ))),
            Err(error) => Err(ControlError::Internal(error.to_string())),
        }
    }

    /// From the first mark to the end; what fails on the way is taken back.
    async fn carry_out(&self, plan: Plan) -> Result<Promoted, ControlError> {
        let to = plan.new.to.clone();
        if plan.new.alerts.is_empty() {
            return Ok(Promoted { rule: to, moved: Moved::default() });
        }
        let Some(lock) = self.promotion_lock().await? else {
            return Err(ControlError::Raced("a promotion is under way: try again when it has ended".into()));
        };
        let id = match self.0.store.begin_promotion(&plan.new).await? {
            BegunPromotion::Begun(id) => id,
            refused => {
                lock.release().await;
                return Err(not_begun(refused));
            }
        };
        let finished = match self.handed_over(id).await {
            Ok(()) => self.finish(id, plan).await,
            Err(failed) => Err(failed),
        };
        if finished.is_err() {
            self.roll_back(id).await;
        }
        lock.release().await;
        Ok(Promoted { rule: to, moved: finished? })
    }

    /// Waits until evaluators have handed over all bindings that were asked for; fails as soon as they cannot.
    async fn handed_over(&self, id: PromotionId) -> Result<(), ControlError> {
        let mut newest = self.0.store.newest_revision().await?;
        let all = async {
            loop {
                newest.borrow_and_update();
                if self.is_handed_over(id).await? {
                    return Ok(());
                }
                // Announcements may be late, and not all that ends the wait is announced.
                let announced = tokio::time::timeout(LOOK_EVERY, newest.changed()).await;
                if matches!(announced, Ok(Err(_))) {
                    return Err(ControlError::Unavailable("the store is being closed".into()));
                }
            }
        };
        tokio::time::timeout(HAND_OVER_TIMEOUT, all).await.unwrap_or_else(|_| {
            let seconds = HAND_OVER_TIMEOUT.as_secs();
            Err(ControlError::Unavailable(format!(
                "the evaluators did not hand all alerts over within {seconds} s; nothing is moved"
            )))
        })
    }

    async fn is_handed_over(&self, id: PromotionId) -> Result<bool, ControlError> {
        let unfinished = self.0.store.unfinished_promotion().await?.filter(|unfinished| unfinished.id == id);
        let Some(promotion) = unfinished else { return Err(taken_back()) };
        let halted =
            promotion.waiting_for.iter().find_map(|waiting| Some((waiting.partition, waiting.halted.as_ref()?)));
        match halted {
            Some((partition, why)) => Err(ControlError::Precondition(format!(
                "partition {partition} has halted, and its alerts cannot be handed over; nothing is moved: {why}"
            ))),
            None => Ok(promotion.waiting_for.is_empty()),
        }
    }

    /// Makes the new states and moves everything at once.
    async fn finish(&self, id: PromotionId, plan: Plan) -> Result<Moved, ControlError> {
        let Plan { new, rule, paths, reset_state } = plan;
        let mut migrations = Migrations { rule, paths, reset_state, running: HashMap::new() };
        let mut after = BindingId(0);
        loop {
            let held = self.0.store.held_bindings(after, STATES_AT_ONCE).await?;
            let Some(last) = held.last() else { break };
            after = last.id;
            let states;
            (migrations, states) = on_thread(move || migrations.states(held)).await?;
            self.0.store.stage_promotion(id, &states?).await?;
        }
        match self.0.store.finish_promotion(id, self.0.caps).await? {
            FinishedPromotion::Finished(moved) => Ok(moved),
            FinishedPromotion::CapReached(reached) => Err(cap_reached(reached, &new.tenant, &new.to, "this promotion")),
            FinishedPromotion::RuleQuarantined(rule, quarantine) => Err(rule_quarantined(&rule, &quarantine)),
            FinishedPromotion::RolledBack => Err(taken_back()),
        }
    }

    /// Takes a promotion back, however long the store is away.
    async fn roll_back(&self, id: PromotionId) {
        let rolled_back = (|| self.0.store.roll_back_promotion(id))
            .retry(RetryPolicy::PROMOTION.builder())
            .when(StoreError::is_transient)
            .notify(|error, wait| warn!(%error, ?wait, "a promotion's rollback waits for the store"))
            .await;
        if let Err(error) = rolled_back {
            error!(%error, "a promotion cannot be rolled back: its alerts are not evaluated until that is tried again");
        }
    }
}

/// The migrations of a promotion, each made when it is first needed.
struct Migrations {
    rule: Rule,
    paths: HashMap<Digest, Path>,
    /// Whether states that cannot be migrated begin at zero.
    reset_state: bool,
    running: HashMap<Digest, Migration>,
}

impl Migrations {
    /// The states that bindings go on with.
    fn states(mut self, held: Vec<HeldBinding>) -> (Self, Result<Vec<SavedBinding>, ControlError>) {
        let states = held.into_iter().map(|held| self.state(held)).collect();
        (self, states)
    }

    fn state(&mut self, held: HeldBinding) -> Result<SavedBinding, ControlError> {
        let HeldBinding { id, alert, symbol, from, packed_params, saved } = held;
        let health = saved.as_ref().map(|saved| saved.health.for_another_version()).unwrap_or_default();
        let pace = saved.as_ref().and_then(|saved| saved.pace);
        let state = match self.paths.get(&from) {
            Some(Path::Reset) => vec![0; self.rule.manifest().state_bytes],
            Some(Path::Migration(old)) => {
                // A binding that was never evaluated has the initial state.
                let old_state = saved.map_or_else(|| vec![0; old.state_bytes], |saved| saved.state);
                let migration = match self.running.entry(from) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => {
                        let migration = Migration::new(&self.rule, old);
                        entry.insert(migration.map_err(|error| ControlError::Internal(error.to_string()))?)
                    }
                };
                match migration.state(&packed_params, &old_state) {
                    Err(error) if self.reset_state && is_of_state(&error) => vec![0; self.rule.manifest().state_bytes],
                    migrated => migrated.map_err(|error| not_migrated(alert, &symbol, &error))?,
                }
            }
            None => {
                return Err(ControlError::Internal(format!("alert {} is on a version that was not planned", alert.0)));
            }
        };
        Ok(SavedBinding { binding: id, health, pace, state })
    }
}

fn states_not_trusted(from: &RuleRef, quarantine: &RuleQuarantine) -> ControlError {
    ControlError::Precondition(format!(
        "the rule {} {} is out of service: {}; what its alerts remember cannot be trusted. Promote with reset_state to have \
         their states begin at zero, with the next tick that is published",
        from.name, from.version, quarantine.reason
    ))
}

/// Whether a migration failed because of the state.
fn is_of_state(error: &MigrationError) -> bool {
    matches!(error, MigrationError::Refused(_) | MigrationError::Faulted(_) | MigrationError::Impure(_))
}

fn not_migrated(alert: AlertId, symbol: &Symbol, error: &MigrationError) -> ControlError {
    let what = format!("alert {} on {symbol}: {error}; nothing is moved", alert.0);
    match error {
        error if is_of_state(error) => ControlError::Precondition(format!(
            "{what}; promote with reset_state to have states that cannot be migrated begin at zero"
        )),
        MigrationError::Machine(_) => ControlError::Unavailable(what),
        _ => ControlError::Internal(what),
    }
}

/// A promotion that is not under way any more, though this process carries it out.
fn taken_back() -> ControlError {
    ControlError::Raced(
        "this promotion was cancelled, or another process took it for abandoned and rolled it back; nothing is moved"
            .into(),
    )
}

fn not_begun(refused: BegunPromotion) -> ControlError {
    match refused {
        BegunPromotion::AnotherRuns(to) => ControlError::Raced(format!(
            "a promotion to {} {} is under way: try again when it has ended",
            to.name, to.version
        )),
        BegunPromotion::Moved(alert) => {
            ControlError::Raced(format!("alert {} was promoted in this moment: look again what is to move", alert.0))
        }
        BegunPromotion::UnquarantineDue(alert) => {
            ControlError::Busy(format!("alert {} is being released from quarantine: try again in a moment", alert.0))
        }
        BegunPromotion::RuleQuarantined(rule, quarantine) => rule_quarantined(&rule, &quarantine),
        BegunPromotion::PartitionHalted { alert, partition, why } => ControlError::Precondition(format!(
            "alert {} is on partition {partition}, which has halted: an operator has to act there first, or its alerts have \
             to be deleted. Nothing is moved. {why}",
            alert.0
        )),
        BegunPromotion::Begun(_) => ControlError::Internal("a promotion was begun and refused".into()),
    }
}

/// Params of an alert, for the new version; what is wrong with them for it.
fn repack(rule: &Rule, params_json: &str) -> Result<Result<Params, Vec<FieldViolation>>, ControlError> {
    let params: Value = serde_json::from_str(params_json)
        .map_err(|error| ControlError::Internal(format!("stored params are damaged: {error}")))?;
    Ok(rule.manifest().params.pack(&params).map_err(params_violations))
}

/// What is wrong with the params of all alerts together.
#[derive(Default)]
struct Violations {
    listed: Vec<FieldViolation>,
    more: usize,
}

impl Violations {
    fn add(&mut self, alert: AlertId, violations: Vec<FieldViolation>) {
        for FieldViolation { field, message } in violations {
            if self.listed.len() < MAX_VIOLATIONS {
                self.listed.push(FieldViolation::new(format!("alerts.{}.{field}", alert.0), message));
            } else {
                self.more += 1;
            }
        }
    }

    fn none(mut self) -> Result<(), ControlError> {
        if self.listed.is_empty() {
            return Ok(());
        }
        if self.more > 0 {
            self.listed.push(FieldViolation::new("alerts", format!("{} more do not fit", self.more)));
        }
        Err(ControlError::Invalid(self.listed))
    }
}
