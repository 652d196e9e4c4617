//! Promotion while ticks flow, against an oracle that judges tick by tick: no tick is missed or judged twice, a state
//! comes over once, and a promotion that fails at whatever point leaves no trace.

mod cancelled;

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tocsin_engine::domain::{AlertId, BindingId, Firing, Version};
use tocsin_store::{BegunPromotion, FinishedPromotion, Moved, NewPromotion, PromotedAlert, PromotionId};

use super::*;
use crate::control::{PromoteRule, Promoted};

on_each_backend!(
    histories_with_promotions_come_out_as_if_judged_tick_by_tick,
    what_was_told_before_a_crash_is_judged_again_before_anything_moves,
    a_promotion_that_a_process_carries_out_is_not_taken_for_abandoned,
    a_process_that_dies_in_a_promotion_leaves_everything_as_it_was_or_done,
    quarantine_and_release_go_along_with_a_promotion,
    what_a_promotion_cannot_do_is_told_and_changes_nothing,
);

/// What a version does with the states and params of the ones before.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Adds 1000 times its number, and the factor.
    Good,
    /// Refuses a binding whose factor is 7.
    Refusing,
    /// Traps on one whose factor is 8.
    Faulting,
    /// Has no factor above 8.
    Narrow,
    /// Names no version that it migrates from.
    Pathless,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Good, Self::Refusing, Self::Faulting, Self::Narrow, Self::Pathless];

    /// Whether an alert with this factor can move to such a version.
    fn takes(self, factor: u64) -> bool {
        match self {
            Self::Good => true,
            Self::Refusing => factor != 7,
            Self::Faulting => factor != 8,
            Self::Narrow => factor <= 8,
            Self::Pathless => false,
        }
    }
}

/// Version `number`.0.0 of a rule that fires on every tick with its count, to which it adds the factor times its number.
fn version(number: u64, kind: Kind) -> String {
    let mut manifest = json!({
        "abi": 1, "name": "steps", "version": format!("{number}.0.0"), "state": {"size": 8}, "evidence": ["count"],
        "params": {"size": 8, "layout": [{"name": "factor", "type": "f64", "offset": 0}],
                   "schema": {"type": "object", "properties": {"factor": {"type": "number", "default": 1}}}},
    });
    if kind == Kind::Narrow {
        manifest["params"]["schema"]["properties"]["factor"]["maximum"] = json!(8);
    }
    let mut migrate = String::new();
    if number > 1 && kind != Kind::Pathless {
        manifest["migrates"] = (1..number).map(|older| format!("{older}.0.0")).collect();
        let trouble = match kind {
            Kind::Refusing => {
                "(if (f64.eq (f64.load (local.get $params)) (f64.const 7)) (then (return (i32.const 3))))"
            }
            Kind::Faulting => "(if (f64.eq (f64.load (local.get $params)) (f64.const 8)) (then unreachable))",
            _ => "",
        };
        migrate = format!(
            r#"(func (export "migrate") (param i32) (param $old i32) (param $params i32) (param $state i32) (result i32)
                 {trouble}
                 (f64.store (local.get $state) (f64.add (f64.load (local.get $old))
                   (f64.add (f64.load (local.get $params)) (f64.const {}))))
                 (i32.const 0))"#,
            1000 * number
        );
    }
    let manifest: String = manifest.to_string().bytes().map(|byte| format!("\\{byte:02x}")).collect();
    format!(
        r#"(module (memory (export "memory") 1)
             (func (export "evaluate") (param i32) (param $params i32) (param $state i32) (param $verdict i32) (result i32)
               (f64.store (local.get $state) (f64.add (f64.load (local.get $state))
                 (f64.mul (f64.load (local.get $params)) (f64.const {number}))))
               (f64.store (local.get $verdict) (f64.load (local.get $state)))
               (i32.const 1))
             {migrate} (@custom "tocsin.manifest" "{manifest}"))"#
    )
}

/// An alert as the oracle sees it.
struct Expected {
    symbol: &'static str,
    factor: u64,
    once: bool,
    deleted: bool,
    /// The versions that it was on, one after the other.
    versions: Vec<u64>,
    /// The prices that it must see.
    prices: Vec<f64>,
}

