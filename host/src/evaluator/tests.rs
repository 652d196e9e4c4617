//! Real workers over real backends: what faults lead to, and that a crash changes none of it. Time between checkpoints
//! is so long that none is taken but those that a release or a clean stop asks for.

mod homes;
mod interleavings;
mod logs;
mod promotion;
mod rebalance;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tocsin_bus::{Bus, Clock, EmbeddedBus, EmbeddedDb, LogConfig};
use tocsin_engine::domain::{Alert, BindingStatus, Conditions, Lifecycle, Repeat, Symbol, Tenant, Tick};
use tocsin_engine::{Engine, EvaluationOptions, Waking};
use tocsin_store::testing::{Backend, TestStore, on_each_backend};
use tocsin_store::{BindingCaps, Store};
use tokio_util::sync::CancellationToken;

use super::{EvaluatorConfig, EvaluatorError, EvaluatorSnapshot, RunningEvaluator, start};
use crate::control::{Control, ControlError, CreateAlert, PromoteRule};
use crate::rules::RuleCache;
use crate::rules::compiler::{ChildCompiler, CompileLimits, Compiler};

on_each_backend!(
    a_released_binding_goes_on_with_its_state_or_is_quarantined_again,
    a_release_while_nothing_runs_takes_effect_at_the_start,
    a_replay_begins_with_the_release_that_its_checkpoint_names,
    a_release_that_was_never_applied_leaves_older_ticks_as_they_were_judged,
    an_impure_rule_is_disarmed_everywhere_and_never_armed_again,
    alerts_leave_a_version_that_is_out_of_service_with_their_states_reset,
    a_start_whose_rules_cannot_be_loaded_fails_with_the_reason,
    a_stored_rule_that_is_refused_now_stops_only_its_own_bindings,
    firings_leave_in_the_middle_of_a_tick_that_takes_long,
);

pub(super) const NOW_MS: i64 = 1_700_000_000_123;
pub(super) const CAPS: BindingCaps =
    BindingCaps { per_tenant: 500, per_rule: 500, bytes_per_tenant: 1 << 30, bytes_per_rule: 1 << 28 };

/// No price of a trial run.
pub(super) const GOOD: f64 = 4321.5;
/// The price that makes [`COUNTER`] trap.
pub(super) const BAD: f64 = 4321.25;

/// Counts its evaluations in its state and fires with the count; traps at one price.
pub(super) const COUNTER: &str = r#"(module (memory (export "memory") 1)
  (func (export "evaluate") (param $tick i32) (param i32) (param $state i32) (param $verdict i32) (result i32)
    (f64.store (local.get $state) (f64.add (f64.load (local.get $state)) (f64.const 1)))
    (if (f64.eq (f64.load (local.get $tick)) (f64.const 4321.25)) (then unreachable))
    (f64.store (local.get $verdict) (f64.load (local.get $state)))
    (i32.const 1))
  (@custom "tocsin.manifest"
    "{\"abi\":1,\"name\":\"counter\",\"version\":\"1.0.0\",\"state\":{\"size\":8},\"evidence\":[\"count\"]}"))"#;

/// The price at which [`DEAR`] takes its time.
const SLOW: f64 = 4322.5;

/// Burns most of the fuel of an evaluation at one price, and never fires.
const DEAR: &str = r#"(module (memory (export "memory") 1)
  (func (export "evaluate") (param $tick i32) (param i32 i32 i32) (result i32) (local $left i32)
    (if (f64.ne (f64.load (local.get $tick)) (f64.const 4322.5)) (then (return (i32.const 0))))
    (local.set $left (i32.const 22))
    (loop $again
      (memory.fill (i32.const 0) (i32.const 0) (i32.const 65536))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i32.const 0))
  (@custom "tocsin.manifest" "{\"abi\":1,\"name\":\"dear\",\"version\":\"1.0.0\"}"))"#;

/// Counts its evaluations where nobody should, in a global, unless it is tried.
pub(super) const IMPURE: &str = r#"(module (memory (export "memory") 1) (global $count (mut f64) (f64.const 0))
  (func (export "evaluate") (param $tick i32) (param i32 i32) (param $verdict i32) (result i32)
    (if (f64.eq (f64.load (local.get $tick)) (f64.const 4321.5))
      (then (global.set $count (f64.add (global.get $count) (f64.const 1)))))
    (f64.store (local.get $verdict) (global.get $count))
    (i32.const 1))
  (@custom "tocsin.manifest" "{\"abi\":1,\"name\":\"impure\",\"version\":\"1.0.0\",\"evidence\":[\"count\"]}"))"#;

