//! Changes that reach an evaluator late, together or in another order than they were made.

use tocsin_bus::{append, forget_all, fresh_topic};
use tocsin_engine::SavedBinding;
use tocsin_engine::domain::{AlertId, BindingId, Params, Position, RuleName, Version};
use tocsin_health::{About, Health};
use tocsin_store::testing::Unnotified;
use tocsin_store::{BegunPromotion, FinishedPromotion, NewPromotion, PromotedAlert, PromotionId, WaitingFor};
use tokio::task::JoinHandle;

use super::*;
use crate::control::{PromoteRule, Promoted};
use crate::evaluator::EvaluatorStats;

on_each_backend!(
    an_alert_fires_on_a_symbol_whose_first_tick_came_while_no_alert_watched_it,
    the_deletion_of_an_alert_that_has_fired_moves_no_symbol_back,
    a_release_that_is_read_together_with_the_end_of_a_promotion_is_applied,
    an_evaluator_that_was_not_notified_of_a_promotion_goes_on_with_the_checkpoint_that_holds_it,
    a_promotion_that_needs_a_halted_partition_is_refused_and_holds_nothing,
    what_is_held_goes_back_when_a_promotion_that_waits_is_cancelled,
    a_symbol_that_is_awaited_although_ticks_of_it_were_read_is_in_health,
);

/// How often a checkpoint is written in tests that wait for one.
const SOON: Duration = Duration::from_millis(50);

async fn on_kafka(backend: Backend) -> Rig {
    Rig::on(fresh_topic().await, tempfile::tempdir().unwrap(), backend, &[COUNTER]).await
}

fn ticks(symbol: &str, count: usize) -> Vec<Tick> {
    let tick = Tick::new(Symbol::parse(symbol).unwrap(), GOOD, 1.0, NOW_MS, Conditions::default()).unwrap();
    vec![tick; count]
}