const SYMBOLS: [&str; 5] = ["A", "B", "C", "D", "E"];

/// A rig, and what must come of what is done with it.
struct History {
    rig: Rig,
    running: Option<Running>,
    expected: BTreeMap<i64, Expected>,
    newest: u64,
    price: f64,
}

impl History {
    async fn new(backend: Backend) -> Self {
        let rig = Rig::new(backend, &[&version(1, Kind::Good)]).await;
        let running = Some(rig.start().await);
        Self { rig, running, expected: BTreeMap::new(), newest: 1, price: 0.0 }
    }

    async fn create(&mut self, symbol: &'static str, factor: u64, on: u64, once: bool) -> i64 {
        let request = CreateAlert {
            version: Some(format!("{on}.0.0")),
            params: Some(json!({ "factor": factor })),
            lifecycle: Lifecycle { repeat: if once { Repeat::Once } else { Repeat::Every } },
            ..request("steps", &[symbol])
        };
        let id = self.rig.control.create_alert(&Tenant::standard(), request).await.unwrap().0.id.0;
        let expected = Expected { symbol, factor, once, deleted: false, versions: vec![on], prices: Vec::new() };
        self.expected.insert(id, expected);
        id
    }

    async fn publish(&mut self, symbol: &'static str, ticks: usize) {
        let prices: Vec<f64> = (1..=ticks).map(|i| self.price + i as f64).collect();
        self.price += ticks as f64;
        self.rig.publish(symbol, &prices).await;
        for alert in self.expected.values_mut().filter(|alert| alert.symbol == symbol && !alert.deleted) {
            alert.prices.extend(&prices);
            if alert.once {
                alert.prices.truncate(1);
            }
        }
    }

    async fn delete(&mut self, id: i64) {
        self.until_evaluated().await;
        self.rig.control.delete_alert(&Tenant::standard(), id).await.unwrap();
        self.expected.get_mut(&id).unwrap().deleted = true;
    }

    async fn upload(&mut self, kind: Kind) -> u64 {
        self.newest += 1;
        let module = wat::parse_str(version(self.newest, kind)).unwrap();
        self.rig.control.upload_rule(&Tenant::standard(), module).await.unwrap();
        self.newest
    }

    /// Alerts that move: not those that have come to an end.
    fn live(&mut self) -> impl Iterator<Item = &mut Expected> {
        self.expected.values_mut().filter(|alert| !alert.deleted && (!alert.once || alert.prices.is_empty()))
    }

    fn moved_to(&mut self, version: u64) {
        self.live().for_each(|alert| alert.versions.push(version));
    }

    async fn crash(&mut self) {
        if let Some(running) = self.running.take() {
            self.rig.crash(running).await;
        }
    }

    async fn start(&mut self) {
        self.running = Some(self.rig.start().await);
    }

    /// Of an alert, which may be deleted.
    async fn firings(&self, id: i64) -> Vec<Firing> {
        let mut firings = Vec::new();
        let mut after = None;
        loop {
            let page = self.rig.control.firings(&Tenant::standard(), None, after.as_deref(), Some(500)).await.unwrap();
            firings.extend(page.items.into_iter().filter(|firing| firing.alert.0 == id));
            after = page.next;
            if after.is_none() {
                firings.sort_by_key(|firing| firing.position.offset);
                return firings;
            }
        }
    }

    async fn until_evaluated(&self) {
        for (id, alert) in &self.expected {
            wait_until(async || self.firings(*id).await.len() >= alert.prices.len()).await;
        }
    }

    /// Every alert fired on each of its ticks once, on the versions that it was on, with the states that they make.
    async fn check(&self, told: &str) {
        self.until_evaluated().await;
        for (id, alert) in &self.expected {
            let firings = self.firings(*id).await;
            let prices: Vec<f64> = firings.iter().map(|firing| firing.tick.price).collect();
            assert_eq!(prices, alert.prices, "{told}: alert {id}");
            let (mut at, mut count) = (0, 0);
            for firing in &firings {
                while Version::new(alert.versions[at], 0, 0) != firing.rule.version {
                    at += 1;
                    assert!(at < alert.versions.len(), "{told}: alert {id} fired on {}", firing.rule.version);
                    count += 1000 * alert.versions[at] + alert.factor;
                }
                count += alert.factor * alert.versions[at];
                assert_eq!(firing.evidence[0].1, count as f64, "{told}: alert {id} on {:?}", firing.tick);
            }
            if !alert.deleted {
                let stored = self.rig.alert(*id).await;
                assert_eq!(stored.rule.version, Version::new(alert.versions[alert.versions.len() - 1], 0, 0), "{told}");
            }
        }
    }