struct Rig {
    group: String,
    bus: Bus,
    store: Store,
    library: RuleCache,
    control: Control,
    clock: Clock,
    test_store: TestStore,
    _dir: TempDir,
}

struct Running {
    evaluator: RunningEvaluator,
    stop: CancellationToken,
}

impl Running {
    fn stats(&self) -> EvaluatorSnapshot {
        self.evaluator.stats().snapshot()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.evaluator.finished().await.unwrap();
    }
}

impl Rig {
    async fn new(backend: Backend, modules: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = EmbeddedDb::open(dir.path()).unwrap();
        let bus = EmbeddedBus::open(&db, LogConfig::default(), Arc::new(|| NOW_MS)).unwrap();
        Self::on(Bus::Embedded(bus), dir, backend, modules).await
    }

    async fn on(bus: Bus, dir: TempDir, backend: Backend, modules: &[&str]) -> Self {
        let clock: Clock = Arc::new(|| NOW_MS);
        let test_store = TestStore::make(backend).await;
        let store = test_store.open().await;
        let library = RuleCache::new(Engine::new().unwrap(), store.clone(), Compiler::InProcess, None);
        let control = Control::new(store.clone(), bus.clone(), library.clone(), clock.clone(), CAPS);
        for module in modules {
            control.upload_rule(&Tenant::standard(), wat::parse_str(module).unwrap()).await.unwrap();
        }
        let group = format!("evaluators-{}", dir.path().display());
        Self { group, bus, store, library, control, clock, test_store, _dir: dir }
    }

    async fn start(&self) -> Running {
        self.start_with(Duration::from_secs(600)).await
    }

    async fn start_with(&self, checkpoint_interval: Duration) -> Running {
        self.start_as(self.config(checkpoint_interval)).await
    }

    fn config(&self, checkpoint_interval: Duration) -> EvaluatorConfig {
        EvaluatorConfig {
            group: self.group.clone(),
            workers: 2,
            checkpoint_interval,
            skip_lost_ticks: false,
            outbox: false,
            evaluation: EvaluationOptions {
                waking: Waking::Indexed,
                audit_every_calls: 1,
                ..EvaluationOptions::default()
            },
        }
    }

    async fn start_as(&self, config: EvaluatorConfig) -> Running {
        self.start_over(self.store.clone(), config).await
    }

    /// Starts an evaluator over a handle of its own to the rig's store.
    async fn start_over(&self, store: Store, config: EvaluatorConfig) -> Running {
        let stop = CancellationToken::new();
        let (bus, library) = (self.bus.clone(), self.library.clone());
        let evaluator = start(store, bus, library, config, self.clock.clone(), stop.clone()).await.unwrap();
        Running { evaluator, stop }
    }

    /// The process dies: nothing of it is written any more.
    async fn crash(&self, running: Running) {
        for partition in 0..self.bus.partitions() {
            self.store.claim(partition).await.unwrap();
        }
        running.stop.cancel();
        let ended = running.evaluator.finished().await;
        assert!(matches!(ended, Err(EvaluatorError::Store(tocsin_store::StoreError::Fenced(_)))), "{ended:?}");
    }

    async fn create(&self, rule: &str, symbols: &[&str]) -> Result<i64, ControlError> {
        let request = request(rule, symbols);
        Ok(self.control.create_alert(&Tenant::standard(), request).await?.0.id.0)
    }

    async fn publish(&self, symbol: &str, prices: &[f64]) {
        let symbol = Symbol::parse(symbol).unwrap();
        let tick = |price: &f64| Tick::new(symbol.clone(), *price, 1.0, NOW_MS, Conditions::default()).unwrap();
        self.bus.publish(prices.iter().map(tick).collect()).await.unwrap();
    }

    async fn alert(&self, id: i64) -> Alert {
        self.control.alert(&Tenant::standard(), id).await.unwrap()
    }

    /// The counts that an alert fired with, in order.
    async fn counts(&self, id: i64) -> Vec<f64> {
        let page = self.control.firings(&Tenant::standard(), Some(id), None, None).await.unwrap();
        page.items.iter().map(|firing| firing.evidence[0].1).collect()
    }

    async fn faults(&self, id: i64) -> Vec<u64> {
        let page = self.control.faults(&Tenant::standard(), id, None, None).await.unwrap();
        page.items.iter().map(|fault| fault.position.offset).collect()
    }

    /// How many bindings a promotion waits for.
    async fn asked(&self) -> u64 {
        self.store.unfinished_promotion().await.unwrap().map_or(0, |promotion| promotion.requested())
    }

    async fn until_counts(&self, id: i64, expect: &[f64]) {
        wait_until(async || self.counts(id).await == expect).await;
    }

