//! What evaluators rely on: claims, checkpoints, firings that are recorded once, and changes in order.

use tocsin_engine::domain::BindingStatus;
use tocsin_engine::{GroupSnapshot, Health, SavedBinding};

use super::*;
use crate::testing::on_each_backend;
use crate::{BegunPromotion, NewPromotion, PromotedAlert, StoreError, WaitingFor};

on_each_backend!(
    a_checkpoint_remembers_what_is_released_behind_it,
    who_lost_its_claim_writes_nothing,
    states_are_replaced_group_by_group,
    a_firing_is_recorded_once_and_a_last_one_ends_its_binding,
    firings_are_numbered_in_their_order_and_read_as_they_were,
    changes_come_in_order_and_no_revision_is_cut,
    a_checkpoint_that_is_behind_the_stored_one_is_refused,
    a_partition_is_halted_until_its_next_checkpoint,
);

async fn a_checkpoint_that_is_behind_the_stored_one_is_refused(backend: Backend) {
    let (_test_store, store, claim) = open(backend).await;
    let alert = create(&store, 1).await;
    let made = |offset| (firing(&alert, alert.bindings[0].id, offset), false);
    let at = |next_offset, revision| Checkpoint { revision, ..checkpoint(0, next_offset) };
    let write = async |checkpoints, offset| {
        let commit = Commit { firings: vec![made(offset)], checkpoints, ..Commit::default() };
        store.commit(from_ref(&claim), &commit).await
    };
    write(vec![at(10, 5)], 1).await.unwrap();
    for (next_offset, revision, behind) in
        [(10, 5, false), (9, 5, true), (10, 4, true), (9, 6, true), (11, 4, true), (10, 6, false), (12, 6, false)]
    {
        let written = write(vec![at(next_offset, revision)], 100 + next_offset * 10 + revision).await;
        match written {
            Err(StoreError::CheckpointBehind { partition: 0, next_offset: refused, .. }) if behind => {
                assert_eq!(refused, next_offset);
            }
            Ok(1) if !behind => {}
            other => panic!("{next_offset}, {revision}: {other:?}"),
        }
    }
    let held = store.claim(0).await.unwrap();
    assert_eq!((held.next_offset, held.revision), (Some(12), 6));
    assert_eq!(
        store.firings(&alert.tenant, None, 0, 10).await.unwrap().len(),
        4,
        "nothing of a refused one is written"
    );
}

async fn a_partition_is_halted_until_its_next_checkpoint(backend: Backend) {
    let (_test_store, store, lost) = open(backend).await;
    let alert = create(&store, 1).await;
    let newer = RuleRef { version: Version::new(2, 0, 0), digest: Digest::of(b"newer"), ..rule("a") };
    store_rule(&store, &newer).await;
    let params = Params { json: "{}".into(), packed: Vec::new() };
    let moved = PromotedAlert { alert: alert.id, from: alert.rule.digest, params };
    let new = NewPromotion { tenant: Tenant::standard(), to: newer, alerts: vec![moved], out_of_service: None };
    let claim = store.claim(0).await.unwrap();
    store.halt_partition(&lost, "it was another's").await.unwrap();
    let BegunPromotion::Begun(id) = store.begin_promotion(&new).await.unwrap() else { panic!() };
    store.halt_partition(&claim, "gone").await.unwrap();
    let unfinished = store.unfinished_promotion().await.unwrap().unwrap();
    assert_eq!(
        unfinished.waiting_for,
        [WaitingFor { partition: 0, bindings: 1, halted: Some("gone".into()) }],
        "{unfinished:?}"
    );
    assert!((0..60_000).contains(&unfinished.age_ms) && unfinished.requested() == 1 && unfinished.held == 0);
    assert_eq!(store.roll_back_promotion(id).await.unwrap(), Some(0));
    let refused = store.begin_promotion(&new).await.unwrap();
    let BegunPromotion::PartitionHalted { alert: named, partition: 0, why } = refused else { panic!("{refused:?}") };
    assert_eq!((named, why.as_str()), (alert.id, "gone"));
    assert!(store.unfinished_promotion().await.unwrap().is_none());
    // A claim alone evaluates nothing yet.
    let claim = store.claim(0).await.unwrap();
    assert!(matches!(store.begin_promotion(&new).await.unwrap(), BegunPromotion::PartitionHalted { .. }));
    let commit = Commit { checkpoints: vec![checkpoint(0, 1)], ..Commit::default() };
    store.commit(from_ref(&claim), &commit).await.unwrap();
    assert!(matches!(store.begin_promotion(&new).await.unwrap(), BegunPromotion::Begun(_)));
}