    /// Begins a promotion as a process does that dies then.
    async fn begin(&self, to: u64) -> PromotionId {
        let rule = |number: u64| {
            let (control, version) = (&self.rig.control, format!("{number}.0.0"));
            async move { control.rule(&Tenant::standard(), "steps", Some(&version)).await.unwrap().reference }
        };
        let to = rule(to).await;
        let found = self.rig.store.promotable(&Tenant::standard(), &to, None, AlertId(0), 1_000).await.unwrap();
        let mut alerts = Vec::new();
        for found in found {
            let params = self.rig.alert(found.alert.0).await.params;
            alerts.push(PromotedAlert { alert: found.alert, from: found.rule.digest, params });
        }
        let new = NewPromotion { tenant: Tenant::standard(), to, alerts, out_of_service: None };
        match self.rig.store.begin_promotion(&new).await.unwrap() {
            BegunPromotion::Begun(id) => id,
            refused => panic!("{refused:?}"),
        }
    }

    async fn until_handed_over(&self) {
        wait_until(async || self.rig.asked().await == 0).await;
    }

    /// Stages what [`version`] would make of the states.
    async fn stage(&self, id: PromotionId, to: u64) {
        let held = self.rig.store.held_bindings(BindingId(0), 1_000).await.unwrap();
        let states = held.into_iter().map(|held| {
            let saved = held.saved.expect("all have judged ticks");
            let count = f64::from_le_bytes(saved.state.try_into().unwrap());
            let factor = f64::from_le_bytes(held.packed_params.try_into().unwrap());
            let state = (count + 1000.0 * to as f64 + factor).to_le_bytes().to_vec();
            tocsin_engine::SavedBinding { binding: held.id, health: saved.health, pace: saved.pace, state }
        });
        self.rig.store.stage_promotion(id, &states.collect::<Vec<_>>()).await.unwrap();
    }

    /// As a process does that finds the promotion of one that died.
    async fn roll_back_abandoned(&self) {
        self.rig.control.roll_back_abandoned_promotion().await.unwrap();
        assert!(self.rig.store.unfinished_promotion().await.unwrap().is_none());
    }
}

fn promote_to(version: u64) -> PromoteRule {
    PromoteRule { name: "steps".into(), version: format!("{version}.0.0"), from: None, reset_state: false }
}

async fn promote(control: Control, request: PromoteRule) -> Result<Promoted, ControlError> {
    control.promote_rule(&Tenant::standard(), request).await
}

