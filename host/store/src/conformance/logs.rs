//! The log that offsets refer to: another one is refused until it is accepted, and its offsets are no others' then.

use super::*;
use crate::testing::on_each_backend;
use crate::{AcceptedLog, LogStart, StoreError};

on_each_backend!(
    the_first_log_is_taken_and_another_is_refused,
    ids_of_another_log_are_others_and_those_of_the_first_stay,
    what_refers_to_offsets_is_known_to_the_next_claim,
    an_accepted_log_begins_where_it_is_said,
    a_log_that_lost_its_end_goes_on_there_under_other_ids,
    a_partition_that_was_evaluated_since_its_end_was_read_goes_on,
    bindings_without_a_partition_wait_for_their_first_tick,
);

async fn open_in(backend: Backend, log: &str) -> (TestStore, Store, Claim) {
    let test_store = TestStore::make(backend).await;
    let store = test_store.open().await;
    store_rule(&store, &rule("a")).await;
    let claim = store.claim_in(log, 0).await.unwrap();
    (test_store, store, claim)
}

fn starts(offset: u64, ends: &[u64]) -> Vec<LogStart> {
    let start = |(partition, end): (u32, &u64)| LogStart { partition, offset, end: *end, has_lost_records: true };
    (0..).zip(ends).map(start).collect()
}

#[track_caller]
fn check_refused<T: std::fmt::Debug>(refused: Result<T, StoreError>, expect: &str, actual: &str) {
    match refused {
        Err(StoreError::OtherLog { expected, found }) => assert_eq!((&*expected, &*found), (expect, actual)),
        other => panic!("{other:?}"),
    }
}

async fn accept(store: &Store, log: &str, starts: &[LogStart]) -> u64 {
    match store.accept_log(log, starts).await.unwrap() {
        AcceptedLog::Accepted { log: accepted, moved_bindings } => {
            assert_eq!((&accepted.identity, Some(&accepted)), (&log.into(), store.tick_log().await.unwrap().as_ref()));
            moved_bindings
        }
        other => panic!("{other:?}"),
    }
}

async fn the_first_log_is_taken_and_another_is_refused(backend: Backend) {
    let (_test_store, store, claim) = open_in(backend, "one").await;
    let known = store.tick_log().await.unwrap().unwrap();
    assert_eq!((&*known.identity, known.generation), ("one", 0));
    check_refused(store.claim_in("two", 0).await, "one", "two");
    check_refused(store.claim_in("two", 7).await, "one", "two");
    let new = |log: &str| NewAlert { log: Some(log.into()), ..new_alert(&rule("a"), 1) };
    check_refused(store.create_alert(&new("two"), MANY).await, "one", "two");
    assert!(matches!(store.create_alert(&new("one"), MANY).await.unwrap(), StoredAlert::Created(_)));
    // A refused claim takes nothing away.
    store.commit(from_ref(&claim), &Commit { checkpoints: vec![checkpoint(0, 3)], ..Commit::default() }).await.unwrap();
    assert_eq!(store.claim_in("one", 0).await.unwrap().next_offset, Some(3));
    // Of partitions from before logs were known, the first one is.
    assert_eq!(store.tick_log().await.unwrap(), Some(known));
}

