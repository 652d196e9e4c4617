//! Alerts: their life, keys, pages, and the counters that caps are held against.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::testing::on_each_backend;
use crate::{AlertFilter, Capped, Idempotency, Standing};

on_each_backend!(
    counters_of_live_bindings_survive_every_history,
    a_key_stands_for_one_request,
    pages_are_filtered_and_in_order,
    a_deleted_alert_is_gone_and_its_firings_stay,
);

/// The counters must say what a count of all bindings says.
async fn check_counters(store: &Store, step: usize) {
    let (kept, counted, total) = store.live_counters().await;
    assert_eq!(kept, counted, "step {step}");
    assert_eq!(total, counted.iter().map(|(_, _, live)| live).sum::<i64>(), "step {step}");
    assert!(counted.iter().all(|(_, _, live)| *live <= CAPS.per_rule as i64) && total <= CAPS.per_tenant as i64);
}

async fn counters_of_live_bindings_survive_every_history(backend: Backend) {
    let (_test_store, store, claim) = open(backend).await;
    let rules = [rule("a"), rule("b"), rule("c")];
    for rule in &rules[1..] {
        store_rule(&store, rule).await;
    }
    let tenant = Tenant::standard();
    let mut random = StdRng::seed_from_u64(7);
    let mut created = Vec::new();
    let mut capped = [0, 0];
    for step in 0..600 {
        let rule = &rules[random.random_range(0..3)];
        let any: Option<AlertId> = (!created.is_empty()).then(|| created[random.random_range(0..created.len())]);
        let alert = match any {
            Some(id) => store.alert(&tenant, id).await.unwrap(),
            None => None,
        };
        match (random.random_range(0..10), alert) {
            (0..5, _) | (_, None) => {
                let symbols = random.random_range(1..6);
                match store.create_alert(&new_alert(rule, symbols), CAPS).await.unwrap() {
                    StoredAlert::Created(alert) => created.push(alert.id),
                    StoredAlert::CapReached(reached) => {
                        capped[usize::from(reached.capped == Capped::Tenant)] += 1;
                        assert_eq!(reached.needs, symbols as u64, "step {step}");
                        assert!(reached.live + reached.needs > reached.cap, "step {step}");
                    }
                    StoredAlert::RuleQuarantined(_) => assert!(step >= 500 && *rule == rules[2], "step {step}"),
                    other => panic!("step {step}: {other:?}"),
                }
            }
            (5, Some(alert)) => assert!(store.delete_alert(&tenant, alert.id, 0).await.unwrap()),
            (6, Some(alert)) => {
                _ = store.unquarantine(&tenant, alert.id, None).await.unwrap();
            }
            (what, Some(alert)) => {
                let binding = &alert.bindings[random.random_range(0..alert.bindings.len())];
                let mut commit = Commit::default();
                match what {
                    7 => commit.faults.push(fault(&alert.rule, alert.id, binding.id, step as u64, true)),
                    8 => {
                        let recovered = vec![binding.id];
                        commit.checkpoints.push(Checkpoint { recovered, ..checkpoint(0, step as u64) });
                    }
                    _ => commit.firings.push((firing(&alert, binding.id, step as u64), true)),
                }
                if step >= 500 {
                    commit.impure_rules.push((rules[2].clone(), "differs".into()));
                }
                store.commit(from_ref(&claim), &commit).await.unwrap();
            }
        }
        check_counters(&store, step).await;
    }
    assert!(capped.iter().all(|times| *times > 0), "both caps are met: {capped:?}");
}

async fn a_key_stands_for_one_request(backend: Backend) {
    let (_test_store, store, _) = open(backend).await;
    let request = |fingerprint| NewAlert {
        idempotency: Some(Idempotency { key: "key 1".into(), fingerprint: [fingerprint; 32] }),
        ..new_alert(&rule("a"), 2)
    };
    let StoredAlert::Created(alert) = store.create_alert(&request(1), MANY).await.unwrap() else { panic!() };
    let StoredAlert::Repeated(again) = store.create_alert(&request(1), MANY).await.unwrap() else { panic!() };
    assert_eq!(again, alert);
    assert!(matches!(store.create_alert(&request(2), MANY).await.unwrap(), StoredAlert::KeyReused));
    assert!(store.delete_alert(&Tenant::standard(), alert.id, 1).await.unwrap());
    assert!(matches!(store.create_alert(&request(1), MANY).await.unwrap(), StoredAlert::KeyReused));
}

async fn pages_are_filtered_and_in_order(backend: Backend) {
    let (_test_store, store, claim) = open(backend).await;
    store_rule(&store, &rule("above")).await;
    let mut ids = Vec::new();
    for (user, name, symbols) in [(1, "a", 1), (2, "above", 1), (1, "above", 2), (1, "a", 3)] {
        let new = NewAlert { user: UserId(user), ..new_alert(&rule(name), symbols) };
        let StoredAlert::Created(alert) = store.create_alert(&new, MANY).await.unwrap() else { panic!() };
        ids.push(alert.id);
    }
    let first = store.alert(&Tenant::standard(), ids[0]).await.unwrap().unwrap();
    let firings = vec![(firing(&first, first.bindings[0].id, 7), true)];
    store.commit(from_ref(&claim), &Commit { firings, ..Commit::default() }).await.unwrap();

    let page = async |filter, after, limit| -> Vec<AlertId> {
        let alerts = store.alerts(&Tenant::standard(), filter, after, limit).await.unwrap();
        alerts.iter().map(|alert| alert.id).collect()
    };
    let all = AlertFilter::default();
    assert_eq!(page(all, AlertId(0), 10).await, ids);
    assert_eq!(page(all, ids[0], 2).await, ids[1..3]);
    assert_eq!(page(AlertFilter { user: Some(UserId(2)), ..all }, AlertId(0), 10).await, ids[1..2]);
    assert_eq!(page(AlertFilter { active_only: true, ..all }, AlertId(0), 10).await, ids[1..]);
    assert_eq!(page(AlertFilter { price_alerts_only: true, ..all }, AlertId(0), 10).await, ids[1..2]);
    let last = store.alerts(&Tenant::standard(), all, ids[2], 10).await.unwrap();
    let symbols: Vec<&str> = last[0].bindings.iter().map(|binding| binding.symbol.as_str()).collect();
    assert_eq!(symbols, ["S0", "S1", "S2"]);
}

async fn a_deleted_alert_is_gone_and_its_firings_stay(backend: Backend) {
    let (_test_store, store, claim) = open(backend).await;
    let alert = create(&store, 1).await;
    let told = firing(&alert, alert.bindings[0].id, 3);
    assert_eq!(fire(&store, &claim, [told.clone()]).await, 1);
    let before = *store.newest_revision().await.unwrap().borrow();
    assert!(store.delete_alert(&Tenant::standard(), alert.id, 1).await.unwrap());
    assert!(!store.delete_alert(&Tenant::standard(), alert.id, 1).await.unwrap());
    assert_eq!(store.alert(&Tenant::standard(), alert.id).await.unwrap(), None);
    let changed = store.changes(before, 10).await.unwrap();
    assert_eq!((changed.bindings.len(), changed.bindings[0].standing), (1, Standing::Deleted));
    assert_eq!(fire(&store, &claim, [firing(&alert, alert.bindings[0].id, 4)]).await, 0, "nobody waits for it");
    let firings = store.firings(&Tenant::standard(), Some(alert.id), 0, 10).await.unwrap();
    assert_eq!(firings.into_iter().map(|(_, firing)| firing).collect::<Vec<_>>(), [told]);
}
