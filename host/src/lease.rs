//! What only one process does at a time: work that goes on while a lock with a lease in the store is held.
//!
//! Who holds the lock renews it. Who cannot stops before the lease ends, by a clock that cannot be set, counted from before
//! the request: so two never work at once, whatever became of the answer. A process that was stopped and goes on finds out
//! before it works on.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tocsin_base::retry::{RetryPolicy, Waits};
use tocsin_health::Component;
use tocsin_store::{Lease, Leased, Store, StoreError};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};

/// How long a lock outlives its holder's last word: so soon another takes over.
pub const LEASE: Duration = Duration::from_secs(5);

/// How often it is renewed: several tries fit into a lease.
pub const RENEW_EVERY: Duration = Duration::from_secs(1);

/// Work is asked to end so long before its lease does: closing a feed's connection takes 1 s at most.
const END_AHEAD: Duration = Duration::from_secs(2);

/// How long a release may take; without it the lease ends by itself.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// The time for which a lock is held for sure.
struct Tenure {
    until: Mutex<Instant>,
    ended: CancellationToken,
}

impl Tenure {
    fn extend(&self, asked: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = asked + LEASE - END_AHEAD;
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs work that ends when `ended` is cancelled. It never goes on past the tenure without that.
    async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            if Instant::now() >= self.until() {
                self.ended.cancel();
            }
            work.as_mut().poll(context)
        })
        .await
    }
}

/// A lock for one piece of work, renewed until it is released. Its holder reports that; it ends no other process's work: a piece
/// of work that takes longer than its holder can renew must find out in the store that another has taken over.
pub struct Held {
    store: Store,
    lock: Lease,
    _renewing: AbortOnDropHandle<()>,
}

impl Held {
    /// Asks once; None if another process holds it.
    pub async fn acquire(store: &Store, lock: Lease) -> Result<Option<Self>, StoreError> {
        if store.acquire_lease(&lock).await? != Leased::Held {
            return Ok(None);
        }
        let (renewed, of) = (lock.clone(), store.clone());
        let renewing = tokio::spawn(async move {
            loop {
                sleep(RENEW_EVERY).await;
                if let Err(error) = of.renew_lease(&renewed).await {
                    debug!(lock = renewed.name, %error, "a lock is not renewed");
                }
            }
        });
        Ok(Some(Self { store: store.clone(), lock, _renewing: AbortOnDropHandle::new(renewing) }))
    }

    /// Lets others have it at once.
    pub async fn release(self) {
        let Self { store, lock, _renewing: renewing } = self;
        drop(renewing);
        release(&store, &lock).await;
    }
}

async fn release(store: &Store, lock: &Lease) {
    if !matches!(timeout(RELEASE_TIMEOUT, store.release_lease(lock)).await, Ok(Ok(()))) {
        warn!(lock = lock.name, "a lock could not be released: others wait until its lease ends");
    }
}

/// Does `work` whenever the lock is held, until `stop` is cancelled or the work fails. The work must look at its token before
/// anything else, and end soon when it is cancelled: it is called again once the lock is held anew.
pub async fn while_held<E, W: Future<Output = Result<(), E>>>(
    store: &Store,
    lock: &Lease,
    component: &Component,
    stop: &CancellationToken,
    work: impl Fn(CancellationToken) -> W,
) -> Result<(), E> {
    let mut waiting = Waiting::new(lock, component);
    while !stop.is_cancelled() {
        let asked = Instant::now();
        let wait = match timeout(LEASE, store.acquire_lease(lock)).await {
            Ok(Ok(Leased::Held)) => {
                waiting.over();
                hold(store, lock, asked, stop, &work).await?;
                continue;
            }
            Ok(Ok(Leased::HeldBy(owner))) => waiting.for_owner(owner),
            Ok(Err(error)) => waiting.for_store(&error.to_string()),
            Err(_) => waiting.for_store("the store does not answer"),
        };
        stop.run_until_cancelled(sleep(wait)).await;
    }
    component.clear();
    Ok(())
}

async fn hold<E, W: Future<Output = Result<(), E>>>(
    store: &Store,
    lock: &Lease,
    asked: Instant,
    stop: &CancellationToken,
    work: &impl Fn(CancellationToken) -> W,
) -> Result<(), E> {
    let tenure = Arc::new(Tenure { until: Mutex::new(asked), ended: stop.child_token() });
    tenure.extend(asked);
    // In a task of its own: work that seldom lets others run must not keep its own lock from being renewed.
    let renewing = AbortOnDropHandle::new(tokio::spawn(renew(store.clone(), lock.clone(), tenure.clone())));
    let ended = tenure.run(work(tenure.ended.clone())).await;
    drop(renewing);
    release(store, lock).await;
    ended
}

/// Renews a lock until it cannot be; then cancels the work's token.
async fn renew(store: Store, lock: Lease, tenure: Arc<Tenure>) {
    let mut failing = false;
    loop {
        sleep(RENEW_EVERY).await;
        let asked = Instant::now();
        match timeout_at(tenure.until(), store.renew_lease(&lock)).await {
            Ok(Ok(true)) => {
                failing = false;
                tenure.extend(asked);
            }
            Ok(Ok(false)) => break,
            Ok(Err(error)) if !std::mem::replace(&mut failing, true) => {
                warn!(lock = lock.name, %error, "a lock is not renewed; trying again");
            }
            Ok(Err(_)) => {}
            Err(_) => break,
        }
        if Instant::now() >= tenure.until() {
            break;
        }
    }
    warn!(lock = lock.name, "a lock is lost: its work ends here");
    tenure.ended.cancel();
}

