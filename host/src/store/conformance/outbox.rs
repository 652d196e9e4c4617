//! The outbox: filled where that is asked for, leased in order, and emptied by whoever holds the lease.

use super::*;
use crate::store::OutboxLease;
use crate::store::testing::on_each_member;

on_each_member!(
    only_who_asks_fills_it,
    leases_run_out_and_only_their_holder_acknowledges,
    an_alerts_firings_are_told_by_one_at_a_time,
    leases_are_renewed_and_released,
);

fn lease(owner: &str) -> OutboxLease {
    OutboxLease { owner: owner.into(), duration_ms: 1_000 }
}

async fn fire_into_outbox(store: &Store, claim: &Claim, firings: Vec<Firing>) -> u64 {
    let firings = firings.into_iter().map(|firing| (firing, false)).collect();
    store.commit(from_ref(claim), &Commit { firings, outbox: true, ..Commit::default() }).await.unwrap()
}

async fn only_who_asks_fills_it(member: Member) {
    let (_home, store, claim) = open(member).await;
    let alert = create(&store, 1).await;
    let made = |offset| firing(&alert, alert.bindings[0].id, offset);
    fire(&store, &claim, [made(1)]).await;
    assert_eq!(store.lease_outbox(&lease("a"), 10, 0).await.unwrap(), []);
    // The first is recorded already: whoever recorded it did not want it told.
    assert_eq!(fire_into_outbox(&store, &claim, vec![made(1), made(2)]).await, 1);
    let leased = store.lease_outbox(&lease("a"), 10, 0).await.unwrap();
    assert_eq!(leased.into_iter().map(|(_, firing)| firing).collect::<Vec<_>>(), [made(2)]);
}

async fn leases_run_out_and_only_their_holder_acknowledges(member: Member) {
    let (_home, store, claim) = open(member).await;
    let mut made = Vec::new();
    for offset in 0..5 {
        let alert = create(&store, 1).await;
        made.push(firing(&alert, alert.bindings[0].id, offset));
    }
    let tenant = made[0].tenant.clone();
    fire_into_outbox(&store, &claim, made).await;
    let take = async |owner: &str, limit, now_ms| -> Vec<u64> {
        store.lease_outbox(&lease(owner), limit, now_ms).await.unwrap().into_iter().map(|(seq, _)| seq).collect()
    };
    let all: Vec<u64> = store.firings(&tenant, None, 0, 10).await.unwrap().into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(take("a", 2, 100).await, all[..2]);
    assert_eq!(take("b", 2, 101).await, all[2..4]);
    assert_eq!(store.ack_outbox("b", &all[..3]).await.unwrap(), 1, "two are leased to another");
    // At 1,100 the first lease has run out, and the second has not.
    assert_eq!(take("c", 10, 1_100).await, [all[0], all[1], all[4]]);
    assert_eq!(store.ack_outbox("a", &all[..2]).await.unwrap(), 0, "too late: another tells them");
    assert_eq!(store.ack_outbox("c", &[all[0], all[1], all[4]]).await.unwrap(), 3);
    assert_eq!(take("d", 10, 10_000).await, all[3..4]);
    assert_eq!(store.ack_outbox("d", &all).await.unwrap(), 1);
    assert_eq!(take("d", 10, 20_000).await, Vec::<u64>::new());
}

async fn an_alerts_firings_are_told_by_one_at_a_time(member: Member) {
    let (_home, store, claim) = open(member).await;
    let (one, two) = (create(&store, 2).await, create(&store, 1).await);
    let made = [(&one, 0, 1), (&one, 1, 2), (&two, 0, 3), (&one, 0, 4), (&two, 0, 5)];
    let made = made.map(|(alert, symbol, offset)| firing(alert, alert.bindings[symbol].id, offset));
    fire_into_outbox(&store, &claim, made.to_vec()).await;
    let take = async |owner: &str, limit, now_ms| -> Vec<(u64, u64)> {
        let leased = store.lease_outbox(&lease(owner), limit, now_ms).await.unwrap();
        leased.into_iter().map(|(seq, firing)| (seq, firing.position.offset)).collect()
    };
    let offsets = |leased: &[(u64, u64)]| leased.iter().map(|(_, offset)| *offset).collect::<Vec<_>>();
    let of_a = take("a", 1, 0).await;
    assert_eq!(offsets(&of_a), [1]);
    assert_eq!(offsets(&take("b", 10, 0).await), [3, 5], "those of the other alert");
    assert_eq!(offsets(&take("c", 10, 999).await), [0_u64; 0]);
    assert_eq!(store.ack_outbox("a", &[of_a[0].0]).await.unwrap(), 1);
    assert_eq!(offsets(&take("c", 10, 999).await), [2, 4]);
    assert_eq!(offsets(&take("d", 10, 1_000).await), [3, 5], "whose lease has run out");
}

async fn leases_are_renewed_and_released(member: Member) {
    let (_home, store, claim) = open(member).await;
    let alert = create(&store, 1).await;
    let made = (0..2).map(|offset| firing(&alert, alert.bindings[0].id, offset)).collect();
    fire_into_outbox(&store, &claim, made).await;
    let take = async |owner: &str, now_ms| store.lease_outbox(&lease(owner), 10, now_ms).await.unwrap().len();
    assert_eq!(take("a", 0).await, 2);
    store.renew_outbox(&lease("b"), 500).await.unwrap();
    store.renew_outbox(&lease("a"), 500).await.unwrap();
    assert_eq!(take("b", 1_499).await, 0);
    store.release_outbox("b").await.unwrap();
    assert_eq!(take("b", 1_499).await, 0, "only its owner releases it");
    store.release_outbox("a").await.unwrap();
    store.renew_outbox(&lease("a"), 1_499).await.unwrap();
    assert_eq!(take("b", 1_499).await, 2, "what is released is not renewed");
}
