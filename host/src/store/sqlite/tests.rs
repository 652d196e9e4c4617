//! What triggers and bounds keep true, whatever happens.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tocsin_engine::domain::{
    AlertId, BindingId, BindingStatus, Conditions, Digest, FaultId, Firing, FiringId, Lifecycle, Params, Position,
    RuleRef, RuleVersion, Symbol, Tenant, Tick, UserId, Version,
};
use tocsin_engine::{Fault, FaultBundle};

use super::SqliteStore;
use crate::store::faults::{MAX_FAULTS, MAX_FAULTS_PER_BINDING};
use crate::store::{BindingCaps, Capped, Checkpoint, Claim, Commit, NewAlert, NewFault, StoredAlert};

const CAPS: BindingCaps = BindingCaps { per_tenant: 80, per_rule: 30 };

fn rule(name: &str) -> RuleRef {
    let name = tocsin_engine::domain::RuleName::parse(name).unwrap();
    RuleRef { digest: Digest::of(name.as_str().as_bytes()), name, version: Version::new(1, 0, 0) }
}

async fn store_rule(store: &SqliteStore, rule: &RuleRef) {
    let version = RuleVersion { reference: rule.clone(), manifest: "{}".into(), created_at_ms: 0, quarantine: None };
    store.put_rule(&Tenant::standard(), &version, b"").await.unwrap();
}

fn new_alert(rule: &RuleRef, symbols: usize) -> NewAlert {
    let position = Position { partition: 0, offset: 0 };
    NewAlert {
        tenant: Tenant::standard(),
        user: UserId(1),
        rule: rule.clone(),
        params: Params { json: "{}".into(), packed: Vec::new() },
        lifecycle: Lifecycle::default(),
        symbols: (0..symbols).map(|i| (Symbol::parse(&format!("S{i}")).unwrap(), position)).collect(),
        created_at_ms: 0,
        idempotency: None,
    }
}

fn tick() -> Tick {
    Tick::new(Symbol::parse("S0").unwrap(), 1.5, 2.5, 3, Conditions(u64::MAX)).unwrap()
}

fn fault(rule: &RuleRef, alert: AlertId, binding: BindingId, offset: u64, quarantined: bool) -> NewFault {
    let bundle = FaultBundle {
        rule: rule.clone(),
        tick: tick(),
        position: Position { partition: 0, offset },
        params: vec![1, 2],
        state: vec![3],
        fuel: 100_000,
        fault: Fault::BadCode(-3),
    };
    NewFault { alert, binding, quarantined, bundle: Box::new(bundle) }
}

async fn open() -> (tempfile::TempDir, SqliteStore, Claim) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path()).await.unwrap();
    let claim = store.claim(0).await.unwrap();
    (folder, store, claim)
}

/// The counters must say what a count of all bindings says.
async fn check_counters(store: &SqliteStore, step: usize) {
    let counted: Vec<(String, Vec<u8>, i64)> = sqlx::query_as(
        "SELECT a.tenant, a.rule_digest, count(*) FROM bindings b JOIN alerts a ON a.id = b.alert_id
         WHERE b.status IN ('active', 'quarantined') GROUP BY a.tenant, a.rule_digest ORDER BY a.tenant, a.rule_digest",
    )
    .fetch_all(&store.0.readers)
    .await
    .unwrap();
    let kept: Vec<(String, Vec<u8>, i64)> =
        sqlx::query_as("SELECT * FROM live_by_rule WHERE live > 0 ORDER BY tenant, rule_digest")
            .fetch_all(&store.0.readers)
            .await
            .unwrap();
    assert_eq!(kept, counted, "step {step}");
    let total: Option<i64> =
        sqlx::query_scalar("SELECT live FROM live_by_tenant").fetch_optional(&store.0.readers).await.unwrap();
    assert_eq!(total.unwrap_or(0), counted.iter().map(|(_, _, live)| live).sum::<i64>(), "step {step}");
    assert!(counted.iter().all(|(_, _, live)| *live <= CAPS.per_rule as i64) && total <= Some(CAPS.per_tenant as i64));
}

