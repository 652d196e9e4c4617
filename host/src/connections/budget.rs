//! The budget of connections: so many may be open, on all ports together.
//!
//! An idle connection makes room for a new one. So sockets that are opened and left silent, however many, do not keep out a
//! client that sends requests: only connections with requests under way keep their places, and the budget bounds their
//! number. Connections that never had a request go before those that had one, and the longest idle first.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long a connection that is closed to make room may take to go. Its task has nothing to do but to drop it.
const EVICTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Places of connections. Cloning is cheap.
#[derive(Clone)]
pub struct Budget(Arc<Inner>);

struct Inner {
    max: u32,
    room: Arc<Semaphore>,
    idle: Mutex<Idle>,
    evicted: AtomicU64,
    refused: AtomicU64,
    last_refused: Mutex<Option<Instant>>,
}

/// Connections without a request under way, in the order in which they make room.
#[derive(Default)]
struct Idle {
    next: u64,
    waiting: BTreeMap<Turn, CancellationToken>,
}

/// When an idle connection makes room: the smallest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    had_request: bool,
    since: u64,
}

/// The place of one connection, free again when this is dropped. It stands with the socket itself, so that it is freed no
/// sooner than the file descriptor, whatever becomes of the connection.
pub struct Place {
    activity: Activity,
    _permit: OwnedSemaphorePermit,
}

/// What a connection does at this moment. Cloning is cheap.
#[derive(Clone)]
pub struct Activity(Arc<Shared>);

struct Shared {
    budget: Arc<Inner>,
    evicted: CancellationToken,
    requests: Mutex<Requests>,
}

struct Requests {
    under_way: u32,
    had_one: bool,
    closed: bool,
    turn: Option<Turn>,
}

/// A request under way: its connection is not idle until this is dropped.
pub struct Request(Activity);

impl Budget {
    /// Creates places for `max` connections.
    pub fn new(max: u32) -> Self {
        Self(Arc::new(Inner {
            max,
            room: Arc::new(Semaphore::new(max as usize)),
            idle: Mutex::default(),
            evicted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            last_refused: Mutex::default(),
        }))
    }

    /// Returns a place for a connection, taken from an idle one if need be; None, which is counted, if none is idle.
    pub async fn admit(&self) -> Option<Place> {
        if let Ok(permit) = self.0.room.clone().try_acquire_owned() {
            return Some(self.place(permit));
        }
        if let Some(idle) = self.0.longest_idle() {
            idle.cancel();
            self.0.evicted.fetch_add(1, Relaxed);
            if let Ok(Ok(permit)) = timeout(EVICTION_TIMEOUT, self.0.room.clone().acquire_owned()).await {
                return Some(self.place(permit));
            }
        }
        self.0.refused.fetch_add(1, Relaxed);
        *lock(&self.0.last_refused) = Some(Instant::now());
        None
    }

    fn place(&self, permit: OwnedSemaphorePermit) -> Place {
        let evicted = CancellationToken::new();
        let turn = self.0.wait(false, &evicted);
        let requests = Requests { under_way: 0, had_one: false, closed: false, turn: Some(turn) };
        let shared = Shared { budget: self.0.clone(), evicted, requests: Mutex::new(requests) };
        Place { activity: Activity(Arc::new(shared)), _permit: permit }
    }

    /// The most connections.
    pub fn max(&self) -> u64 {
        self.0.max.into()
    }

    /// Connections that are open.
    pub fn open(&self) -> u64 {
        self.max() - self.0.room.available_permits() as u64
    }

    /// Idle connections that were closed to make room.
    pub fn evicted(&self) -> u64 {
        self.0.evicted.load(Relaxed)
    }

    /// Connections that there was no place for.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Relaxed)
    }

    pub(super) fn last_refused(&self) -> Option<Instant> {
        *lock(&self.0.last_refused)
    }
}

impl Inner {
    /// Puts a connection behind the idle ones of its kind.
    fn wait(&self, had_request: bool, evicted: &CancellationToken) -> Turn {
        let mut idle = lock(&self.idle);
        let turn = Turn { had_request, since: idle.next };
        idle.next += 1;
        idle.waiting.insert(turn, evicted.clone());
        turn
    }

    fn longest_idle(&self) -> Option<CancellationToken> {
        lock(&self.idle).waiting.pop_first().map(|(_, evicted)| evicted)
    }