async fn ids_of_another_log_are_others_and_those_of_the_first_stay(backend: Backend) {
    let (_test_store, store, claim) = open_in(backend, "one").await;
    let alert = create(&store, 1).await;
    let binding = alert.bindings[0].id;
    let made = firing(&alert, binding, 7);
    assert_eq!(fire(&store, &claim, [made.clone()]).await, 1);
    assert_eq!(fire(&store, &claim, [made.clone()]).await, 0, "a replay");
    for (log, expect) in [("two", 1), ("three", 2), ("one", 3)] {
        accept(&store, log, &starts(0, &[100])).await;
        let claim = store.claim_in(log, 0).await.unwrap();
        assert_eq!(fire(&store, &claim, [made.clone()]).await, 1, "offset 7 of {log} is another tick");
        assert_eq!(fire(&store, &claim, [made.clone()]).await, 0, "a replay");
        let fault = fault(&rule("a"), alert.id, binding, 7, false);
        store.commit(from_ref(&claim), &Commit { faults: vec![fault], ..Commit::default() }).await.unwrap();
        assert_eq!(store.faults(&alert.tenant, alert.id, 0, 10).await.unwrap().len(), expect, "of faults as well");
    }
    let firings = store.firings(&alert.tenant, None, 0, 10).await.unwrap();
    assert_eq!((firings.len(), firings[0].1.id), (4, made.id), "the first is as it was before there were several logs");
}

async fn what_refers_to_offsets_is_known_to_the_next_claim(backend: Backend) {
    let (_test_store, store, claim) = open_in(backend, "one").await;
    assert_eq!(claim.referenced, 0);
    let alert = create(&store, 1).await;
    let binding = alert.bindings[0].id;
    fire(&store, &claim, [firing(&alert, binding, 41), firing(&alert, binding, 12)]).await;
    assert_eq!(store.claim_in("one", 0).await.unwrap().referenced, 42);
    let claim = store.claim_in("one", 0).await.unwrap();
    let faults = vec![fault(&rule("a"), alert.id, binding, 50, false)];
    store.commit(from_ref(&claim), &Commit { faults, ..Commit::default() }).await.unwrap();
    fire(&store, &claim, [firing(&alert, binding, 3)]).await;
    assert_eq!(store.claim_in("one", 0).await.unwrap().referenced, 51, "it never goes back");
}

async fn an_accepted_log_begins_where_it_is_said(backend: Backend) {
    let (_test_store, store, claim) = open_in(backend, "one").await;
    let alert = create(&store, 2).await;
    let done = Commit { checkpoints: vec![checkpoint(0, 60)], ..Commit::default() };
    store.commit(from_ref(&claim), &done).await.unwrap();
    assert_eq!(accept(&store, "two", &starts(9, &[100, 100])).await, 0);
    let refused = store.commit(from_ref(&claim), &done).await;
    assert!(matches!(refused, Err(StoreError::Fenced(0))), "whoever evaluated the log before: {refused:?}");
    let claim = store.claim_in("two", 0).await.unwrap();
    assert_eq!((claim.next_offset, claim.referenced, claim.revision), (Some(9), 0, 5));
    let rows = store.live_bindings(0, u64::MAX >> 1, BindingId(0), 10).await.unwrap();
    let from: Vec<_> = rows.iter().map(|row| row.counts_from.unwrap().offset).collect();
    assert_eq!((rows.len(), from), (alert.bindings.len(), vec![9, 9]));
    assert_eq!(store.claim_in("two", 1).await.unwrap().next_offset, None, "never evaluated before");
    check_refused(store.claim_in("one", 0).await, "two", "one");
}

