//! The outbox: filled where that is asked for, leased in order, and emptied by whoever owns the alert.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::*;
use crate::OutboxLease;
use crate::testing::on_each_backend;

on_each_backend!(
    only_who_asks_fills_it,
    leases_run_out_and_only_an_alerts_owner_acknowledges,
    an_alerts_firings_are_delivered_by_one_owner_at_a_time,
    leases_are_renewed_in_time_or_not_at_all,
    whatever_deliverers_do_at_once_an_alerts_firings_are_published_in_their_order,
);

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);

fn lease(owner: &str) -> OutboxLease {
    OutboxLease { owner: owner.into(), duration: LONG }
}

/// A lease that has run out once it is given.
fn spent(owner: &str) -> OutboxLease {
    OutboxLease { owner: owner.into(), duration: Duration::ZERO }
}

async fn fire_into_outbox(store: &Store, claim: &Claim, firings: Vec<Firing>) -> u64 {
    let firings = firings.into_iter().map(|firing| (firing, false)).collect();
    store.commit(from_ref(claim), &Commit { firings, outbox: true, ..Commit::default() }).await.unwrap()
}

/// The sequence numbers and offsets of what is leased.
async fn take(store: &Store, lease: &OutboxLease, limit: u32) -> Vec<(u64, u64)> {
    let leased = store.lease_outbox(lease, limit).await.unwrap();
    leased.into_iter().map(|(seq, firing)| (seq, firing.position.offset)).collect()
}

fn offsets(leased: &[(u64, u64)]) -> Vec<u64> {
    leased.iter().map(|(_, offset)| *offset).collect()
}

fn numbers(leased: &[(u64, u64)]) -> Vec<u64> {
    leased.iter().map(|(seq, _)| *seq).collect()
}

async fn only_who_asks_fills_it(backend: Backend) {
    let (_test_store, store, claim) = open(backend).await;
    let alert = create(&store, 1).await;
    let made = |offset| firing(&alert, alert.bindings[0].id, offset);
    fire(&store, &claim, [made(1)]).await;
    assert_eq!(store.lease_outbox(&lease("a"), 10).await.unwrap(), []);
    // The first is recorded already: whoever recorded it did not want it delivered.
    assert_eq!(fire_into_outbox(&store, &claim, vec![made(1), made(2)]).await, 1);
    let leased = store.lease_outbox(&lease("a"), 10).await.unwrap();
    assert_eq!(leased.into_iter().map(|(_, firing)| firing).collect::<Vec<_>>(), [made(2)]);
}

async fn leases_run_out_and_only_an_alerts_owner_acknowledges(backend: Backend) {
    let (_test_store, store, claim) = open(backend).await;
    let mut made = Vec::new();
    for offset in 0..5 {
        let alert = create(&store, 1).await;
        made.push(firing(&alert, alert.bindings[0].id, offset));
    }
    fire_into_outbox(&store, &claim, made).await;
    let of_a = take(&store, &spent("a"), 2).await;
    assert_eq!(offsets(&of_a), [0, 1]);
    let of_b = take(&store, &lease("b"), 3).await;
    assert_eq!(offsets(&of_b), [0, 1, 2], "those of the lease that has run out first");
    assert_eq!(store.ack_outbox("a", &numbers(&of_a)).await.unwrap(), 0, "too late: another delivers them");
    let of_c = take(&store, &spent("c"), 10).await;
    assert_eq!(offsets(&of_c), [3, 4]);
    assert_eq!(store.ack_outbox("b", &[numbers(&of_b), numbers(&of_c)].concat()).await.unwrap(), 3);
    assert_eq!(store.ack_outbox("c", &numbers(&of_c)).await.unwrap(), 2, "run out, and still its own");
    assert_eq!(take(&store, &lease("d"), 10).await, []);
}