/// Logs once which process, or what, is waited for.
struct Waiting<'a> {
    lock: &'a Lease,
    component: &'a Component,
    /// The owner or the problem that was logged last.
    logged: Option<String>,
    waits: Waits,
}

impl<'a> Waiting<'a> {
    fn new(lock: &'a Lease, component: &'a Component) -> Self {
        Self { lock, component, logged: None, waits: RetryPolicy::LOCK.waits() }
    }

    fn over(&mut self) {
        info!(lock = self.lock.name, "the lock is held");
        (self.logged, self.waits) = (None, RetryPolicy::LOCK.waits());
        self.component.clear();
    }

    fn for_owner(&mut self, owner: String) -> Duration {
        self.waits.reset();
        if !owner.is_empty() && self.logged.as_ref() != Some(&owner) {
            info!(lock = self.lock.name, owner, "standing by: another process holds the lock");
            self.component.stand_by(format!("for {owner}, which holds {}", self.lock.name));
            self.logged = Some(owner);
        }
        RetryPolicy::LOCK.base
    }

    fn for_store(&mut self, error: &str) -> Duration {
        let problem = format!("the lock {} is not to be had: {error}", self.lock.name);
        if self.logged.is_none() {
            warn!("{problem}; trying again");
        }
        self.component.report(problem.clone());
        self.logged = Some(problem);
        self.waits.next(rand::random())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use super::*;
    use tocsin_health::{About, Health};
    use tocsin_store::testing::{Backend, TestStore};

    fn lock(owner: &str) -> Lease {
        Lease { name: "feed".into(), owner: owner.into(), duration: LEASE }
    }

    fn component() -> Component {
        Health::new(About::default(), &[]).component("ingest")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_of_two_works_and_the_other_takes_over_after_a_stop_or_a_loss() {
        let test_store = TestStore::make(Backend::Postgres).await;
        let (store, working) = (test_store.open().await, Arc::new(AtomicU32::new(0)));
        let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
        let start = |owner: &'static str| {
            let (store, working, begun, stop) =
                (store.clone(), working.clone(), begun.clone(), CancellationToken::new());
            let (stopped, component) = (stop.clone(), component());
            let task = tokio::spawn(async move {
                let work = |ended: CancellationToken| {
                    let (working, begun) = (working.clone(), begun.clone());
                    async move {
                        assert_eq!(working.fetch_add(1, SeqCst), 0, "two work at once");
                        begun.send(owner).unwrap();
                        ended.cancelled().await;
                        working.fetch_sub(1, SeqCst);
                        Ok::<(), Infallible>(())
                    }
                };
                while_held(&store, &lock(owner), &component, &stopped, work).await.unwrap();
            });
            (stop, task)
        };
        let (stop_a, a) = start("a");
        assert_eq!(begins.recv().await, Some("a"));
        let (stop_b, b) = start("b");
        stop_a.cancel();
        a.await.unwrap();
        assert_eq!(begins.recv().await, Some("b"), "after a stop");
        // What an operator, or a database that was restored, may do: the holder finds out and stops, and asks again.
        store.release_lease(&lock("b")).await.unwrap();
        assert_eq!(
            store.acquire_lease(&Lease { duration: Duration::from_secs(2), ..lock("c") }).await.unwrap(),
            Leased::Held
        );
        assert_eq!(begins.recv().await, Some("b"), "after a loss");
        stop_b.cancel();
        b.await.unwrap();
        assert_eq!(store.acquire_lease(&lock("d")).await.unwrap(), Leased::Held, "released at the end");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn work_that_never_waits_keeps_its_lock() {
        let test_store = TestStore::make(Backend::Postgres).await;
        let (store, stop) = (test_store.open().await, CancellationToken::new());
        let begins = Arc::new(AtomicU32::new(0));
        let work = |ended: CancellationToken| {
            let (begins, stop) = (begins.clone(), stop.clone());
            async move {
                begins.fetch_add(1, SeqCst);
                // Longer than a lease, and holding its thread for most of the time, as the parsing of large frames does.
                let until = Instant::now() + LEASE + RENEW_EVERY;
                while !ended.is_cancelled() && Instant::now() < until {
                    std::thread::sleep(Duration::from_millis(700));
                    tokio::task::yield_now().await;
                }
                if !ended.is_cancelled() {
                    stop.cancel();
                }
                Ok::<(), Infallible>(())
            }
        };
        while_held(&store, &lock("busy"), &component(), &stop, work).await.unwrap();
        assert_eq!(begins.load(SeqCst), 1, "it lost the lock while it worked");
    }

    #[tokio::test(start_paused = true)]
    async fn work_whose_process_was_stopped_is_told_to_end_before_it_goes_on() {
        let tenure = Tenure { until: Mutex::new(Instant::now()), ended: CancellationToken::new() };
        tenure.extend(Instant::now());
        let steps = AtomicU32::new(0);
        let endless = async {
            loop {
                steps.fetch_add(1, SeqCst);
                sleep(LEASE).await;
            }
        };
        let ended = tenure.ended.clone();
        let work = async {
            tokio::select! {
                biased;
                () = ended.cancelled() => {}
                () = endless => {}
            }
        };
        tenure.run(work).await;
        assert_eq!(steps.load(SeqCst), 1, "it did nothing after the lease");
    }
}
