//! The outbox: filled where that is asked for, leased in order, and emptied by whoever holds the lease.

use super::*;
use crate::store::OutboxLease;
use crate::store::testing::on_each_member;

on_each_member!(only_who_asks_fills_it, leases_run_out_and_only_their_holder_acknowledges);

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
    let alert = create(&store, 1).await;
    let made: Vec<Firing> = (0..5).map(|offset| firing(&alert, alert.bindings[0].id, offset)).collect();
    fire_into_outbox(&store, &claim, made).await;
    let take = async |owner: &str, limit, now_ms| -> Vec<u64> {
        store.lease_outbox(&lease(owner), limit, now_ms).await.unwrap().into_iter().map(|(seq, _)| seq).collect()
    };
    let all: Vec<u64> =
        store.firings(&alert.tenant, None, 0, 10).await.unwrap().into_iter().map(|(seq, _)| seq).collect();
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
