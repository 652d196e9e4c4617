//! Locks with a lease: one holder at a time, until it ends or is released. An hour passes in no test, and 0 ms in each.

use std::time::Duration;

use super::*;
use crate::testing::on_each_backend;
use crate::{Lease, Leased};

on_each_backend!(
    one_of_two_gets_it,
    what_has_run_out_is_taken_over_and_its_former_owner_renews_too_late,
    what_is_released_is_free_at_once,
    of_many_at_once_one_gets_it,
);

const LONG: Duration = Duration::from_secs(3_600);

fn lease(owner: &str, duration: Duration) -> Lease {
    Lease { name: "feed".into(), owner: owner.into(), duration }
}

fn held_by(owner: &str) -> Leased {
    Leased::HeldBy(owner.into())
}

async fn one_of_two_gets_it(backend: Backend) {
    let (_test_store, store, _) = open(backend).await;
    let (a, b) = (lease("a", LONG), lease("b", LONG));
    assert_eq!(store.acquire_lease(&a).await.unwrap(), Leased::Held);
    assert_eq!(store.acquire_lease(&b).await.unwrap(), held_by("a"));
    assert!(!store.renew_lease(&b).await.unwrap());
    assert!(store.renew_lease(&a).await.unwrap());
    assert_eq!(store.acquire_lease(&a).await.unwrap(), Leased::Held, "its answer may have been lost");
    let other = Lease { name: "other".into(), ..b };
    assert_eq!(store.acquire_lease(&other).await.unwrap(), Leased::Held, "by name");
}

async fn what_has_run_out_is_taken_over_and_its_former_owner_renews_too_late(backend: Backend) {
    let (_test_store, store, _) = open(backend).await;
    let (short, b) = (lease("a", Duration::ZERO), lease("b", LONG));
    assert_eq!(store.acquire_lease(&short).await.unwrap(), Leased::Held);
    assert!(!store.renew_lease(&lease("a", LONG)).await.unwrap(), "it has run out, though nobody has it");
    assert_eq!(store.acquire_lease(&b).await.unwrap(), Leased::Held);
    assert!(!store.renew_lease(&lease("a", LONG)).await.unwrap());
    assert_eq!(store.acquire_lease(&lease("a", LONG)).await.unwrap(), held_by("b"));
    // A renewal counts from itself: this one ends the lease.
    assert!(store.renew_lease(&lease("b", Duration::ZERO)).await.unwrap());
    assert_eq!(store.acquire_lease(&lease("a", LONG)).await.unwrap(), Leased::Held);
}

async fn what_is_released_is_free_at_once(backend: Backend) {
    let (_test_store, store, _) = open(backend).await;
    let (a, b) = (lease("a", LONG), lease("b", LONG));
    assert_eq!(store.acquire_lease(&a).await.unwrap(), Leased::Held);
    store.release_lease(&b).await.unwrap();
    assert_eq!(store.acquire_lease(&b).await.unwrap(), held_by("a"), "only its owner releases it");
    store.release_lease(&a).await.unwrap();
    store.release_lease(&a).await.unwrap();
    assert!(!store.renew_lease(&a).await.unwrap());
    assert_eq!(store.acquire_lease(&b).await.unwrap(), Leased::Held);
}

async fn of_many_at_once_one_gets_it(backend: Backend) {
    let (_test_store, store, _) = open(backend).await;
    let ask = async |n: usize| store.acquire_lease(&lease(&n.to_string(), LONG)).await.unwrap();
    let answers = futures_util::future::join_all((0..20).map(ask)).await;
    assert_eq!(answers.iter().filter(|answer| **answer == Leased::Held).count(), 1, "{answers:?}");
}