    async fn until_quarantined(&self, id: i64) {
        wait_until(async || matches!(self.alert(id).await.bindings[0].status, BindingStatus::Quarantined(_))).await;
    }

    async fn release(&self, id: i64) {
        let released = self.control.release_alert(&Tenant::standard(), id, None).await.unwrap();
        assert!(released.bindings.iter().all(|binding| binding.status == BindingStatus::Active));
    }

    /// Until the checkpoint is written behind which a release takes effect.
    async fn until_applied(&self) {
        wait_until(async || {
            let changed = self.store.changes(0, 1_000).await.unwrap();
            !changed.bindings.iter().any(|row| row.unquarantine_due)
        })
        .await;
    }
}

pub(super) fn request(rule: &str, symbols: &[&str]) -> CreateAlert {
    CreateAlert {
        user_id: Some(1),
        symbols: Some(symbols.iter().map(|symbol| (*symbol).to_owned()).collect()),
        rule: Some(rule.into()),
        version: None,
        params: Some(json!({})),
        lifecycle: Lifecycle { repeat: Repeat::Every },
        idempotency: None,
        violations: Vec::new(),
    }
}

async fn wait_until(mut holds: impl AsyncFnMut() -> bool) {
    let patience = tokio::time::timeout(Duration::from_secs(60), async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    patience.await.expect("what is waited for happens");
}

async fn a_released_binding_goes_on_with_its_state_or_is_quarantined_again(backend: Backend) {
    let rig = Rig::new(backend, &[COUNTER]).await;
    let id = rig.create("counter", &["X"]).await.unwrap();
    let running = rig.start().await;
    rig.publish("X", &[GOOD, GOOD, BAD, BAD, BAD, BAD, BAD]).await;
    rig.until_quarantined(id).await;
    let BindingStatus::Quarantined(reason) = rig.alert(id).await.bindings[0].status.clone() else { panic!() };
    assert!(reason.contains("unreachable"), "{reason}");
    assert_eq!((rig.counts(id).await, rig.faults(id).await), (vec![1.0, 2.0], vec![2, 3, 4, 5, 6]));

    rig.release(id).await;
    rig.until_applied().await;
    rig.publish("X", &[GOOD]).await;
    rig.until_counts(id, &[1.0, 2.0, 3.0]).await;
    wait_until(async || running.stats().recovered == 1).await;

    rig.publish("X", &[BAD; 5]).await;
    rig.until_quarantined(id).await;
    rig.release(id).await;
    rig.until_applied().await;
    rig.publish("X", &[BAD]).await;
    rig.until_quarantined(id).await;
    assert_eq!(rig.faults(id).await.len(), 11, "one fault is enough for who is on probe");
    assert_eq!(running.stats().quarantined, 3);
    running.stop().await;
    rig.until_quarantined(id).await;
}

async fn a_release_while_nothing_runs_takes_effect_at_the_start(backend: Backend) {
    let rig = Rig::new(backend, &[COUNTER]).await;
    let id = rig.create("counter", &["X"]).await.unwrap();
    let running = rig.start().await;
    rig.publish("X", &[GOOD, BAD, BAD, BAD, BAD, BAD]).await;
    rig.until_quarantined(id).await;
    running.stop().await;
    rig.release(id).await;
    let running = rig.start().await;
    rig.until_applied().await;
    rig.publish("X", &[GOOD]).await;
    rig.until_counts(id, &[1.0, 2.0]).await;
    running.stop().await;
    assert_eq!(rig.alert(id).await.bindings[0].status, BindingStatus::Active);
}

async fn a_replay_begins_with_the_release_that_its_checkpoint_names(backend: Backend) {
    let rig = Rig::new(backend, &[COUNTER]).await;
    let id = rig.create("counter", &["X"]).await.unwrap();
    let running = rig.start().await;
    rig.publish("X", &[GOOD, BAD, BAD, BAD, BAD, BAD]).await;
    rig.until_quarantined(id).await;
    rig.release(id).await;
    rig.until_applied().await;
    // Behind that checkpoint: the release succeeds, and then it is quarantined again.
    rig.publish("X", &[GOOD, BAD, BAD, BAD, BAD, BAD]).await;
    rig.until_counts(id, &[1.0, 2.0]).await;
    rig.until_quarantined(id).await;
    let faults = rig.faults(id).await;
    rig.crash(running).await;

    let running = rig.start().await;
    wait_until(async || running.stats().quarantined == 1).await;
    assert_eq!((rig.counts(id).await, rig.faults(id).await), (vec![1.0, 2.0], faults), "nothing is doubled");
    rig.release(id).await;
    rig.until_applied().await;
    rig.publish("X", &[GOOD]).await;
    rig.until_counts(id, &[1.0, 2.0, 3.0]).await;
    running.stop().await;
}

async fn a_release_that_was_never_applied_leaves_older_ticks_as_they_were_judged(backend: Backend) {
    let rig = Rig::new(backend, &[COUNTER]).await;
    let id = rig.create("counter", &["X"]).await.unwrap();
    let running = rig.start().await;
    rig.publish("X", &[GOOD, BAD, BAD, BAD, BAD, BAD]).await;
    rig.until_quarantined(id).await;
    // Judged, and asleep in quarantine, before the crash.
    rig.publish("X", &[GOOD, GOOD]).await;
    wait_until(async || running.stats().ticks == 8).await;
    rig.crash(running).await;
    rig.release(id).await;

    let running = rig.start().await;
    rig.until_applied().await;
    assert_eq!(rig.counts(id).await, [1.0]);
    rig.publish("X", &[GOOD]).await;
    rig.until_counts(id, &[1.0, 2.0]).await;
    running.stop().await;
}

async fn an_impure_rule_is_disarmed_everywhere_and_never_armed_again(backend: Backend) {
    let rig = Rig::new(backend, &[IMPURE, COUNTER]).await;
    let symbols: Vec<String> = (0..8).map(|i| format!("S{i}")).collect();
    let symbols: Vec<&str> = symbols.iter().map(String::as_str).collect();
    let id = rig.create("impure", &symbols).await.unwrap();
    let honest = rig.create("counter", &["S0"]).await.unwrap();
    let running = rig.start().await;
    // The first evaluation of an instance is like that of a fresh one.
    for symbol in &symbols {
        rig.publish(symbol, &[GOOD, GOOD]).await;
    }
    let is_out = async || rig.control.rule(&Tenant::standard(), "impure", None).await.unwrap().quarantine.is_some();
    wait_until(is_out).await;
    rig.until_counts(honest, &[1.0, 2.0]).await;
    wait_until(async || running.stats().bindings == 1).await;
    let alert = rig.alert(id).await;
    for binding in &alert.bindings {
        let BindingStatus::Quarantined(reason) = &binding.status else { panic!("{binding:?}") };
        assert!(reason.contains("impure") && reason.contains("then 1.0"), "{reason}");
    }
    let rule = rig.control.rule(&Tenant::standard(), "impure", None).await.unwrap();
    assert_eq!(rule.quarantine.map(|quarantine| quarantine.at_ms), Some(NOW_MS));
    let again = rig.control.upload_rule(&Tenant::standard(), wat::parse_str(IMPURE).unwrap()).await.unwrap();
    assert!(!again.created && again.rule.quarantine.is_some());
    let refused = rig.create("impure", &["S0"]).await;
    assert!(matches!(&refused, Err(ControlError::Precondition(told)) if told.contains("impure 1.0.0")), "{refused:?}");
    let refused = rig.control.release_alert(&Tenant::standard(), id, None).await;
    assert!(matches!(&refused, Err(ControlError::Precondition(_))), "{refused:?}");

    let before = rig.counts(id).await;
    rig.crash(running).await;
    let running = rig.start().await;
    for symbol in symbols {
        rig.publish(symbol, &[GOOD]).await;
    }
    rig.until_counts(honest, &[1.0, 2.0, 3.0]).await;
    assert_eq!(running.stats().bindings, 1);
    running.stop().await;
    assert_eq!(rig.counts(id).await, before);
}

async fn alerts_leave_a_version_that_is_out_of_service_with_their_states_reset(backend: Backend) {
    let rig = Rig::new(backend, &[IMPURE]).await;
    let symbols: Vec<String> = (0..8).map(|i| format!("S{i}")).collect();
    let symbols: Vec<&str> = symbols.iter().map(String::as_str).collect();
    let id = rig.create("impure", &symbols).await.unwrap();
    let running = rig.start().await;
    for symbol in &symbols {
        rig.publish(symbol, &[GOOD, GOOD]).await;
    }
    wait_until(async || rig.control.rule(&Tenant::standard(), "impure", None).await.unwrap().quarantine.is_some())
        .await;
    // What fired on the mended version.
    let counts = async || -> Vec<f64> {
        let page = rig.control.firings(&Tenant::standard(), Some(id), None, None).await.unwrap();
        let mended = page.items.iter().filter(|firing| firing.rule.version.to_string() == "2.0.0");
        mended.map(|firing| firing.evidence[0].1).collect()
    };
    let mended = COUNTER.replace("counter", "impure").replace("1.0.0", "2.0.0");
    rig.control.upload_rule(&Tenant::standard(), wat::parse_str(mended).unwrap()).await.unwrap();
    let promote = async |reset_state| {
        let (name, version) = ("impure".into(), "2.0.0".into());
        let request = PromoteRule { name, version, from: None, reset_state };
        rig.control.promote_rule(&Tenant::standard(), request).await
    };
    let refused = promote(false).await;
    assert!(matches!(&refused, Err(ControlError::Precondition(why)) if why.contains("reset_state")), "{refused:?}");
    // What was published before is not evaluated again.
    rig.publish("S0", &[GOOD, GOOD]).await;
    let promoted = promote(true).await.unwrap();
    assert_eq!((promoted.moved.alerts, promoted.moved.bindings), (1, 8));
    let alert = rig.alert(id).await;
    assert!(alert.bindings.iter().all(|binding| binding.status == BindingStatus::Active), "{alert:?}");
    rig.publish("S0", &[GOOD, GOOD]).await;
    wait_until(async || counts().await == [1.0, 2.0]).await;
    // And after a crash the same.
    rig.crash(running).await;
    let running = rig.start().await;
    rig.publish("S0", &[GOOD]).await;
    wait_until(async || counts().await == [1.0, 2.0, 3.0]).await;
    running.stop().await;
}

async fn a_stored_rule_that_is_refused_now_stops_only_its_own_bindings(backend: Backend) {
    let mut rig = Rig::new(backend, &[COUNTER, IMPURE]).await;
    let honest = rig.create("counter", &["X"]).await.unwrap();
    let refused = rig.create("impure", &["X", "Y"]).await.unwrap();
    // What an earlier release had taken.
    let sqlite = "UPDATE rule_versions SET module = X'6e6f' WHERE name = 'impure'";
    rig.test_store.execute(sqlite, "UPDATE rule_versions SET module = '\\x6e6f' WHERE name = 'impure'").await;
    rig.library = RuleCache::new(Engine::new().unwrap(), rig.store.clone(), Compiler::InProcess, None);
    for expected in [&[1.0][..], &[1.0, 2.0]] {
        let running = rig.start().await;
        rig.publish("X", &[GOOD]).await;
        rig.until_counts(honest, expected).await;
        running.stop().await;
        let alert = rig.alert(refused).await;
        assert_eq!(alert.bindings.len(), 2);
        for binding in &alert.bindings {
            let BindingStatus::Quarantined(reason) = &binding.status else { panic!("{binding:?}") };
            assert!(reason.contains("this release refuses its module"), "{reason}");
        }
        let in_use = rig.store.impure_rules_in_use(10).await.unwrap();
        assert_eq!(in_use.iter().map(|(rule, live)| (rule.name.as_str(), *live)).collect::<Vec<_>>(), [("impure", 2)]);
    }
}

async fn firings_leave_in_the_middle_of_a_tick_that_takes_long(backend: Backend) {
    let rig = Rig::new(backend, &[COUNTER, DEAR]).await;
    // All of them together take longer than firings may wait, and more than one call.
    for _ in 0..CAPS.per_tenant - 1 {
        rig.create("dear", &["X"]).await.unwrap();
    }
    let firing = rig.create("counter", &["X"]).await.unwrap();
    // Read together: the last tick finds firings of the others that have not left yet.
    rig.publish("X", &[GOOD, GOOD, GOOD, SLOW, GOOD]).await;
    let running = rig.start().await;
    let expected = [1.0, 2.0, 3.0, 4.0, 5.0];
    rig.until_counts(firing, &expected).await;
    running.stop().await;
    assert_eq!(rig.counts(firing).await, expected);
}

async fn a_start_whose_rules_cannot_be_loaded_fails_with_the_reason(backend: Backend) {
    let mut rig = Rig::new(backend, &[COUNTER]).await;
    rig.create("counter", &["X"]).await.unwrap();
    let no_compiler =
        Compiler::Child(Arc::new(ChildCompiler::new("/no/such/compiler".into(), CompileLimits::default())));
    rig.library = RuleCache::new(Engine::new().unwrap(), rig.store.clone(), no_compiler, None);
    // Often enough for every order in which the parts may end.
    for _ in 0..100 {
        let (store, bus, library) = (rig.store.clone(), rig.bus.clone(), rig.library.clone());
        let config = rig.config(Duration::from_secs(600));
        let started = start(store, bus, library, config, rig.clock.clone(), CancellationToken::new()).await;
        assert!(matches!(started.map(drop), Err(EvaluatorError::Rules(_))));
    }
}
