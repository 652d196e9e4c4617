//! What several processes do to each other, and what becomes of a connection.

use std::slice::from_ref;
use std::sync::Arc;

use tocsin_engine::domain::{BindingStatus, Tenant};
use tokio::task::JoinSet;

use super::DatabaseUrl;
use crate::testing::samples::{MANY, checkpoint, create, fire, firing, new_alert, open, rule};
use crate::testing::{Backend, TestStore};
use crate::{Claim, Commit, OutboxLease, Standing, Store, StoreError, StoredAlert};

/// As many processes write at once in these tests.
const WRITERS: u32 = 4;

/// Two stores on the same database, as two processes have.
async fn two() -> (TestStore, Store, Store, Claim) {
    let (test_store, one, claim) = open(Backend::Postgres).await;
    let other = test_store.open().await;
    (test_store, one, other, claim)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_never_meets_a_revision_smaller_than_one_it_has_seen() {
    let (test_store, store, reader, _) = two().await;
    let test_store = Arc::new(test_store);
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let test_store = test_store.clone();
        writers.spawn(async move {
            let store = test_store.open().await;
            for n in 0..40 {
                let alert = create(&store, 1 + n % 3).await;
                if n % 4 == 0 {
                    assert!(store.delete_alert(&alert.tenant, alert.id, 1).await.unwrap());
                }
            }
        });
    }
    let (mut seen, mut armed) = (0, Vec::new());
    loop {
        let last = writers.is_empty();
        let changed = reader.changes(seen, 7).await.unwrap();
        assert!(changed.bindings.iter().all(|row| row.revision > seen));
        armed.extend(changed.bindings.into_iter().filter(|row| row.standing != Standing::Deleted).map(|row| row.id));
        let end = changed.revision == seen;
        seen = changed.revision;
        while let Some(ended) = writers.try_join_next() {
            ended.unwrap();
        }
        if last && end {
            break;
        }
    }
    let live = store.live_bindings(0, seen, tocsin_engine::domain::BindingId(0), 10_000).await.unwrap();
    let missed: Vec<_> = live.iter().filter(|row| !armed.contains(&row.id)).collect();
    assert!(missed.is_empty() && !live.is_empty(), "{missed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_never_meets_a_firing_or_fault_smaller_than_one_it_has_seen() {
    const COMMITS: u64 = 30;
    let (test_store, store, reader, _) = two().await;
    let alert = create(&store, WRITERS as usize).await;
    let test_store = Arc::new(test_store);
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (test_store, alert) = (test_store.clone(), alert.clone());
        writers.spawn(async move {
            let store = test_store.open().await;
            let claim = store.claim(writer + 1).await.unwrap();
            let binding = alert.bindings[writer as usize].id;
            for n in 0..COMMITS {
                let firings = (0..=n % 3).map(|k| (firing(&alert, binding, n * 3 + k), false)).collect();
                let faults = vec![crate::testing::samples::fault(&alert.rule, alert.id, binding, n, false)];
                let checkpoints = vec![checkpoint(writer + 1, n)];
                let commit = Commit { firings, faults, checkpoints, ..Commit::default() };
                store.commit(from_ref(&claim), &commit).await.unwrap();
            }
        });
    }
    let (mut firings, mut faults, mut count) = (0, 0, 0);
    loop {
        let last = writers.is_empty();
        let page = reader.firings(&Tenant::standard(), None, firings, 5).await.unwrap();
        count += page.len() as u64;
        firings = page.last().map_or(firings, |(seq, _)| *seq);
        let newer = reader.faults(&Tenant::standard(), alert.id, faults, 5).await.unwrap();
        faults = newer.last().map_or(faults, |(seq, _)| *seq);
        while let Some(ended) = writers.try_join_next() {
            ended.unwrap();
        }
        if last && page.is_empty() && newer.is_empty() {
            break;
        }
    }
    assert_eq!(count, u64::from(WRITERS) * COMMITS * 2, "each was read by a reader that never looks back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zombie_that_commits_against_the_new_owner_writes_nothing() {
    let (_test_store, zombie, owner, mut lost) = two().await;
    let alert = create(&zombie, 1).await;
    let binding = alert.bindings[0].id;
    for round in 0..20u64 {
        let doomed = Commit {
            firings: vec![(firing(&alert, binding, round), false)],
            checkpoints: vec![checkpoint(0, round + 1)],
            ..Commit::default()
        };
        let (claimed, committed) = tokio::join!(owner.claim(0), zombie.commit(from_ref(&lost), &doomed));
        let claimed = claimed.unwrap();
        // Whichever came first: the new owner sees all of the commit, or none of it is there.
        let written = owner.firing_seq(&alert.tenant, firing(&alert, binding, round).id).await.unwrap().is_some();
        match committed {
            Ok(1) => assert!(written && claimed.next_offset == Some(round + 1), "round {round}: {claimed:?}"),
            Err(StoreError::Fenced(0)) => {
                assert!(!written && claimed.next_offset != Some(round + 1), "round {round}: {claimed:?}");
            }
            other => panic!("round {round}: {other:?}"),
        }
        let again = Commit { firings: vec![(firing(&alert, binding, 1_000 + round), true)], ..Commit::default() };
        let refused = zombie.commit(from_ref(&lost), &again).await;
        assert!(matches!(refused, Err(StoreError::Fenced(0))), "round {round}: {refused:?}");
        lost = claimed;
    }
    let status = &owner.alert(&alert.tenant, alert.id).await.unwrap().unwrap().bindings[0].status;
    assert_eq!(*status, BindingStatus::Active);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_claims_that_race_the_last_alone_holds() {
    let (_test_store, one, other, _) = two().await;
    let alert = create(&one, 1).await;
    let mut claims = JoinSet::new();
    for n in 0..20 {
        let store = if n % 2 == 0 { one.clone() } else { other.clone() };
        claims.spawn(async move { store.claim(3).await.unwrap() });
    }
    let mut claims = claims.join_all().await;
    claims.sort_by_key(|claim| claim.epoch);
    assert_eq!(claims.iter().map(|claim| claim.epoch).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    let holder = claims.pop().unwrap();
    let made = |n| firing(&alert, alert.bindings[0].id, n);
    for lost in &claims {
        let commit = Commit { firings: vec![(made(lost.epoch), false)], ..Commit::default() };
        let refused = one.commit(from_ref(lost), &commit).await;
        assert!(matches!(refused, Err(StoreError::Fenced(3))), "{refused:?}");
    }
    assert_eq!(fire(&other, &holder, [made(99)]).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caps_hold_against_creators_that_race() {
    let (_test_store, one, other, _) = two().await;
    let caps = crate::BindingCaps { per_tenant: 25, ..MANY };
    let mut creators = JoinSet::new();
    for n in 0..20 {
        let store = if n % 2 == 0 { one.clone() } else { other.clone() };
        creators.spawn(async move { store.create_alert(&new_alert(&rule("a"), 2), caps).await.unwrap() });
    }
    let stored = creators.join_all().await;
    assert_eq!(stored.iter().filter(|stored| matches!(stored, StoredAlert::Created(_))).count(), 12);
    assert_eq!(one.live_counters().await.2, 24);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_given_up_leaves_no_transaction_behind() {
    let (_test_store, one, other, mut newest) = two().await;
    let new = new_alert(&rule("a"), 1);
    for polls in 0..200 {
        let given_up = async {
            for _ in 0..polls {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = given_up => {}
            stored = one.create_alert(&new, MANY) => drop(stored.unwrap()),
        }
        // What this connection is used for next must be visible to others at once.
        newest = one.claim(0).await.unwrap();
        assert_eq!(other.claim(0).await.unwrap().epoch, newest.epoch + 1, "given up after {polls} polls");
    }
    assert!(newest.epoch > 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_firing_appears_after_the_deletion_of_its_alert_was_answered() {
    let (test_store, evaluator, control, claim) = two().await;
    let database = test_store.database();
    let alert = create(&evaluator, 1).await;
    let made = firing(&alert, alert.bindings[0].id, 1);
    database.slow_down("INSERT", "firings").await;
    let recording = tokio::spawn(async move { fire(&evaluator, &claim, [made]).await });
    database.until_slowed_down().await;
    assert!(control.delete_alert(&alert.tenant, alert.id, 1).await.unwrap());
    let answered = control.firings(&alert.tenant, None, 0, 10).await.unwrap().len();
    recording.await.unwrap();
    assert_eq!(control.firings(&alert.tenant, None, 0, 10).await.unwrap().len(), answered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_crosses_a_renewal_takes_no_later_firings_of_the_alert() {
    const ALL: usize = 15;
    let (test_store, one, other, claim) = two().await;
    let database = test_store.database();
    let alert = create(&one, 1).await;
    let firings = (0..ALL as u64).map(|offset| (firing(&alert, alert.bindings[0].id, offset), false)).collect();
    one.commit(from_ref(&claim), &Commit { firings, outbox: true, ..Commit::default() }).await.unwrap();
    let lease = |owner: &str, milliseconds| OutboxLease {
        owner: owner.into(),
        duration: std::time::Duration::from_millis(milliseconds),
    };
    assert_eq!(one.lease_outbox(&lease("a", 0), 10).await.unwrap().len(), 10);
    database.slow_down("UPDATE", "outbox_owners").await;
    let renewing = tokio::spawn(async move { one.renew_outbox(&lease("a", 600_000)).await.unwrap() });
    database.until_slowed_down().await;
    let leased = other.lease_outbox(&lease("b", 600_000), 100).await.unwrap();
    let offsets: Vec<u64> = leased.iter().map(|(_, firing)| firing.position.offset).collect();
    let renewed = renewing.await.unwrap();
    assert_eq!((renewed, offsets), (0, (0..ALL as u64).collect()), "a renewal that comes late renews nothing");
}

/// Creates an alert and fires it in one process; the other must hear of both.
async fn check_heard(one: &Store, other: &Store, claim: &Claim) {
    let (mut revisions, mut firings) = (other.newest_revision().await.unwrap(), other.newest_firing().await.unwrap());
    let alert = create(one, 1).await;
    let made = *one.newest_revision().await.unwrap().borrow();
    fire(one, claim, [firing(&alert, alert.bindings[0].id, made)]).await;
    let told = *one.newest_firing().await.unwrap().borrow();
    revisions.wait_for(|revision| *revision >= made).await.unwrap();
    firings.wait_for(|seq| *seq >= told).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_processes_hear_of_changes_also_after_the_server_cut_them_off() {
    let (test_store, one, other, claim) = two().await;
    let database = test_store.database();
    check_heard(&one, &other, &claim).await;
    database.end_sessions().await;
    check_heard(&one, &other, &claim).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_open_it_is_told_what_to_do() {
    let (test_store, ..) = two().await;
    let database = test_store.database();
    let told = async |url: &DatabaseUrl| match Store::open_postgres(url).await {
        Err(StoreError::Open(told) | StoreError::Away(told)) => told,
        other => panic!("{:?}", other.map(drop)),
    };
    let missing = told(&database.url().with_database("tocsin_nowhere")).await;
    assert!(missing.contains("no database \"tocsin_nowhere\"") && missing.contains("createdb"), "{missing}");
    // Nothing listens on this port: it is reserved.
    let away = told(&DatabaseUrl::parse("postgres://u:s3cret@127.0.0.1:1/d").unwrap()).await;
    assert!(away.contains("127.0.0.1:1 cannot be reached") && !away.contains("s3cret"), "{away}");
}
