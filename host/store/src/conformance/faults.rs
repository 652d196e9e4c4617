//! Faults: the newest are kept, within bounds.

use tocsin_engine::domain::{BindingStatus, FaultId};

use super::*;
use crate::faults::{MAX_FAULTS, MAX_FAULTS_PER_BINDING, MAX_FAULTS_PER_USER};
use crate::testing::on_each_backend;

on_each_backend!(
    the_newest_faults_of_a_binding_are_kept_and_replays_displace_none,
    faults_are_bounded_for_each_user_and_all_together,
);

async fn the_newest_faults_of_a_binding_are_kept_and_replays_displace_none(backend: Backend) {
    let (_test_store, store, claim) = open(backend).await;
    let rule = rule("a");
    let alert = create(&store, 1).await;
    let binding = alert.bindings[0].id;
    let commit = async |offsets: std::ops::Range<u64>| {
        let faults = offsets.map(|offset| fault(&rule, alert.id, binding, offset, offset == 19)).collect();
        let commit = Commit { faults, ..Commit::default() };
        store.commit(from_ref(&claim), &commit).await.unwrap();
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

async fn faults_are_bounded_for_each_user_and_all_together(backend: Backend) {
    let (_test_store, store, claim) = open(backend).await;
    let rule = rule("a");
    let record = async |alert: &Alert| {
        for offset in 0..u64::from(MAX_FAULTS_PER_BINDING) {
            let faults =
                alert.bindings.iter().map(|binding| fault(&rule, alert.id, binding.id, offset, false)).collect();
            store.commit(from_ref(&claim), &Commit { faults, ..Commit::default() }).await.unwrap();
        }
    };
    let kept = async |alert: &Alert| store.faults(&Tenant::standard(), alert.id, 0, 10_000).await.unwrap();
    let quiet = create_for(&store, UserId(2), 1).await;
    record(&quiet).await;
    let noisy = create_for(&store, UserId(1), 100).await;
    record(&noisy).await;
    let faults = kept(&noisy).await;
    assert_eq!(faults.len(), MAX_FAULTS_PER_USER as usize);
    assert_eq!(faults.last().unwrap().1.position.offset, u64::from(MAX_FAULTS_PER_BINDING) - 1);
    assert_eq!(kept(&quiet).await.len(), MAX_FAULTS_PER_BINDING as usize, "another user's faults displace none");

    let mut alerts = vec![quiet, noisy];
    for user in 3..=(MAX_FAULTS / MAX_FAULTS_PER_USER) as i32 + 2 {
        alerts.push(create_for(&store, UserId(user), 100).await);
        record(alerts.last().unwrap()).await;
    }
    let mut all = 0;
    for alert in &alerts {
        all += kept(alert).await.len();
    }
    assert_eq!(all, MAX_FAULTS as usize);
}