/// One history: ticks, alerts that come and go, promotions of all kinds, crashes in the middle of them.
async fn play(backend: Backend, seed: u64) -> (usize, usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut history = History::new(backend).await;
    let (mut moved, mut refused) = (0, 0);
    for step in 0..24 {
        let told = format!("seed {seed}, step {step}");
        let symbol = SYMBOLS[random.random_range(0..SYMBOLS.len())];
        match random.random_range(0..10) {
            0..2 => {
                let factor = random.random_range(1..10);
                let on = random.random_range(1..=history.newest);
                // A version with a narrow schema does not take every factor.
                let factor = if factor > 8 && on > 1 { 1 } else { factor };
                history.create(symbol, factor, on, random.random_range(0..4) == 0).await;
            }
            2..6 => history.publish(symbol, random.random_range(1..40)).await,
            6 if !history.expected.is_empty() => {
                let ids: Vec<i64> = history.expected.iter().filter(|(_, a)| !a.deleted).map(|(id, _)| *id).collect();
                if !ids.is_empty() && random.random_range(0..2) == 0 {
                    history.delete(ids[random.random_range(0..ids.len())]).await;
                }
            }
            7 => {
                history.crash().await;
                history.publish(symbol, random.random_range(1..20)).await;
                history.start().await;
            }
            _ => {
                let kind = Kind::ALL[random.random_range(0..Kind::ALL.len())];
                let version = history.upload(kind).await;
                // What an alert that fires once has seen decides whether it moves.
                history.until_evaluated().await;
                let may = history.live().all(|alert| kind.takes(alert.factor));
                let work = tokio::spawn(promote(history.rig.control.clone(), promote_to(version)));
                let steady: Vec<&str> = SYMBOLS
                    .into_iter()
                    .filter(|symbol| {
                        !history.expected.values().any(|a| a.once && a.prices.is_empty() && a.symbol == *symbol)
                    })
                    .collect();
                for _ in 0..random.random_range(0..4) {
                    if !steady.is_empty() {
                        let symbol = steady[random.random_range(0..steady.len())];
                        history.publish(symbol, random.random_range(1..30)).await;
                    }
                    if random.random_range(0..4) == 0 {
                        history.crash().await;
                        history.start().await;
                    }
                }
                let outcome = work.await.unwrap();
                assert_eq!(outcome.is_ok(), may, "{told}: {kind:?} {outcome:?}");
                match outcome {
                    Ok(promoted) => {
                        let live = history.live().filter(|alert| *alert.versions.last().unwrap() != version).count();
                        assert_eq!(promoted.moved, Moved { alerts: live as u64, bindings: live as u64 }, "{told}");
                        history.moved_to(version);
                        moved += live;
                    }
                    Err(_) => refused += 1,
                }
            }
        }
        if step % 6 == 5 {
            history.check(&told).await;
        }
    }
    history.check(&format!("seed {seed}")).await;
    history.running.take().unwrap().stop().await;
    (moved, refused)
}

async fn histories_with_promotions_come_out_as_if_judged_tick_by_tick(backend: Backend) {
    let (mut moved, mut refused) = (0, 0);
    for seed in 0..12 {
        let (m, r) = play(backend, seed).await;
        moved += m;
        refused += r;
    }
    assert!(moved > 30 && refused > 10, "{moved} alerts moved, {refused} promotions were refused");
}

async fn what_was_told_before_a_crash_is_judged_again_before_anything_moves(backend: Backend) {
    let mut history = History::new(backend).await;
    let id = history.create("A", 7, 1, false).await;
    history.publish("A", 9).await;
    history.check("before").await;
    let version = history.upload(Kind::Good).await;
    // Nothing is checkpointed: the next process has all of it before it, and is asked to hand over at once.
    history.crash().await;
    let work = tokio::spawn(promote(history.rig.control.clone(), promote_to(version)));
    wait_until(async || history.rig.asked().await == 1).await;
    history.start().await;
    assert_eq!(work.await.unwrap().unwrap().moved, Moved { alerts: 1, bindings: 1 });
    history.moved_to(version);
    history.publish("A", 4).await;
    history.check("after").await;
    assert_eq!(history.firings(id).await.len(), 13);
    history.running.take().unwrap().stop().await;
}

async fn a_promotion_that_a_process_carries_out_is_not_taken_for_abandoned(backend: Backend) {
    let mut history = History::new(backend).await;
    history.create("A", 7, 1, false).await;
    history.publish("A", 9).await;
    let version = history.upload(Kind::Good).await;
    // Without evaluators it waits for what they hand over.
    history.crash().await;
    let work = tokio::spawn(promote(history.rig.control.clone(), promote_to(version)));
    wait_until(async || history.rig.asked().await == 1).await;
    // Another process starts, and is asked for the same.
    history.rig.control.roll_back_abandoned_promotion().await.unwrap();
    let second = promote(history.rig.control.clone(), promote_to(version)).await;
    assert!(matches!(second, Err(ControlError::Raced(_))), "{second:?}");
    let id = history.rig.store.unfinished_promotion().await.unwrap().expect("it is under way").id;
    history.start().await;
    assert_eq!(work.await.unwrap().unwrap().moved, Moved { alerts: 1, bindings: 1 });
    history.moved_to(version);
    history.publish("A", 4).await;
    history.check("after").await;
    // Who was too slow is told.
    let late = history.rig.store.finish_promotion(id, CAPS).await.unwrap();
    assert!(matches!(late, FinishedPromotion::RolledBack), "{late:?}");
    history.running.take().unwrap().stop().await;
}