    fn wait_no_more(&self, turn: Option<Turn>) {
        if let Some(turn) = turn {
            lock(&self.idle).waiting.remove(&turn);
        }
    }
}

impl Place {
    /// Returns what the connection does, for its server to keep up to date.
    pub fn activity(&self) -> Activity {
        self.activity.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Shared { budget, requests, .. } = &*self.activity.0;
        let mut requests = lock(requests);
        requests.closed = true;
        budget.wait_no_more(requests.turn.take());
    }
}

impl Activity {
    /// Marks the connection as busy until what this returns is dropped.
    pub fn begin(&self) -> Request {
        let mut requests = lock(&self.0.requests);
        requests.under_way += 1;
        requests.had_one = true;
        self.0.budget.wait_no_more(requests.turn.take());
        drop(requests);
        Request(self.clone())
    }

    /// Returns whether the connection has had a request.
    pub fn has_had_request(&self) -> bool {
        lock(&self.0.requests).had_one
    }

    /// Waits until the connection is to be dropped, to make room for another.
    pub async fn evicted(&self) {
        self.0.evicted.cancelled().await;
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let Shared { budget, evicted, requests } = &*self.0.0;
        let mut requests = lock(requests);
        requests.under_way -= 1;
        if requests.under_way == 0 && !requests.closed {
            requests.turn = Some(budget.wait(true, evicted));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::*;

    /// A connection that is dropped when it is to make room, as one that is served.
    fn serve(place: Place) -> JoinHandle<()> {
        tokio::spawn(async move {
            let activity = place.activity();
            activity.evicted().await;
            drop(place);
        })
    }

    #[tokio::test]
    async fn the_longest_idle_makes_room_and_one_with_a_request_does_not() {
        let budget = Budget::new(4);
        let mut places = Vec::new();
        for _ in 0..4 {
            places.push(budget.admit().await.unwrap());
        }
        let [busy, served, silent, last] = [0, 1, 2, 3].map(|at: usize| places[at].activity());
        let request = busy.begin();
        drop(served.begin());
        assert!(busy.has_had_request() && served.has_had_request() && !silent.has_had_request());
        let mut serving = places.into_iter().map(serve);
        let (busy, served) = (serving.next().unwrap(), serving.next().unwrap());
        let (silent, last) = (serving.next().unwrap(), (last, serving.next().unwrap()));
        // The first that never had a request, then the other one, then the one that had.
        let mut new = vec![budget.admit().await.unwrap()];
        silent.await.unwrap();
        new[0].activity().begin().0.0.evicted.is_cancelled();
        let kept = new[0].activity().begin();
        assert!(!last.1.is_finished());
        new.push(budget.admit().await.unwrap());
        last.1.await.unwrap();
        let also_kept = new[1].activity().begin();
        new.push(budget.admit().await.unwrap());
        served.await.unwrap();
        let third = new[2].activity().begin();
        assert!(budget.admit().await.is_none(), "all have a request under way");
        assert_eq!((budget.open(), budget.evicted(), budget.refused()), (4, 3, 1));
        assert!(!busy.is_finished());
        drop(request);
        assert!(budget.admit().await.is_some());
        busy.await.unwrap();
        drop((kept, also_kept, third));
    }

    #[tokio::test]
    async fn a_request_that_outlives_its_connection_leaves_nothing_behind() {
        let budget = Budget::new(1);
        let place = budget.admit().await.unwrap();
        let activity = place.activity();
        let request = activity.begin();
        drop(place);
        drop(request);
        assert!(lock(&budget.0.idle).waiting.is_empty());
        assert_eq!(budget.open(), 0);
        drop(budget.admit().await.unwrap());
        assert!(lock(&budget.0.idle).waiting.is_empty());
    }

    #[tokio::test]
    async fn two_requests_at_once_are_two() {
        let budget = Budget::new(1);
        let place = budget.admit().await.unwrap();
        let (first, second) = (place.activity().begin(), place.activity().begin());
        drop(first);
        assert!(budget.admit().await.is_none());
        let serving = serve(place);
        drop(second);
        assert!(budget.admit().await.is_some());
        serving.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_does_not_go_is_waited_for_only_so_long() {
        let budget = Budget::new(1);
        let stuck = budget.admit().await.unwrap();
        assert!(budget.admit().await.is_none());
        assert_eq!((budget.evicted(), budget.refused(), budget.open()), (1, 1, 1));
        drop(stuck);
    }
}
