//! What tests of stores and of their users put into them.

#![allow(clippy::unwrap_used, missing_docs, reason = "what fails here fails the test that calls it")]

use std::slice::from_ref;

use tocsin_engine::domain::{
    Alert, AlertId, BindingId, Conditions, Digest, Firing, FiringId, Lifecycle, Params, Position, RuleName, RuleRef,
    RuleVersion, Symbol, Tenant, Tick, UserId, Version,
};
use tocsin_engine::{Fault, FaultBundle};

use super::{Backend, TestStore};
use crate::{BindingCaps, Checkpoint, Claim, Commit, NewAlert, NewFault, Start, Store, StoredAlert, StoredRule};

pub const CAPS: BindingCaps = BindingCaps { per_tenant: 80, per_rule: 30, ..MANY };

pub const MANY: BindingCaps =
    BindingCaps { per_tenant: 1_000_000, per_rule: 1_000_000, bytes_per_tenant: 1 << 40, bytes_per_rule: 1 << 40 };

pub fn rule(name: &str) -> RuleRef {
    let name = RuleName::parse(name).unwrap();
    RuleRef { digest: Digest::of(name.as_str().as_bytes()), name, version: Version::new(1, 0, 0) }
}

pub async fn store_rule(store: &Store, rule: &RuleRef) {
    let version = RuleVersion { reference: rule.clone(), manifest: "{}".into(), created_at_ms: 0, quarantine: None };
    let stored = store.put_rule(&Tenant::standard(), &version, b"").await.unwrap();
    assert!(matches!(stored, StoredRule::Created(_)), "{stored:?}");
}

pub fn new_alert(rule: &RuleRef, symbols: usize) -> NewAlert {
    let position = Position { partition: 0, offset: 0 };
    NewAlert {
        tenant: Tenant::standard(),
        user: UserId(1),
        rule: rule.clone(),
        params: Params { json: "{}".into(), packed: Vec::new() },
        lifecycle: Lifecycle::default(),
        symbols: (0..symbols).map(|i| (Symbol::parse(&format!("S{i}")).unwrap(), Start::At(position))).collect(),
        log: None,
        created_at_ms: 0,
        idempotency: None,
    }
}

pub fn tick() -> Tick {
    Tick::new(Symbol::parse("S0").unwrap(), 1.5, 2.5, 3, Conditions(u64::MAX)).unwrap()
}

pub fn fault(rule: &RuleRef, alert: AlertId, binding: BindingId, offset: u64, quarantined: bool) -> NewFault {
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

/// A store with one rule, `a`, and the claim of partition 0.
pub async fn open(backend: Backend) -> (TestStore, Store, Claim) {
    let test_store = TestStore::make(backend).await;
    let store = test_store.open().await;
    store_rule(&store, &rule("a")).await;
    let claim = store.claim(0).await.unwrap();
    (test_store, store, claim)
}

/// An alert of the rule `a` on some symbols.
pub async fn create(store: &Store, symbols: usize) -> Alert {
    create_for(store, UserId(1), symbols).await
}

pub async fn create_for(store: &Store, user: UserId, symbols: usize) -> Alert {
    let alert = NewAlert { user, ..new_alert(&rule("a"), symbols) };
    match store.create_alert(&alert, MANY).await.unwrap() {
        StoredAlert::Created(alert) => alert,
        other => panic!("{other:?}"),
    }
}

pub fn firing(alert: &Alert, binding: BindingId, offset: u64) -> Firing {
    let position = Position { partition: 0, offset };
    Firing {
        id: FiringId::derive(binding, position),
        tenant: alert.tenant.clone(),
        alert: alert.id,
        binding,
        tick: tick(),
        position,
        rule: alert.rule.clone(),
        evidence: vec![("zero".into(), -0.0), ("most".into(), f64::MAX), ("third".into(), 1.0 / 3.0)],
    }
}

pub fn checkpoint(partition: u32, next_offset: u64) -> Checkpoint {
    Checkpoint {
        partition,
        next_offset,
        revision: 5,
        recovered: Vec::new(),
        unquarantined: Vec::new(),
        handoffs: Vec::new(),
        suppressed: Vec::new(),
        groups: Vec::new(),
    }
}

/// Commits firings that are not their bindings' last.
pub async fn fire(store: &Store, claim: &Claim, firings: impl IntoIterator<Item = Firing>) -> u64 {
    let firings = firings.into_iter().map(|firing| (firing, false)).collect();
    store.commit(from_ref(claim), &Commit { firings, ..Commit::default() }).await.unwrap()
}
