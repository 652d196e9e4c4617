//! Promotions that are taken back while evaluators hand over, and changes that are read page by page meanwhile.

use std::collections::BTreeSet;

use tocsin_engine::{Health, SavedBinding};

use super::*;
use crate::testing::on_each_backend;
use crate::{
    BegunPromotion, BindingRow, FinishedPromotion, Handoff, HandoffState, NewPromotion, PromotedAlert, PromotionId,
    Unquarantined,
};

on_each_backend!(
    what_is_held_goes_back_at_once_and_what_is_not_handed_over_stays,
    a_handover_that_crosses_the_end_of_its_promotion_is_given_back_once,
    a_binding_that_changes_again_while_others_are_read_is_begun_with_all_the_same,
);

fn newer() -> RuleRef {
    RuleRef { version: Version::new(2, 0, 0), digest: Digest::of(b"newer"), ..rule("a") }
}

async fn begin(store: &Store, alerts: &[Alert]) -> PromotionId {
    let params = Params { json: "{}".into(), packed: Vec::new() };
    let from = rule("a").digest;
    let alerts = alerts.iter().map(|alert| PromotedAlert { alert: alert.id, from, params: params.clone() }).collect();
    let new = NewPromotion { tenant: Tenant::standard(), to: newer(), alerts, out_of_service: None };
    match store.begin_promotion(&new).await.unwrap() {
        BegunPromotion::Begun(id) => id,
        refused => panic!("{refused:?}"),
    }
}

async fn row(store: &Store, binding: BindingId) -> BindingRow {
    let changed = store.changes(0, 10_000).await.unwrap();
    changed.bindings.into_iter().find(|row| row.id == binding).unwrap()
}

fn saved(binding: BindingId, state: u8) -> SavedBinding {
    SavedBinding { binding, health: Health::default(), pace: None, state: vec![state; 3] }
}

/// Hands bindings over, each with a state and as it was armed, with a checkpoint at an offset and a revision.
async fn hand_over(store: &Store, claim: &Claim, (next_offset, revision): (u64, u64), bindings: &[(&BindingRow, u8)]) {
    let handoffs = bindings.iter().map(|(row, state)| Handoff {
        binding: row.id,
        armed_revision: row.armed_revision,
        saved: Some(saved(row.id, *state)),
    });
    let handoffs = handoffs.collect();
    let checkpoints = vec![Checkpoint { revision, handoffs, ..checkpoint(0, next_offset) }];
    store.commit(from_ref(claim), &Commit { checkpoints, ..Commit::default() }).await.unwrap();
}

async fn what_is_held_goes_back_at_once_and_what_is_not_handed_over_stays(backend: Backend) {
    let (_test_store, store, claim) = open(backend).await;
    store_rule(&store, &newer()).await;
    let alerts = [create(&store, 1).await, create(&store, 1).await];
    let [held, asked] = [alerts[0].bindings[0].id, alerts[1].bindings[0].id];
    let id = begin(&store, &alerts).await;
    let when_asked = row(&store, held).await;
    hand_over(&store, &claim, (7, when_asked.revision), &[(&when_asked, 1)]).await;
    let before = row(&store, asked).await;
    let unfinished = store.unfinished_promotion().await.unwrap().unwrap();
    assert_eq!((unfinished.held, unfinished.requested(), unfinished.to), (1, 1, newer()));
    assert_eq!(store.roll_back_promotion(id).await.unwrap(), Some(1));
    assert_eq!(store.roll_back_promotion(id).await.unwrap(), None);
    let held = row(&store, held).await;
    assert_eq!((held.handoff, held.revision), (HandoffState::None, held.armed_revision), "it is begun with again");
    assert_eq!((held.counts_from.unwrap().offset, held.resume.as_ref()), (7, Some(&saved(held.id, 1))));
    let asked = row(&store, asked).await;
    assert_eq!(
        (asked.handoff, asked.armed_revision),
        (HandoffState::None, before.armed_revision),
        "it is gone on with"
    );
    assert!(asked.revision > before.revision, "its evaluator hears that it keeps it");
    begin(&store, &alerts).await;
}