async fn a_checkpoint_remembers_what_is_released_behind_it(backend: Backend) {
    let (_test_store, store, claim) = open(backend).await;
    let checkpoint = |unquarantined: &[i64], next_offset| Commit {
        checkpoints: vec![Checkpoint {
            unquarantined: unquarantined.iter().copied().map(BindingId).collect(),
            ..checkpoint(0, next_offset)
        }],
        ..Commit::default()
    };
    store.commit(from_ref(&claim), &checkpoint(&[7, 8], 3)).await.unwrap();
    let claim = store.claim(0).await.unwrap();
    assert_eq!((claim.next_offset, claim.unquarantined.clone()), (Some(3), vec![BindingId(7), BindingId(8)]));
    store.commit(from_ref(&claim), &checkpoint(&[], 4)).await.unwrap();
    assert!(store.claim(0).await.unwrap().unquarantined.is_empty());
}

async fn who_lost_its_claim_writes_nothing(backend: Backend) {
    let (_test_store, store, lost) = open(backend).await;
    let alert = create(&store, 1).await;
    let binding = alert.bindings[0].id;
    let other = store.claim(1).await.unwrap();
    let held = store.claim(0).await.unwrap();
    assert_eq!((held.epoch, held.next_offset), (lost.epoch + 1, None));
    let commit = Commit {
        firings: vec![(firing(&alert, binding, 1), true)],
        faults: vec![fault(&rule("a"), alert.id, binding, 2, true)],
        checkpoints: vec![checkpoint(0, 9), checkpoint(1, 9)],
        ..Commit::default()
    };
    let refused = store.commit(&[other.clone(), lost], &commit).await;
    assert!(matches!(refused, Err(StoreError::Fenced(0))), "{refused:?}");
    assert_eq!(store.last_firing(&Tenant::standard()).await.unwrap(), None);
    assert_eq!(store.faults(&Tenant::standard(), alert.id, 0, 10).await.unwrap(), []);
    assert_eq!(store.alert(&Tenant::standard(), alert.id).await.unwrap(), Some(alert));
    assert_eq!(store.commit(&[other, held], &commit).await.unwrap(), 1);
    assert_eq!(store.claim(1).await.unwrap().next_offset, Some(9));
}

fn saved(binding: i64, state: u8) -> SavedBinding {
    SavedBinding { binding: BindingId(binding), health: Health::default(), pace: None, state: vec![state; 3] }
}

async fn states_are_replaced_group_by_group(backend: Backend) {
    let (_test_store, store, claim) = open(backend).await;
    let group = |symbol: &str, binding: i64, state: u8| GroupSnapshot {
        rule: rule("a").digest,
        tenant: Tenant::standard(),
        symbol: Symbol::parse(symbol).unwrap(),
        bytes: saved(binding, state).pack(),
    };
    let write = async |groups| {
        let checkpoints = vec![Checkpoint { groups, ..checkpoint(0, 1) }];
        store.commit(from_ref(&claim), &Commit { checkpoints, ..Commit::default() }).await.unwrap();
    };
    write(vec![group("X", 1, 1), group("Y", 2, 2)]).await;
    write(vec![group("Y", 2, 3)]).await;
    let mut saved_states = store.saved_states(0).await.unwrap();
    saved_states.sort_by_key(|(_, saved)| saved.binding);
    assert_eq!(saved_states, [(rule("a").digest, saved(1, 1)), (rule("a").digest, saved(2, 3))]);
    assert_eq!(store.saved_states(1).await.unwrap(), []);
}