/// Version 2.0.0 of [`COUNTER`], which adds 100 to the counts that it takes over.
fn newer_counter() -> String {
    let migrate = r#"(func (export "migrate") (param i32) (param $old i32) (param i32) (param $state i32) (result i32)
         (f64.store (local.get $state) (f64.add (f64.load (local.get $old)) (f64.const 100))) (i32.const 0)) (@custom"#;
    let newer = COUNTER.replace("1.0.0", "2.0.0").replace("(@custom", migrate);
    newer.replace(r#"\"evidence\":"#, r#"\"migrates\":[\"1.0.0\"],\"evidence\":"#)
}

impl Rig {
    async fn delete(&self, id: i64) {
        self.control.delete_alert(&Tenant::standard(), id).await.unwrap();
    }

    /// Makes a store that is not notified look at all that has changed.
    async fn wake(&self, unnotified: &Unnotified) {
        let decoy = self.create("counter", &["DECOY"]).await.unwrap();
        assert!(unnotified.store.delete_alert(&Tenant::standard(), AlertId(decoy), NOW_MS).await.unwrap());
    }

    /// Promotes all alerts of the rule `counter` to version 2.0.0, as a client does.
    fn promote(&self) -> JoinHandle<Result<Promoted, ControlError>> {
        let (control, version) = (self.control.clone(), "2.0.0".to_owned());
        let request = PromoteRule { name: "counter".into(), version, from: None, reset_state: false };
        tokio::spawn(async move { control.promote_rule(&Tenant::standard(), request).await })
    }

    /// Begins a promotion of all alerts of the rule `counter` to version 2.0.0, which is uploaded.
    async fn begin_promotion(&self) -> PromotionId {
        self.control.upload_rule(&Tenant::standard(), wat::parse_str(newer_counter()).unwrap()).await.unwrap();
        let versions =
            self.store.rule_versions(&Tenant::standard(), &RuleName::parse("counter").unwrap()).await.unwrap();
        let to = versions.into_iter().find(|rule| rule.reference.version == Version::new(2, 0, 0)).unwrap().reference;
        let found = self.store.promotable(&Tenant::standard(), &to, None, AlertId(0), 1_000).await.unwrap();
        let params = Params { json: "{}".into(), packed: Vec::new() };
        let alerts = found.into_iter();
        let alerts =
            alerts.map(|found| PromotedAlert { alert: found.alert, from: found.rule.digest, params: params.clone() });
        let new = NewPromotion { tenant: Tenant::standard(), to, alerts: alerts.collect(), out_of_service: None };
        match self.store.begin_promotion(&new).await.unwrap() {
            BegunPromotion::Begun(id) => id,
            refused => panic!("{refused:?}"),
        }
    }

    /// Finishes a promotion whose bindings are handed over.
    async fn finish_promotion(&self, id: PromotionId) {
        let held = self.store.held_bindings(BindingId(0), 1_000).await.unwrap();
        let states = held.into_iter().map(|held| {
            let saved = held.saved.expect("all have evaluated ticks");
            let count = f64::from_le_bytes(saved.state.try_into().unwrap());
            SavedBinding {
                binding: held.id,
                health: saved.health,
                pace: saved.pace,
                state: (count + 100.0).to_le_bytes().to_vec(),
            }
        });
        self.store.stage_promotion(id, &states.collect::<Vec<_>>()).await.unwrap();
        let finished = self.store.finish_promotion(id, CAPS).await.unwrap();
        assert!(matches!(finished, FinishedPromotion::Finished(_)), "{finished:?}");
    }
}

async fn an_alert_fires_on_a_symbol_whose_first_tick_came_while_no_alert_watched_it(backend: Backend) {
    let rig = on_kafka(backend).await;
    let running = rig.start().await;
    let partition = 5;
    let witness = rig.create("counter", &["WITNESS"]).await.unwrap();
    append(&rig.bus, partition, &ticks("WITNESS", 1)).await;
    rig.until_counts(witness, &[1.0]).await;
    let deleted = rig.create("counter", &["X"]).await.unwrap();
    rig.delete(deleted).await;
    append(&rig.bus, partition, &[ticks("X", 1), ticks("WITNESS", 1)].concat()).await;
    // What came of the first tick is written before this.
    rig.until_counts(witness, &[1.0, 2.0]).await;
    let id = rig.create("counter", &["X"]).await.unwrap();
    append(&rig.bus, partition, &ticks("X", 3)).await;
    rig.until_counts(id, &[1.0, 2.0, 3.0]).await;
    running.stop().await;
    assert_eq!(rig.counts(deleted).await, [0.0; 0]);
}

async fn the_deletion_of_an_alert_that_has_fired_moves_no_symbol_back(backend: Backend) {
    let rig = on_kafka(backend).await;
    let running = rig.start().await;
    let once = CreateAlert { lifecycle: Lifecycle { repeat: Repeat::Once }, ..request("counter", &["X"]) };
    let fired = rig.control.create_alert(&Tenant::standard(), once).await.unwrap().0.id.0;
    append(&rig.bus, 2, &ticks("X", 1)).await;
    rig.until_counts(fired, &[1.0]).await;
    // No alert watches it any more, so its next first tick decides anew.
    let id = rig.create("counter", &["X"]).await.unwrap();
    append(&rig.bus, 6, &ticks("X", 1)).await;
    rig.until_counts(id, &[1.0]).await;
    rig.delete(fired).await;
    // An evaluator that fires for this one knows of the deletion.
    let witness = rig.create("counter", &["WITNESS"]).await.unwrap();
    append(&rig.bus, 6, &ticks("WITNESS", 1)).await;
    rig.until_counts(witness, &[1.0]).await;
    append(&rig.bus, 6, &ticks("X", 2)).await;
    rig.until_counts(id, &[1.0, 2.0, 3.0]).await;
    running.stop().await;
}

async fn a_release_that_is_read_together_with_the_end_of_a_promotion_is_applied(backend: Backend) {
    let rig = Rig::new(backend, &[COUNTER]).await;
    let id = rig.create("counter", &["X"]).await.unwrap();
    let unnotified = rig.test_store.open_unnotified().await;
    let running = rig.start_over(unnotified.store.clone(), rig.config(Duration::from_secs(600))).await;
    rig.publish("X", &[GOOD, BAD, BAD, BAD, BAD, BAD]).await;
    rig.until_quarantined(id).await;
    let promotion = rig.begin_promotion().await;
    rig.wake(&unnotified).await;
    wait_until(async || rig.asked().await == 0).await;
    rig.finish_promotion(promotion).await;
    rig.release(id).await;
    rig.wake(&unnotified).await;
    rig.until_applied().await;
    rig.publish("X", &[GOOD, GOOD]).await;
    rig.until_counts(id, &[1.0, 102.0, 103.0]).await;
    running.stop().await;
    // What a checkpoint holds of it is what the next one goes on with.
    let running = rig.start().await;
    rig.publish("X", &[GOOD]).await;
    rig.until_counts(id, &[1.0, 102.0, 103.0, 104.0]).await;
    running.stop().await;
}

async fn an_evaluator_that_was_not_notified_of_a_promotion_goes_on_with_the_checkpoint_that_holds_it(backend: Backend) {
    let rig = Rig::new(backend, &[COUNTER]).await;
    let id = rig.create("counter", &["X"]).await.unwrap();
    let unnotified = rig.test_store.open_unnotified().await;
    let first = rig.start_with(SOON).await;
    rig.publish("X", &[GOOD; 3]).await;
    rig.until_counts(id, &[1.0, 2.0, 3.0]).await;
    let promotion = rig.begin_promotion().await;
    wait_until(async || rig.asked().await == 0).await;
    rig.finish_promotion(promotion).await;
    rig.publish("X", &[GOOD; 2]).await;
    rig.until_counts(id, &[1.0, 2.0, 3.0, 104.0, 105.0]).await;
    first.stop().await;
    let partition = rig.bus.partition_of(&Symbol::parse("X").unwrap());
    let before = rig.store.claim(partition).await.unwrap();

    let second = rig.start_over(unnotified.store.clone(), rig.config(SOON)).await;
    rig.publish("X", &[GOOD; 2]).await;
    rig.wake(&unnotified).await;
    rig.until_counts(id, &[1.0, 2.0, 3.0, 104.0, 105.0, 106.0, 107.0]).await;
    second.stop().await;
    let after = rig.store.claim(partition).await.unwrap();
    assert!(after.revision >= before.revision && after.next_offset >= before.next_offset, "{before:?}, {after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_crosses_a_handover_that_waits_to_be_committed_is_applied_once_the_binding_is_back() {
    let rig = Rig::new(Backend::Postgres, &[COUNTER]).await;
    let [x, y] = [rig.create("counter", &["X"]).await.unwrap(), rig.create("counter", &["Y"]).await.unwrap()];
    let running = rig.start_as(EvaluatorConfig { workers: 1, ..rig.config(Duration::from_secs(600)) }).await;
    rig.publish("X", &[GOOD, BAD, BAD, BAD, BAD, BAD]).await;
    rig.until_quarantined(x).await;
    let database = rig.test_store.database();
    database.slow_down("INSERT", "firings").await;
    rig.publish("Y", &[GOOD]).await;
    database.until_slowed_down().await;
    // The handover waits behind the firing that is being committed.
    let promotion = rig.begin_promotion().await;
    wait_until(async || running.stats().bindings == 0).await;
    rig.store.roll_back_promotion(promotion).await.unwrap();
    rig.release(x).await;
    rig.until_applied().await;
    rig.publish("X", &[GOOD]).await;
    rig.publish("Y", &[GOOD]).await;
    rig.until_counts(x, &[1.0, 2.0]).await;
    rig.until_counts(y, &[1.0, 2.0]).await;
    assert_eq!(running.stats().bindings, 2);
    running.stop().await;
}

/// Alerts on X, whose ticks are on partition 1, and on Y, whose ticks are on partition 2; each has fired once. Version 2.0.0
/// of their rule is there.
async fn two_partitions(backend: Backend) -> (Rig, [i64; 2], Running) {
    let rig = on_kafka(backend).await;
    let running = rig.start_with(SOON).await;
    let ids = [rig.create("counter", &["X"]).await.unwrap(), rig.create("counter", &["Y"]).await.unwrap()];
    append(&rig.bus, 1, &ticks("X", 1)).await;
    append(&rig.bus, 2, &ticks("Y", 1)).await;
    rig.until_counts(ids[0], &[1.0]).await;
    rig.until_counts(ids[1], &[1.0]).await;
    rig.control.upload_rule(&Tenant::standard(), wat::parse_str(newer_counter()).unwrap()).await.unwrap();
    (rig, ids, running)
}

async fn a_promotion_that_needs_a_halted_partition_is_refused_and_holds_nothing(backend: Backend) {
    let (rig, [x, y], running) = two_partitions(backend).await;
    running.stop().await;
    append(&rig.bus, 1, &ticks("X", 1)).await;
    forget_all(&rig.bus, 1).await;
    append(&rig.bus, 1, &ticks("X", 1)).await;
    let running = rig.start_with(SOON).await;
    wait_until(async || running.evaluator.stats().partitions()[&1].halted.is_some()).await;
    let refused = rig.promote().await.unwrap();
    assert!(
        matches!(&refused, Err(ControlError::Precondition(why))
            if why.contains(&format!("alert {x} is on partition 1")) && why.contains("--skip-lost-ticks")),
        "{refused:?}"
    );
    assert!(rig.store.unfinished_promotion().await.unwrap().is_none());
    append(&rig.bus, 2, &ticks("Y", 1)).await;
    rig.until_counts(y, &[1.0, 2.0]).await;
    running.stop().await;
    // Once an operator has acted and the partition is evaluated, the way is free.
    let running = rig.start_as(EvaluatorConfig { skip_lost_ticks: true, ..rig.config(SOON) }).await;
    wait_until(async || rig.promote().await.unwrap().is_ok()).await;
    append(&rig.bus, 2, &ticks("Y", 1)).await;
    rig.until_counts(y, &[1.0, 2.0, 103.0]).await;
    append(&rig.bus, 1, &ticks("X", 1)).await;
    rig.until_counts(x, &[1.0, 2.0, 103.0]).await;
    running.stop().await;
}

async fn what_is_held_goes_back_when_a_promotion_that_waits_is_cancelled(backend: Backend) {
    let (rig, [x, y], running) = two_partitions(backend).await;
    // Claimed as by another evaluator, which then does nothing: what is asked for there is not handed over.
    rig.store.claim(1).await.unwrap();
    append(&rig.bus, 1, &ticks("X", 1)).await;
    wait_until(async || running.evaluator.stats().partitions()[&1].halted.is_some()).await;
    let promoting = rig.promote();
    let mut waiting_for = Vec::new();
    wait_until(async || match rig.store.unfinished_promotion().await.unwrap() {
        Some(promotion) if promotion.held == 1 => {
            waiting_for = promotion.waiting_for;
            true
        }
        _ => false,
    })
    .await;
    assert_eq!(waiting_for, [WaitingFor { partition: 1, bindings: 1, halted: None }]);
    append(&rig.bus, 2, &ticks("Y", 1)).await;
    for (name, version) in [("counter", "1.0.0"), ("above", "2.0.0")] {
        let other = rig.control.cancel_promotion(&Tenant::standard(), name, version).await;
        assert!(matches!(other, Err(ControlError::NotFound(_))), "{other:?}");
    }
    let cancelled = rig.control.cancel_promotion(&Tenant::standard(), "counter", "2.0.0").await.unwrap();
    assert_eq!(cancelled.given_back, 1);
    rig.until_counts(y, &[1.0, 2.0]).await;
    let promoted = promoting.await.unwrap();
    assert!(matches!(&promoted, Err(ControlError::Raced(why)) if why.contains("cancelled")), "{promoted:?}");
    running.stop().await;
    // Whoever has the other partition next goes on there, and another promotion moves both.
    let running = rig.start_with(SOON).await;
    rig.until_counts(x, &[1.0, 2.0]).await;
    rig.promote().await.unwrap().unwrap();
    append(&rig.bus, 1, &ticks("X", 1)).await;
    append(&rig.bus, 2, &ticks("Y", 1)).await;
    rig.until_counts(x, &[1.0, 2.0, 103.0]).await;
    rig.until_counts(y, &[1.0, 2.0, 103.0]).await;
    running.stop().await;
}

async fn a_symbol_that_is_awaited_although_ticks_of_it_were_read_is_in_health(backend: Backend) {
    let rig = on_kafka(backend).await;
    let (stats, health) = (Arc::new(EvaluatorStats::default()), Health::new(About::default(), &[]));
    crate::evaluator::health::register(&health, stats.clone(), rig.store.clone(), rig.clock.clone());
    health.set_running();
    let problems = async || {
        let report = health.report().await;
        assert!(report.ready, "other alerts are evaluated");
        report.problems.join("; ")
    };
    let symbol = Symbol::parse("X").unwrap();
    let read = |published_ms| stats.unassigned_tick(&symbol, Position { partition: 3, offset: 7 }, published_ms);
    read(NOW_MS - 6_000);
    assert_eq!(problems().await, "", "no alert watches it");
    let id = rig.create("counter", &["X"]).await.unwrap();
    let problem = problems().await;
    assert!(problem.contains("not evaluated: X; the first was X's at offset 7 of partition 3"), "{problem}");
    stats.assigned(&symbol, None);
    assert_eq!(problems().await, "");
    read(NOW_MS - 1_000);
    assert_eq!(problems().await, "", "that is being done");
    stats.assigned(&symbol, Some(3));
    read(NOW_MS - 6_000);
    rig.delete(id).await;
    assert_eq!(problems().await, "", "no alert watches it any more");
}
