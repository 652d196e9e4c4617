//! Homes of symbols.

use super::*;
use crate::store::testing::on_each_member;
use crate::store::{BegunPromotion, BindingRow, NewPromotion, PromotedAlert};

on_each_member!(
    a_symbol_has_one_home_and_keeps_it,
    a_symbol_is_assigned_for_bindings_that_wait_and_no_others,
    bindings_wait_for_the_home_and_begin_where_its_partition_ended,
    a_promotion_does_not_wait_for_a_home,
);

fn symbol() -> Symbol {
    Symbol::parse("S0").unwrap()
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

async fn a_symbol_has_one_home_and_keeps_it(member: Member) {
    let (_home, store, _claim) = open(member).await;
    assert_eq!(store.homes().await.unwrap(), []);
    put(&store, &first_seen(&[0, 0, 0])).await;
    assert_eq!(store.homes().await.unwrap(), [(symbol(), None)]);
    assert_eq!(store.settle(&symbol(), 2).await.unwrap(), Some(2));
    assert_eq!(store.settle(&symbol(), 1).await.unwrap(), Some(2), "the first one stays");
    assert_eq!(store.homes().await.unwrap(), [(symbol(), Some(2))]);
}

async fn a_symbol_is_assigned_for_bindings_that_wait_and_no_others(member: Member) {
    let (_home, store, _claim) = open(member).await;
    assert_eq!(store.settle(&symbol(), 1).await.unwrap(), None, "it was never watched");
    let before = *store.newest_revision().await.unwrap().borrow();
    let deleted = put(&store, &first_seen(&[0, 0, 0])).await;
    assert!(store.delete_alert(&deleted.tenant, deleted.id, 0).await.unwrap());
    assert_eq!(store.live_among(&[symbol()]).await.unwrap(), []);
    assert_eq!(store.settle(&symbol(), 1).await.unwrap(), None, "it is watched no more");
    let waits = put(&store, &first_seen(&[4, 5, 6])).await;
    assert_eq!(waits.bindings[0].counts_from, None, "a tick of before assigns nothing");
    assert_eq!(store.live_among(&[symbol(), Symbol::parse("S9").unwrap()]).await.unwrap(), [symbol()]);
    assert_eq!(store.settle(&symbol(), 2).await.unwrap(), Some(2));
    let changed = store.changes(before, 10).await.unwrap();
    let from: Vec<_> = changed.bindings.iter().map(|row| (row.alert, row.counts_from)).collect();
    assert_eq!(from[1..], [(waits.id, Some(Position { partition: 2, offset: 6 }))]);
}

async fn bindings_wait_for_the_home_and_begin_where_its_partition_ended(member: Member) {
    let (_home, store, _claim) = open(member).await;
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
    let sought = store.sought(0, before).await.unwrap().remove(0);
    assert_eq!((&sought.symbol, &sought.ends[..]), (&symbol(), &[1, 2][..]), "the least of each partition");
    assert_eq!(
        (sought.end_of(1), sought.end_of(2)),
        (2, 0),
        "a partition that not all knew of counts from its beginning"
    );
    assert_eq!(store.sought(before, u64::MAX / 2).await.unwrap(), []);
    store.settle(&symbol(), 2).await.unwrap();
    assert_eq!(store.sought(0, u64::MAX / 2).await.unwrap(), []);
    // Evaluators hear of all, whatever they read at once.
    let (mut after, mut settled) = (before, Vec::new());
    while after < *store.newest_revision().await.unwrap().borrow() {
        let changed = store.changes(after, 1_001).await.unwrap();
        (after, settled) = (changed.revision, [settled, changed.bindings].concat());
    }
    assert_eq!(settled.len(), many + 1);
    assert_eq!(store.watched_symbols().await.unwrap(), [symbol()]);
    let offset = |row: &BindingRow| row.counts_from.map(|from| (from.partition, from.offset));
    assert_eq!(offset(&settled[0]), Some((2, 3)));
    assert!(settled[1..].iter().all(|row| offset(row) == Some((2, 0))), "a partition that was made since");
    assert!(settled.iter().all(|row| row.revision == row.armed_revision));
    // From now on the home is found at the creation, even by who did not know it.
    let late = put(&store, &first_seen(&[10, 20, 30])).await;
    assert_eq!(late.bindings[0].counts_from, Some(Position { partition: 2, offset: 30 }));
}

async fn a_promotion_does_not_wait_for_a_home(member: Member) {
    let (_home, store, _claim) = open(member).await;
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