async fn an_alerts_firings_are_delivered_by_one_owner_at_a_time(backend: Backend) {
    let (_test_store, store, claim) = open(backend).await;
    let (one, two) = (create(&store, 2).await, create(&store, 1).await);
    let made = [(&one, 0, 1), (&one, 1, 2), (&two, 0, 3), (&one, 0, 4), (&two, 0, 5)];
    let made = made.map(|(alert, symbol, offset)| firing(alert, alert.bindings[symbol].id, offset));
    fire_into_outbox(&store, &claim, made.to_vec()).await;
    let of_a = take(&store, &lease("a"), 1).await;
    assert_eq!(offsets(&of_a), [1]);
    assert_eq!(offsets(&take(&store, &spent("b"), 10).await), [3, 5], "those of the other alert");
    assert_eq!(offsets(&take(&store, &lease("c"), 1).await), [3], "whose lease has run out");
    assert_eq!(take(&store, &lease("d"), 10).await, [], "also of what its owner has not leased");
    assert_eq!(store.ack_outbox("a", &numbers(&of_a)).await.unwrap(), 1);
    assert_eq!(offsets(&take(&store, &lease("d"), 10).await), [2, 4]);
}

async fn leases_are_renewed_in_time_or_not_at_all(backend: Backend) {
    let (_test_store, store, claim) = open(backend).await;
    let (one, two) = (create(&store, 1).await, create(&store, 1).await);
    let made = [(&one, 0), (&one, 1), (&two, 2)].map(|(alert, offset)| firing(alert, alert.bindings[0].id, offset));
    fire_into_outbox(&store, &claim, made.to_vec()).await;
    let before = OutboxLease { owner: "a".into(), duration: Duration::from_secs(60) };
    assert_eq!(take(&store, &before, 2).await.len(), 2);
    assert_eq!(store.renew_outbox(&lease("b")).await.unwrap(), 0, "it owns nothing");
    assert_eq!(store.renew_outbox(&spent("a")).await.unwrap(), 1, "in time");
    assert_eq!(store.renew_outbox(&lease("a")).await.unwrap(), 0, "it has run out");
    assert_eq!(offsets(&take(&store, &lease("b"), 10).await), [0, 1, 2]);
    assert_eq!(store.renew_outbox(&lease("a")).await.unwrap(), 0, "it is another's");
    assert_eq!(store.renew_outbox(&lease("b")).await.unwrap(), 2, "both alerts");
    store.release_outbox("a").await.unwrap();
    assert_eq!(take(&store, &lease("c"), 10).await, [], "only its owner releases it");
    store.release_outbox("b").await.unwrap();
    assert_eq!(store.renew_outbox(&lease("b")).await.unwrap(), 0, "what is released is not renewed");
    assert_eq!(take(&store, &lease("c"), 10).await.len(), 3);
}

async fn whatever_deliverers_do_at_once_an_alerts_firings_are_published_in_their_order(backend: Backend) {
    const FIRINGS: u64 = 300;
    let (_test_store, store, claim) = open(backend).await;
    let alert = create(&store, 1).await;
    let made = (0..FIRINGS).map(|offset| firing(&alert, alert.bindings[0].id, offset)).collect();
    fire_into_outbox(&store, &claim, made).await;
    let (published, acknowledged) = (Mutex::new(Vec::new()), AtomicU64::new(0));
    // Leases so short that they run out while they are renewed, acknowledged and taken by others.
    let deliver = async |owner: String, milliseconds| {
        let lease = OutboxLease { owner: owner.clone(), duration: Duration::from_millis(milliseconds) };
        while acknowledged.load(Relaxed) < FIRINGS {
            let batch = take(&store, &lease, 7).await;
            published.lock().unwrap().extend(offsets(&batch));
            let batch = numbers(&batch);
            let (renewed, gone) = tokio::join!(store.renew_outbox(&lease), store.ack_outbox(&owner, &batch));
            assert!(renewed.unwrap() <= 1);
            acknowledged.fetch_add(gone.unwrap(), Relaxed);
        }
    };
    futures_util::future::join_all((1..=4).map(|n| deliver(format!("deliverer-{n}"), n * 2))).await;
    assert_eq!(acknowledged.into_inner(), FIRINGS, "each leaves the outbox once");
    let mut next = 0;
    for offset in published.into_inner().unwrap() {
        assert!(offset <= next, "{offset} was published before {next}");
        next = next.max(offset + 1);
    }
}