async fn a_firing_is_recorded_once_and_a_last_one_ends_its_binding(backend: Backend) {
    let (_test_store, store, claim) = open(backend).await;
    let alert = create(&store, 2).await;
    let (one, two) = (alert.bindings[0].id, alert.bindings[1].id);
    assert_eq!(fire(&store, &claim, [firing(&alert, one, 1), firing(&alert, one, 1), firing(&alert, two, 1)]).await, 2);
    let last = vec![
        (firing(&alert, one, 1), false),
        (firing(&alert, one, 2), true),
        (firing(&alert, one, 3), false),
        (firing(&alert, two, 3), false),
    ];
    let commit = Commit { firings: last, ..Commit::default() };
    assert_eq!(store.commit(from_ref(&claim), &commit).await.unwrap(), 2, "what comes behind the last is none");
    assert_eq!(store.commit(from_ref(&claim), &commit).await.unwrap(), 0, "a replay");
    let status: Vec<BindingStatus> = store
        .alert(&Tenant::standard(), alert.id)
        .await
        .unwrap()
        .unwrap()
        .bindings
        .into_iter()
        .map(|binding| binding.status)
        .collect();
    assert_eq!(status, [BindingStatus::Triggered, BindingStatus::Active]);
}

async fn firings_are_numbered_in_their_order_and_read_as_they_were(backend: Backend) {
    let (_test_store, store, claim) = open(backend).await;
    let alert = create(&store, 100).await;
    let newest = store.newest_firing().await.unwrap();
    assert_eq!((*newest.borrow(), store.last_firing(&alert.tenant).await.unwrap()), (0, None));
    // More than one statement takes, and in no order of bindings.
    let bindings: Vec<BindingId> = alert.bindings.iter().map(|binding| binding.id).collect();
    let made: Vec<Firing> = (0..2_500).map(|n| firing(&alert, bindings[(n * 37) % bindings.len()], n as u64)).collect();
    assert_eq!(fire(&store, &claim, made.clone()).await, 2_500);
    let read = store.firings(&alert.tenant, None, 0, 10_000).await.unwrap();
    assert!(read.is_sorted_by(|(a, _), (b, _)| a < b));
    assert_eq!(read.iter().map(|(_, firing)| firing).collect::<Vec<_>>(), made.iter().collect::<Vec<_>>());
    assert!(read[0].1.evidence[0].1.is_sign_negative(), "a zero keeps its sign");
    let (last, _) = read.last().unwrap();
    assert_eq!((*newest.borrow(), store.last_firing(&alert.tenant).await.unwrap().unwrap().0), (*last, *last));
    assert_eq!(store.firing_seq(&alert.tenant, made[7].id).await.unwrap(), Some(read[7].0));
    let page = store.firings(&alert.tenant, Some(alert.id), read[7].0, 2).await.unwrap();
    assert_eq!(page, read[8..10]);
    assert_eq!(store.firings_of_all(read[7].0, 2).await.unwrap(), read[8..10]);
    assert_eq!(store.firings_of_all(0, 10_000).await.unwrap(), read);
    assert_eq!(store.firings_of_all(*last, 10).await.unwrap(), []);
}

async fn changes_come_in_order_and_no_revision_is_cut(backend: Backend) {
    let (_test_store, store, _) = open(backend).await;
    let alerts = [create(&store, 3).await, create(&store, 2).await, create(&store, 3).await];
    let newest = *store.newest_revision().await.unwrap().borrow();
    let first = store.changes(0, 5).await.unwrap();
    let of = |alert: &Alert| alert.bindings.iter().map(|binding| binding.id).collect::<Vec<_>>();
    let read = |changed: &crate::Changed| changed.bindings.iter().map(|row| row.id).collect::<Vec<_>>();
    assert_eq!(read(&first), of(&alerts[0]), "the second alert may go on behind the limit");
    let second = store.changes(first.revision, 5).await.unwrap();
    assert_eq!(read(&second), of(&alerts[1]));
    let third = store.changes(second.revision, 10).await.unwrap();
    assert_eq!((read(&third), third.revision), (of(&alerts[2]), newest));
    let none = store.changes(newest, 10).await.unwrap();
    assert_eq!((none.bindings.len(), none.revision), (0, newest));
    let live = store.live_bindings(0, second.revision, alerts[0].bindings[1].id, 10).await.unwrap();
    assert_eq!(live.iter().map(|row| row.id).collect::<Vec<_>>(), [&of(&alerts[0])[2..], &of(&alerts[1])].concat());
}