#[tokio::test]
async fn counters_of_live_bindings_survive_every_history() {
    let (_folder, store, claim) = open().await;
    let rules = [rule("a"), rule("b"), rule("c")];
    for rule in &rules {
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
                        assert!(reached.live + symbols as u64 > reached.cap, "step {step}");
                    }
                    StoredAlert::RuleQuarantined(_) => assert!(step >= 500 && *rule == rules[2], "step {step}"),
                    other => panic!("step {step}: {other:?}"),
                }
            }
            (5, Some(alert)) => assert!(store.delete_alert(&tenant, alert.id, 0).await.unwrap()),
            (6, Some(alert)) => {
                _ = store.release(&tenant, alert.id, None).await.unwrap();
            }
            (what, Some(alert)) => {
                let binding = &alert.bindings[random.random_range(0..alert.bindings.len())];
                let mut commit = Commit::default();
                let position = Position { partition: 0, offset: step as u64 };
                match what {
                    7 => commit.faults.push(fault(&alert.rule, alert.id, binding.id, step as u64, true)),
                    8 => commit.recovered.push(binding.id),
                    _ => commit.firings.push((
                        Firing {
                            id: FiringId::derive(binding.id, position),
                            tenant: tenant.clone(),
                            alert: alert.id,
                            binding: binding.id,
                            tick: tick(),
                            position,
                            rule: alert.rule.clone(),
                            evidence: Vec::new(),
                        },
                        true,
                    )),
                }
                if step >= 500 {
                    commit.impure_rules.push((rules[2].clone(), "differs".into()));
                }
                store.commit(std::slice::from_ref(&claim), &commit).await.unwrap();
            }
        }
        check_counters(&store, step).await;
    }
    assert!(capped.iter().all(|times| *times > 0), "both caps are met: {capped:?}");
}

#[tokio::test]
async fn the_newest_faults_of_a_binding_are_kept_and_replays_displace_none() {
    let (_folder, store, claim) = open().await;
    let rule = rule("a");
    store_rule(&store, &rule).await;
    let StoredAlert::Created(alert) = store.create_alert(&new_alert(&rule, 1), CAPS).await.unwrap() else { panic!() };
    let binding = alert.bindings[0].id;
    let commit = async |offsets: std::ops::Range<u64>| {
        let faults = offsets.map(|offset| fault(&rule, alert.id, binding, offset, offset == 19)).collect();
        let commit = Commit { faults, ..Commit::default() };
        store.commit(std::slice::from_ref(&claim), &commit).await.unwrap();
    };
    let kept = async || -> Vec<u64> {
        let faults = store.faults(&Tenant::standard(), alert.id, 0, 1_000).await.unwrap();
        faults.iter().map(|(_, fault)| fault.position.offset).collect()
    };
    commit(0..20).await;
    let newest: Vec<u64> = (20 - u64::from(MAX_FAULTS_PER_BINDING)..20).collect();
    assert_eq!(kept().await, newest);
    commit(0..20).await;
    assert_eq!(kept().await, newest, "a replay");

    let id = FaultId::derive(binding, Position { partition: 0, offset: 19 });
    let stored = store.fault_bundle(&Tenant::standard(), id).await.unwrap().unwrap();
    assert_eq!(stored.bundle, *fault(&rule, alert.id, binding, 19, true).bundle);
    let status = store.alert(&Tenant::standard(), alert.id).await.unwrap().unwrap().bindings[0].status.clone();
    let BindingStatus::Quarantined(reason) = status else { panic!("{status:?}") };
    assert!(reason.contains("code -3"), "{reason}");
    let gone = FaultId::derive(binding, Position { partition: 0, offset: 0 });
    assert_eq!(store.fault_bundle(&Tenant::standard(), gone).await.unwrap(), None);
}

#[tokio::test]
async fn all_faults_together_are_bounded() {
    let (_folder, store, claim) = open().await;
    let rule = rule("a");
    store_rule(&store, &rule).await;
    let caps = BindingCaps { per_tenant: 1_000, per_rule: 1_000 };
    let StoredAlert::Created(alert) = store.create_alert(&new_alert(&rule, 300), caps).await.unwrap() else { panic!() };
    for offset in 0..u64::from(MAX_FAULTS_PER_BINDING) {
        let faults = alert.bindings.iter().map(|binding| fault(&rule, alert.id, binding.id, offset, false)).collect();
        store.commit(std::slice::from_ref(&claim), &Commit { faults, ..Commit::default() }).await.unwrap();
    }
    let faults = store.faults(&Tenant::standard(), alert.id, 0, 10_000).await.unwrap();
    assert_eq!(faults.len(), MAX_FAULTS as usize);
    assert_eq!(faults.last().unwrap().1.position.offset, u64::from(MAX_FAULTS_PER_BINDING) - 1);
}

#[tokio::test]
async fn a_checkpoint_remembers_what_is_released_behind_it() {
    let (_folder, store, claim) = open().await;
    let checkpoint = |released: &[i64], next_offset| Commit {
        checkpoints: vec![Checkpoint {
            partition: 0,
            next_offset,
            revision: 5,
            released: released.iter().copied().map(BindingId).collect(),
            handed_over: Vec::new(),
            groups: Vec::new(),
        }],
        ..Commit::default()
    };
    store.commit(std::slice::from_ref(&claim), &checkpoint(&[7, 8], 3)).await.unwrap();
    let claim = store.claim(0).await.unwrap();
    assert_eq!((claim.next_offset, claim.released.clone()), (Some(3), vec![BindingId(7), BindingId(8)]));
    store.commit(std::slice::from_ref(&claim), &checkpoint(&[], 4)).await.unwrap();
    assert!(store.claim(0).await.unwrap().released.is_empty());
}