async fn a_log_that_lost_its_end_goes_on_there_under_other_ids(backend: Backend) {
    let (_test_store, store, claim) = open_in(backend, "one").await;
    let healthy = store.claim_in("one", 1).await.unwrap();
    let alert = create(&store, 1).await;
    let binding = alert.bindings[0].id;
    let checkpoints = vec![checkpoint(0, 5), checkpoint(1, 5)];
    let claims = [claim.clone(), healthy.clone()];
    store.commit(&claims, &Commit { checkpoints, ..Commit::default() }).await.unwrap();
    fire(&store, &claim, [firing(&alert, binding, 7)]).await;
    let whole = store.accept_log("one", &starts(0, &[8, 5])).await.unwrap();
    assert_eq!(whole, AcceptedLog::Known, "it has all that anything refers to");
    accept(&store, "one", &starts(0, &[7, 5])).await;
    let cut = store.claim_in("one", 0).await.unwrap();
    assert_eq!((cut.next_offset, cut.referenced), (Some(5), 7), "from the checkpoint on");
    assert_eq!(fire(&store, &cut, [firing(&alert, binding, 7)]).await, 1, "offset 7 is another tick now");
    let again = Commit { checkpoints: vec![checkpoint(1, 6)], ..Commit::default() };
    store.commit(from_ref(&healthy), &again).await.unwrap();
    accept(&store, "one", &starts(0, &[3, 6])).await;
    let cut = store.claim_in("one", 0).await.unwrap();
    assert_eq!((cut.next_offset, cut.referenced), (Some(3), 3), "the end, where the checkpoint is behind it");
    // Bindings that were made behind the end.
    let late = NewAlert {
        symbols: vec![(Symbol::parse("S0").unwrap(), Start::At(Position { partition: 0, offset: 9 }))],
        ..new_alert(&rule("a"), 1)
    };
    assert!(matches!(store.create_alert(&late, MANY).await.unwrap(), StoredAlert::Created(_)));
    accept(&store, "one", &starts(0, &[3, 6])).await;
    let rows = store.live_bindings(0, u64::MAX >> 1, BindingId(0), 10).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.counts_from.unwrap().offset).collect::<Vec<_>>(), [0, 3]);
}

async fn a_partition_that_was_evaluated_since_its_end_was_read_goes_on(backend: Backend) {
    let (_test_store, store, claim) = open_in(backend, "one").await;
    let alert = create(&store, 1).await;
    let done = Commit { checkpoints: vec![checkpoint(0, 5)], ..Commit::default() };
    store.commit(from_ref(&claim), &done).await.unwrap();
    assert_eq!(store.referenced().await.unwrap()[&0], 5);
    fire(&store, &claim, [firing(&alert, alert.bindings[0].id, 7)]).await;
    assert_eq!(store.referenced().await.unwrap()[&0], 8);
    let starts = starts(0, &[5, 5]).into_iter().map(|start| LogStart { has_lost_records: false, ..start });
    let accepted = store.accept_log("one", &starts.collect::<Vec<_>>()).await.unwrap();
    assert_eq!(accepted, AcceptedLog::Known);
    let done = Commit { checkpoints: vec![checkpoint(0, 8)], ..Commit::default() };
    store.commit(from_ref(&claim), &done).await.expect("the claim holds");
}

async fn bindings_without_a_partition_wait_for_their_first_tick(backend: Backend) {
    let (_test_store, store, _claim) = open_in(backend, "one").await;
    let symbol = |name: &str| Symbol::parse(name).unwrap();
    for (name, start) in [
        ("LOW", Start::At(Position { partition: 1, offset: 30 })),
        ("HIGH", Start::At(Position { partition: 5, offset: 30 })),
        ("AWAITED", Start::FirstSeen(vec![30; 6])),
    ] {
        let new = NewAlert { symbols: vec![(symbol(name), start)], ..new_alert(&rule("a"), 1) };
        assert!(matches!(store.create_alert(&new, MANY).await.unwrap(), StoredAlert::Created(_)));
    }
    assert_eq!(accept(&store, "two", &starts(4, &[10, 10])).await, 1);
    let mut assignments = store.symbol_assignments().await.unwrap();
    assignments.sort();
    let assigned: Vec<_> = assignments.iter().map(|one| (one.symbol.as_str(), one.partition)).collect();
    assert_eq!(assigned, [("AWAITED", None), ("HIGH", None), ("LOW", Some(1))]);
    let unassigned = store.unassigned_symbols(0, u64::MAX >> 1).await.unwrap();
    assert!(unassigned.len() == 2 && unassigned.iter().all(|one| one.ends == [4, 4]), "{unassigned:?}");
    assert_eq!(store.assign_symbol(&symbol("HIGH"), 0).await.unwrap(), Some(0));
}