/// How far a promotion has come when the process dies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// Marked, and no evaluator has heard of it.
    Begun,
    /// The evaluators have handed over.
    Handoff,
    /// The new states are kept.
    Staged,
    /// Done, and no evaluator has heard of it.
    Finished,
}

/// Dies at a stage and starts again; `early` if evaluators start before the rollback.
async fn die_at(backend: Backend, stage: Stage, early: bool) {
    let told = format!("{stage:?}, early {early}");
    let mut history = History::new(backend).await;
    for (i, symbol) in SYMBOLS.into_iter().enumerate() {
        history.create(symbol, i as u64 + 1, 1, false).await;
        history.publish(symbol, 10 + i).await;
    }
    history.check(&told).await;
    let version = history.upload(Kind::Good).await;
    if stage == Stage::Begun {
        history.crash().await;
    }
    let id = history.begin(version).await;
    if stage != Stage::Begun {
        history.until_handed_over().await;
        history.publish("A", 5).await;
        if stage != Stage::Handoff {
            history.stage(id, version).await;
        }
        history.crash().await;
    }
    if stage == Stage::Finished {
        let finished = history.rig.store.finish_promotion(id, CAPS).await.unwrap();
        assert!(
            matches!(finished, FinishedPromotion::Finished(Moved { alerts: 5, bindings: 5 })),
            "{told}: {finished:?}"
        );
        history.moved_to(version);
    }
    for symbol in SYMBOLS {
        history.publish(symbol, 7).await;
    }
    if early {
        history.start().await;
        history.publish("B", 3).await;
        history.roll_back_abandoned().await;
    } else {
        history.roll_back_abandoned().await;
        history.start().await;
    }
    for symbol in SYMBOLS {
        history.publish(symbol, 7).await;
    }
    history.check(&told).await;
    // Another crash replays from a checkpoint of before or behind: it comes to the same.
    history.crash().await;
    history.start().await;
    history.publish("C", 4).await;
    history.check(&told).await;
    // And the way is free.
    let version = history.upload(Kind::Good).await;
    promote(history.rig.control.clone(), promote_to(version)).await.unwrap();
    history.moved_to(version);
    history.publish("D", 4).await;
    history.check(&told).await;
    history.running.take().unwrap().stop().await;
}

async fn a_process_that_dies_in_a_promotion_leaves_everything_as_it_was_or_done(backend: Backend) {
    for stage in [Stage::Begun, Stage::Handoff, Stage::Staged, Stage::Finished] {
        for early in [false, true] {
            die_at(backend, stage, early).await;
        }
    }
}

