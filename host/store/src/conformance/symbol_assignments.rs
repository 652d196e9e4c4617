//! Symbol assignments, and bindings that wait for one.

use super::*;
use crate::testing::on_each_backend;
use crate::{BegunPromotion, BindingRow, NewPromotion, PromotedAlert, SymbolAssignment};

on_each_backend!(
    a_symbol_keeps_its_assignment,
    a_symbol_is_assigned_for_bindings_that_wait_and_no_others,
    bindings_wait_for_the_assignment_and_begin_where_the_partition_ended,
    a_promotion_does_not_wait_for_an_assignment,
);

fn symbol() -> Symbol {
    Symbol::parse("S0").unwrap()
}

fn assigned_to(partition: Option<u32>) -> SymbolAssignment {
    SymbolAssignment { symbol: symbol(), partition }
}

fn first_seen(ends: &[u64]) -> NewAlert {
    NewAlert { symbols: vec![(symbol(), Start::FirstSeen(ends.to_vec()))], ..new_alert(&rule("a"), 1) }
}

async fn put(store: &Store, new: &NewAlert) -> Alert {
    match store.create_alert(new, MANY).await.unwrap() {
        StoredAlert::Created(alert) => alert,
        other => panic!("{other:?}"),
    }
}

async fn a_symbol_keeps_its_assignment(backend: Backend) {
    let (_test_store, store, _claim) = open(backend).await;
    assert_eq!(store.symbol_assignments().await.unwrap(), []);
    put(&store, &first_seen(&[0, 0, 0])).await;
    assert_eq!(store.symbol_assignments().await.unwrap(), [assigned_to(None)]);
    assert_eq!(store.assign_symbol(&symbol(), 2).await.unwrap(), Some(2));
    assert_eq!(store.assign_symbol(&symbol(), 1).await.unwrap(), Some(2), "the first one stays");
    assert_eq!(store.symbol_assignments().await.unwrap(), [assigned_to(Some(2))]);
}

async fn a_symbol_is_assigned_for_bindings_that_wait_and_no_others(backend: Backend) {
    let (_test_store, store, _claim) = open(backend).await;
    assert_eq!(store.assign_symbol(&symbol(), 1).await.unwrap(), None, "the symbol was never watched");
    let before = *store.newest_revision().await.unwrap().borrow();
    let deleted = put(&store, &first_seen(&[0, 0, 0])).await;
    assert!(store.delete_alert(&deleted.tenant, deleted.id, 0).await.unwrap());
    assert_eq!(store.live_among(&[symbol()]).await.unwrap(), []);
    assert_eq!(store.assign_symbol(&symbol(), 1).await.unwrap(), None, "the symbol is no longer watched");
    let waits = put(&store, &first_seen(&[4, 5, 6])).await;
    assert_eq!(waits.bindings[0].counts_from, None, "a tick from before assigns nothing");
    assert_eq!(store.live_among(&[symbol(), Symbol::parse("S9").unwrap()]).await.unwrap(), [symbol()]);
    assert_eq!(store.assign_symbol(&symbol(), 2).await.unwrap(), Some(2));
    let changed = store.changes(before, 10).await.unwrap();
    let from: Vec<_> = changed.bindings.iter().map(|row| (row.alert, row.counts_from)).collect();
    assert_eq!(from[1..], [(waits.id, Some(Position { partition: 2, offset: 6 }))]);
}

async fn bindings_wait_for_the_assignment_and_begin_where_the_partition_ended(backend: Backend) {
    let (_test_store, store, _claim) = open(backend).await;
    let early = put(&store, &first_seen(&[1, 2, 3])).await;
    let many = 1_200;
    for _ in 0..many {
        put(&store, &first_seen(&[10, 20])).await;
    }
    assert_eq!(early.bindings[0].counts_from, None);
    let before = *store.newest_revision().await.unwrap().borrow();
    let waiting = store.changes(0, 10_000).await.unwrap();
    assert!(waiting.bindings.iter().all(|row| row.counts_from.is_none()));
    for partition in 0..3 {
        assert!(store.live_bindings(partition, before, BindingId(0), 10).await.unwrap().is_empty());
    }
    let unassigned = store.unassigned_symbols(0, before).await.unwrap().remove(0);
    assert_eq!((&unassigned.symbol, &unassigned.ends[..]), (&symbol(), &[1, 2][..]), "the least of each partition");
    assert_eq!(
        (unassigned.end_of(1), unassigned.end_of(2)),
        (2, 0),
        "a partition that not all knew of counts from its beginning"
    );
    assert_eq!(store.unassigned_symbols(before, u64::MAX / 2).await.unwrap(), []);
    store.assign_symbol(&symbol(), 2).await.unwrap();
    assert_eq!(store.unassigned_symbols(0, u64::MAX / 2).await.unwrap(), []);
    // Evaluators read all changes, whatever the size of a page.
    let (mut after, mut begun) = (before, Vec::new());
    while after < *store.newest_revision().await.unwrap().borrow() {
        let changed = store.changes(after, 1_001).await.unwrap();
        (after, begun) = (changed.revision, [begun, changed.bindings].concat());
    }
    assert_eq!(begun.len(), many + 1);
    assert_eq!(store.watched_symbols().await.unwrap(), [symbol()]);
    let offset = |row: &BindingRow| row.counts_from.map(|from| (from.partition, from.offset));
    assert_eq!(offset(&begun[0]), Some((2, 3)));
    assert!(begun[1..].iter().all(|row| offset(row) == Some((2, 0))), "a partition that was made since");
    assert!(begun.iter().all(|row| row.revision == row.armed_revision));
    // From now on the assignment is found at the creation, even with `Start::FirstSeen`.
    let late = put(&store, &first_seen(&[10, 20, 30])).await;
    assert_eq!(late.bindings[0].counts_from, Some(Position { partition: 2, offset: 30 }));
}

async fn a_promotion_does_not_wait_for_an_assignment(backend: Backend) {
    let (_test_store, store, _claim) = open(backend).await;
    let alert = put(&store, &first_seen(&[0])).await;
    let newer = RuleRef { version: Version::new(2, 0, 0), digest: Digest::of(b"newer"), ..rule("a") };
    store_rule(&store, &newer).await;
    let params = Params { json: "{}".into(), packed: Vec::new() };
    let moved = PromotedAlert { alert: alert.id, from: alert.rule.digest, params };
    let new = NewPromotion { tenant: Tenant::standard(), to: newer, alerts: vec![moved], out_of_service: None };
    assert!(matches!(store.begin_promotion(&new).await.unwrap(), BegunPromotion::Begun(_)));
    let unfinished = store.unfinished_promotion().await.unwrap().unwrap();
    assert_eq!((unfinished.held, unfinished.waiting_for), (1, Vec::new()));
}
