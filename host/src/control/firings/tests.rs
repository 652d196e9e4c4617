//! Streams of firings over a real store: what they are handed, and when they read it themselves.

use std::collections::VecDeque;
use std::time::Duration;

use tocsin_engine::domain::{Alert, BindingId};
use tocsin_store::testing::samples::{create, firing, open};
use tocsin_store::testing::{Backend, TestStore};
use tocsin_store::{Claim, Commit, Store};
use tokio::time::timeout;

use super::*;

struct Firings {
    _test_store: TestStore,
    store: Store,
    claim: Claim,
    alerts: [Alert; 2],
    tail: Tail,
}

impl Firings {
    async fn make() -> Self {
        let (test_store, store, claim) = open(Backend::Sqlite).await;
        let alerts = [create(&store, 1).await, create(&store, 1).await];
        let tail = Tail::new(store.clone());
        Self { _test_store: test_store, store, claim, alerts, tail }
    }

    /// Records firings of both alerts in turn, at each of these offsets.
    async fn fire(&self, offsets: std::ops::Range<u64>) {
        let firings = offsets.map(|offset| {
            let alert = &self.alerts[offset as usize % 2];
            let binding: BindingId = alert.bindings[0].id;
            (firing(alert, binding, offset), false)
        });
        let commit = Commit { firings: firings.collect(), ..Commit::default() };
        let expect = commit.firings.len() as u64;
        assert_eq!(self.store.commit(std::slice::from_ref(&self.claim), &commit).await.unwrap(), expect);
    }

    /// A stream behind a sequence number, or of new firings only.
    async fn watch(&self, alert: Option<usize>, after: Option<u64>) -> Watch {
        let tail::Subscription { firings: live, after: live_after } = self.tail.subscribe().await.unwrap();
        Watch {
            tail: self.tail.clone(),
            tenant: Tenant::standard(),
            alert: alert.map(|at| self.alerts[at].id),
            after: after.unwrap_or(live_after),
            live,
            is_behind: after.is_some_and(|after| after < live_after),
            read: VecDeque::new(),
        }
    }
}

/// The offsets of the next firings.
async fn next(watch: &mut Watch, count: usize) -> Vec<u64> {
    let mut offsets = Vec::new();
    for _ in 0..count {
        let next = timeout(Duration::from_secs(60), watch.next()).await.expect("a firing in time");
        offsets.push(next.unwrap().expect("the stream goes on").firing.position.offset);
    }
    offsets
}

fn offsets(range: std::ops::Range<u64>) -> Vec<u64> {
    range.collect()
}

#[tokio::test]
async fn streams_that_keep_up_are_handed_firings_and_read_nothing() {
    let firings = Firings::make().await;
    let (mut all, mut odd) = (firings.watch(None, None).await, firings.watch(Some(1), None).await);
    let _none_catches_up = firings.tail.forbid_catching_up().await;
    firings.fire(0..10).await;
    firings.fire(10..20).await;
    assert_eq!(next(&mut all, 20).await, offsets(0..20));
    assert_eq!(next(&mut odd, 10).await, (0..20).filter(|offset| offset % 2 == 1).collect::<Vec<_>>());
    let mut late = firings.watch(None, None).await;
    firings.fire(20..21).await;
    assert_eq!(next(&mut late, 1).await, [20], "new ones only");
}

#[tokio::test]
async fn a_firing_is_written_as_text_once_for_all_streams() {
    let firings = Firings::make().await;
    let mut watches = [firings.watch(None, None).await, firings.watch(None, None).await];
    firings.fire(0..1).await;
    for (watch, expect) in watches.iter_mut().zip(["first", "first"]) {
        let recorded = watch.next().await.unwrap().unwrap();
        assert_eq!(recorded.text(|_| expect.to_owned()), "first");
    }
}

#[tokio::test]
async fn a_stream_that_falls_behind_catches_up_and_misses_none() {
    let firings = Firings::make().await;
    let (mut slow, mut odd) = (firings.watch(None, None).await, firings.watch(Some(1), None).await);
    // More than can wait for them.
    const COUNT: u64 = 10_000;
    for begin in (0..COUNT).step_by(1_000) {
        firings.fire(begin..begin + 1_000).await;
    }
    let mut quick = firings.watch(None, Some(0)).await;
    while *firings.store.newest_firing().await.unwrap().borrow() < COUNT {}
    assert_eq!(next(&mut slow, COUNT as usize).await, offsets(0..COUNT));
    assert_eq!(next(&mut odd, COUNT as usize / 2).await, (1..COUNT).step_by(2).collect::<Vec<_>>());
    assert_eq!(next(&mut quick, COUNT as usize).await, offsets(0..COUNT));
    firings.fire(COUNT..COUNT + 2).await;
    assert_eq!(next(&mut slow, 2).await, [COUNT, COUNT + 1]);
    assert_eq!(next(&mut odd, 1).await, [COUNT + 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_begin_anywhere_while_firings_are_recorded_and_none_is_missed_or_doubled() {
    let firings = Arc::new(Firings::make().await);
    const COUNT: u64 = 600;
    let recording = tokio::spawn({
        let firings = firings.clone();
        async move {
            for begin in (0..COUNT).step_by(3) {
                firings.fire(begin..begin + 3).await;
            }
        }
    });
    let mut reading = Vec::new();
    for round in 0..60 {
        let newest = *firings.store.newest_firing().await.unwrap().borrow();
        // Behind any firing so far, at the newest, and before all.
        let after = [newest.saturating_sub(round * 7), newest, 0][round as usize % 3];
        let mut watch = firings.watch(None, Some(after)).await;
        reading.push(tokio::spawn(async move {
            // Sequence numbers begin at 1, offsets at 0.
            assert_eq!(next(&mut watch, (COUNT - after) as usize).await, offsets(after..COUNT), "behind {after}");
        }));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    recording.await.unwrap();
    for reader in reading {
        reader.await.unwrap();
    }
}

#[tokio::test]
async fn the_reader_behind_streams_keeps_nothing_alive() {
    let firings = Firings::make().await;
    let watch = firings.watch(None, None).await;
    let mut newest = firings.store.newest_firing().await.unwrap();
    drop((watch, firings));
    // Fails once the store is gone.
    timeout(Duration::from_secs(60), newest.changed()).await.expect("it ends").unwrap_err();
}