async fn quarantine_and_release_go_along_with_a_promotion(backend: Backend) {
    let rig = Rig::new(backend, &[COUNTER]).await;
    let id = rig.create("counter", &["X"]).await.unwrap();
    let running = rig.start().await;
    rig.publish("X", &[GOOD, GOOD, BAD, BAD, BAD, BAD, BAD]).await;
    rig.until_quarantined(id).await;
    let newer = COUNTER.replace("1.0.0", "2.0.0").replace(
        "(@custom",
        r#"(func (export "migrate") (param i32) (param $old i32) (param i32) (param $state i32) (result i32)
             (f64.store (local.get $state) (f64.add (f64.load (local.get $old)) (f64.const 100))) (i32.const 0)) (@custom"#,
    );
    let newer = newer.replace(r#"\"evidence\":"#, r#"\"migrates\":[\"1.0.0\"],\"evidence\":"#);
    rig.control.upload_rule(&Tenant::standard(), wat::parse_str(newer).unwrap()).await.unwrap();
    let request = PromoteRule { name: "counter".into(), version: "2.0.0".into(), from: None, reset_state: false };
    let promoted = promote(rig.control.clone(), request).await.unwrap();
    assert_eq!(promoted.moved, Moved { alerts: 1, bindings: 1 });
    rig.until_quarantined(id).await;
    // A checkpoint remembers that it waits on the new version.
    rig.publish("X", &[GOOD]).await;
    wait_until(async || running.stats().bindings == 1 && running.stats().ticks == 8).await;
    running.stop().await;
    let running = rig.start().await;
    assert_eq!(rig.counts(id).await, [1.0, 2.0]);
    rig.release(id).await;
    rig.until_applied().await;
    rig.publish("X", &[GOOD]).await;
    rig.until_counts(id, &[1.0, 2.0, 103.0]).await;
    running.stop().await;
}

async fn what_a_promotion_cannot_do_is_told_and_changes_nothing(backend: Backend) {
    let mut history = History::new(backend).await;
    let ids = [history.create("A", 7, 1, false).await, history.create("B", 9, 1, false).await];
    history.publish("A", 3).await;
    history.check("before").await;
    let control = history.rig.control.clone();
    let refusal = async |request: PromoteRule| match promote(control.clone(), request).await {
        Err(error) => error,
        Ok(promoted) => panic!("{promoted:?}"),
    };

    let refusing = history.upload(Kind::Refusing).await;
    let error = refusal(promote_to(refusing)).await;
    let expect = format!("alert {} on A: `migrate` refused the state with code 3; nothing is moved", ids[0]);
    assert!(matches!(&error, ControlError::Precondition(why) if why.starts_with(&expect)), "{error:?}");

    let narrow = history.upload(Kind::Narrow).await;
    let error = refusal(promote_to(narrow)).await;
    let field = format!("alerts.{}.params.factor", ids[1]);
    assert!(matches!(&error, ControlError::Invalid(v) if v.len() == 1 && v[0].field == field), "{error:?}");

    let pathless = history.upload(Kind::Pathless).await;
    let error = refusal(promote_to(pathless)).await;
    assert!(matches!(&error, ControlError::Precondition(told) if told.contains("reset_state")), "{error:?}");
    for (version, from) in [("9.0.0", None), ("1.0.0", Some("9.0.0"))] {
        let request = PromoteRule { version: version.into(), from: from.map(str::to_owned), ..promote_to(1) };
        assert!(matches!(refusal(request).await, ControlError::NotFound(_)), "{version} {from:?}");
    }
    for (version, from) in [("one", None), ("1.0.0", Some("one")), ("1.0.0", Some("1.0.0"))] {
        let request = PromoteRule { version: version.into(), from: from.map(str::to_owned), ..promote_to(1) };
        assert!(matches!(refusal(request).await, ControlError::Invalid(_)), "{version} {from:?}");
    }

    // While one is under way, nothing of it can be changed but by deleting it.
    history.crash().await;
    history.begin(pathless).await;
    let request = PromoteRule { reset_state: true, ..promote_to(pathless) };
    assert!(matches!(refusal(request).await, ControlError::Raced(_)));
    let released = history.rig.control.release_alert(&Tenant::standard(), ids[0], None).await;
    assert!(matches!(released, Err(ControlError::Busy(_))), "{released:?}");
    history.start().await;
    history.roll_back_abandoned().await;
    history.publish("A", 3).await;
    history.publish("B", 3).await;
    history.check("after").await;

    let request = PromoteRule { reset_state: true, ..promote_to(pathless) };
    promote(control.clone(), request).await.unwrap();
    history.publish("A", 1).await;
    history.until_evaluated().await;
    let firings = history.firings(ids[0]).await;
    assert_eq!(firings.last().unwrap().evidence[0].1, (7 * pathless) as f64, "it began at zero");
    // From a version that is named, and no alert is on.
    let request = PromoteRule { from: Some("1.0.0".into()), ..promote_to(refusing) };
    assert_eq!(promote(control.clone(), request).await.unwrap().moved, Moved::default());
    // A state that is refused begins at zero if that is asked for; the others are migrated.
    let refusing = history.upload(Kind::Refusing).await;
    assert!(matches!(refusal(promote_to(refusing)).await, ControlError::Precondition(_)));
    let request = PromoteRule { reset_state: true, ..promote_to(refusing) };
    assert_eq!(promote(control.clone(), request).await.unwrap().moved, Moved { alerts: 2, bindings: 2 });
    history.publish("A", 1).await;
    history.publish("B", 1).await;
    history.until_evaluated().await;
    let last = async |id| history.firings(id).await.last().unwrap().evidence[0].1;
    assert_eq!(last(ids[0]).await, (7 * refusing) as f64, "it began at zero");
    assert!(last(ids[1]).await > (1_000 * refusing) as f64, "it was migrated");
    history.running.take().unwrap().stop().await;
}