async fn a_handover_that_crosses_the_end_of_its_promotion_is_given_back_once(backend: Backend) {
    let (_test_store, store, claim) = open(backend).await;
    store_rule(&store, &newer()).await;
    let alerts = [create(&store, 1).await];
    let binding = alerts[0].bindings[0].id;
    let id = begin(&store, &alerts).await;
    let when_asked = row(&store, binding).await;
    store.roll_back_promotion(id).await.unwrap();
    let at = (7, when_asked.revision);
    hand_over(&store, &claim, at, &[(&when_asked, 1)]).await;
    let back = row(&store, binding).await;
    assert_eq!((back.handoff, back.revision), (HandoffState::None, back.armed_revision), "its evaluator has let it go");
    assert!(back.armed_revision > when_asked.armed_revision);
    assert_eq!((back.counts_from.unwrap().offset, back.resume.as_ref()), (7, Some(&saved(binding, 1))));
    assert!(*store.newest_revision().await.unwrap().borrow() >= back.revision, "and hears of it");

    // The same once more, as where the answer of the database was lost: it changes nothing, whatever came since.
    hand_over(&store, &claim, at, &[(&when_asked, 2)]).await;
    assert_eq!(row(&store, binding).await.resume, Some(saved(binding, 1)));
    let id = begin(&store, &alerts).await;
    hand_over(&store, &claim, at, &[(&when_asked, 2)]).await;
    let unfinished = store.unfinished_promotion().await.unwrap().unwrap();
    assert_eq!((unfinished.held, unfinished.requested()), (0, 1), "another promotion asks for it as it is now");
    let asked_again = row(&store, binding).await;
    let at = (9, asked_again.revision);
    hand_over(&store, &claim, at, &[(&asked_again, 3)]).await;
    store.stage_promotion(id, &[saved(binding, 4)]).await.unwrap();
    let finished = store.finish_promotion(id, MANY).await.unwrap();
    assert!(matches!(finished, FinishedPromotion::Finished(_)), "{finished:?}");
    hand_over(&store, &claim, at, &[(&back, 5), (&asked_again, 5)]).await;
    let moved = row(&store, binding).await;
    assert_eq!(
        (moved.rule, moved.resume.as_ref(), moved.handoff),
        (newer().digest, Some(&saved(binding, 4)), HandoffState::None)
    );
}

async fn a_binding_that_changes_again_while_others_are_read_is_begun_with_all_the_same(backend: Backend) {
    /// Alerts of one binding each, read so many at a time.
    const ALERTS: usize = 12;
    const PAGE: u32 = 4;
    let (_test_store, store, claim) = open(backend).await;
    store_rule(&store, &newer()).await;
    let mut alerts = Vec::new();
    for _ in 0..ALERTS {
        alerts.push(create(&store, 1).await);
    }
    let id = begin(&store, &alerts).await;
    let before = *store.newest_revision().await.unwrap().borrow();
    let mut rows = Vec::new();
    for alert in &alerts {
        rows.push((row(&store, alert.bindings[0].id).await, 1));
    }
    hand_over(&store, &claim, (7, before), &rows.iter().map(|(row, state)| (row, *state)).collect::<Vec<_>>()).await;
    // In quarantine: so they may be unquarantined.
    let faults = alerts.iter().map(|alert| fault(&alert.rule, alert.id, alert.bindings[0].id, 3, true)).collect();
    store.commit(from_ref(&claim), &Commit { faults, ..Commit::default() }).await.unwrap();
    store.roll_back_promotion(id).await.unwrap();
    let (mut after, mut armed, mut unquarantined) = (before, BTreeSet::new(), BTreeSet::new());
    let mut pages = 0;
    loop {
        let changed = store.changes(after, PAGE).await.unwrap();
        let is_new = |revision| (after + 1..=changed.revision).contains(&revision);
        assert!(changed.bindings.len() <= 2 * PAGE as usize);
        for row in &changed.bindings {
            assert!(is_new(row.revision) || is_new(row.armed_revision), "{row:?}");
            if is_new(row.armed_revision) {
                assert!(armed.insert(row.id), "begun with twice: {row:?}");
            }
            if row.unquarantine_due && is_new(row.revision) {
                assert!(armed.contains(&row.id), "unquarantined before it was begun with: {row:?}");
                unquarantined.insert(row.id);
            }
        }
        if changed.revision == after {
            break;
        }
        after = changed.revision;
        // Some that are on no page so far, among others that stay as they are.
        if pages < 2 {
            let alert = &alerts[7 + 2 * pages];
            let one = store.unquarantine(&alert.tenant, alert.id, None).await.unwrap();
            assert!(matches!(one, Unquarantined::Unquarantined(_)), "{one:?}");
        }
        pages += 1;
    }
    let all: BTreeSet<BindingId> = alerts.iter().map(|alert| alert.bindings[0].id).collect();
    assert_eq!((armed, unquarantined.len()), (all, 2));
}
