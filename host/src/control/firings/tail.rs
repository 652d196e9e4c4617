//! The one reader of new firings behind all streams of the process: it reads each firing once and hands it to every stream.
//!
//! A stream that keeps up never reads the store. One that does not, or begins further back, catches up in pages of its own,
//! a few streams at a time: what clients do not read costs the store nothing, and memory no more than the page at hand.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tocsin_base::retry::RetryPolicy;
use tocsin_engine::domain::{AlertId, Firing, Tenant};
use tocsin_store::{Store, StoreError};
use tokio::sync::{OnceCell, Semaphore, broadcast, watch};
use tokio::time::sleep;

/// Firings that a stream may be behind before it catches up from the store, some 1 MB for all streams together.
const MAX_BEHIND_FIRINGS: usize = 1_024;

/// Firings that are read from the store and handed out at a time; far fewer than [`MAX_BEHIND_FIRINGS`], so that no page
/// overruns a stream that kept up.
const PAGE_FIRINGS: u32 = 256;

/// Firings that a stream which is behind reads at a time, and holds until its client has read them: some 25 KB.
const CATCH_UP_FIRINGS: u32 = 32;

/// Streams that read the store at the same time: SQLite has four readers, and requests need some.
const MAX_CATCHING_UP: usize = 2;

/// Streams that are woken together. A thousand at once would make everything else wait behind them.
const STREAMS_OF_A_RING: usize = 64;

/// How long a ring takes for each of its streams before the next one has its turn: a wake-up and a write. So there are 10,000
/// writes a second at most, whatever fires, and a round of 1,000 streams takes 100 ms.
const TIME_PER_STREAM: Duration = Duration::from_micros(100);

/// A firing as all streams share it.
#[derive(Debug)]
pub struct Recorded {
    /// Its sequence number: firings are recorded in its order.
    pub seq: u64,
    /// The firing.
    pub firing: Firing,
    /// As streams write it, by the first of them that does.
    text: OnceLock<Box<str>>,
}

/// Hands new firings out. Cloning is cheap. Nothing is read while there is no stream.
#[derive(Clone)]
pub(in crate::control) struct Tail(Arc<Inner>);

struct Inner {
    store: Store,
    /// Made with the first stream.
    shared: OnceCell<Arc<Shared>>,
    catching_up: Semaphore,
}

/// All rings, of which the last may have room. They are handed the same firings, one ring after the other.
struct Shared {
    rings: Mutex<Vec<Arc<Ring>>>,
    /// The newest firing when there was no ring yet.
    begun_at: u64,
}

/// Streams that are handed firings together.
struct Ring {
    firings: broadcast::Sender<Arc<Recorded>>,
    /// The number of the last firing that was handed out, or that there was no stream for: held while either changes, so
    /// that a subscriber knows exactly which firings it will receive.
    handed_out: Mutex<u64>,
}

/// What a stream follows from now on.
pub(super) struct Subscription {
    /// Every firing behind `after`.
    pub(super) firings: broadcast::Receiver<Arc<Recorded>>,
    /// The last firing before these.
    pub(super) after: u64,
}

impl Recorded {
    fn new((seq, firing): (u64, Firing)) -> Self {
        Self { seq, firing, text: OnceLock::new() }
    }

    /// The firing as text: `write` is called once, by whichever stream comes first.
    pub fn text(&self, write: impl FnOnce(&Firing) -> String) -> &str {
        self.text.get_or_init(|| write(&self.firing).into())
    }

    /// Whether a stream of a tenant's firings, or of one alert's, has this one.
    pub(super) fn is_of(&self, tenant: &Tenant, alert: Option<AlertId>) -> bool {
        self.firing.tenant == *tenant && alert.is_none_or(|alert| self.firing.alert == alert)
    }
}

impl Tail {
    pub(in crate::control) fn new(store: Store) -> Self {
        Self(Arc::new(Inner { store, shared: OnceCell::new(), catching_up: Semaphore::new(MAX_CATCHING_UP) }))
    }

    /// Subscribes a stream to new firings.
    pub(super) async fn subscribe(&self) -> Result<Subscription, StoreError> {
        let shared = self.0.shared.get_or_try_init(|| self.start()).await?;
        Ok(shared.subscribe())
    }

    async fn start(&self) -> Result<Arc<Shared>, StoreError> {
        let newest = self.0.store.newest_firing().await?;
        let shared = Arc::new(Shared { begun_at: *newest.borrow(), rings: Mutex::default() });
        tokio::spawn(follow(Arc::downgrade(&self.0), Arc::downgrade(&shared), newest));
        Ok(shared)
    }

    /// Lets no stream catch up for as long as what this returns lives.
    #[cfg(test)]
    pub(super) async fn forbid_catching_up(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.0.catching_up.acquire_many(MAX_CATCHING_UP as u32).await.unwrap()
    }

    /// Reads the next firings of a stream that is behind, when its turn comes; true if there may be more.
    pub(super) async fn catch_up(
        &self,
        tenant: &Tenant,
        alert: Option<AlertId>,
        after: u64,
    ) -> Result<(Vec<Arc<Recorded>>, bool), StoreError> {
        let _turn = self.0.catching_up.acquire().await.expect("the semaphore is never closed");
        let page = self.0.store.firings(tenant, alert, after, CATCH_UP_FIRINGS).await?;
        let more = page.len() == CATCH_UP_FIRINGS as usize;
        Ok((page.into_iter().map(|firing| Arc::new(Recorded::new(firing))).collect(), more))
    }
}

impl Shared {
    fn rings(&self) -> MutexGuard<'_, Vec<Arc<Ring>>> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Subscribes to the first ring with room.
    fn subscribe(&self) -> Subscription {
        let mut rings = self.rings();
        let with_room = rings.iter().find(|ring| ring.firings.receiver_count() < STREAMS_OF_A_RING);
        let ring = with_room.cloned().unwrap_or_else(|| {
            // Where the last one is: the ring whose turn comes last is behind the others, and never ahead.
            let handed_out = rings.last().map_or(self.begun_at, |ring| *ring.handed_out());
            let ring = Arc::new(Ring {
                firings: broadcast::Sender::new(MAX_BEHIND_FIRINGS),
                handed_out: Mutex::new(handed_out),
            });
            rings.push(ring.clone());
            ring
        });
        // Within the lock: a ring without streams may be passed over otherwise.
        ring.subscribe()
    }

    /// Returns behind which firing to read on; None if no stream wants any up to `newest`, which then count as handed out.
    fn wanted_after(&self, newest: u64) -> Option<u64> {
        let rings = self.rings();
        if rings.iter().all(|ring| ring.firings.receiver_count() == 0) {
            rings.iter().for_each(|ring| ring.pass_over(newest));
            return None;
        }
        let after = rings.iter().map(|ring| *ring.handed_out()).min();
        after.filter(|after| *after < newest)
    }
}

impl Ring {
    fn handed_out(&self) -> MutexGuard<'_, u64> {
        self.handed_out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscribe(&self) -> Subscription {
        let handed_out = self.handed_out();
        Subscription { firings: self.firings.subscribe(), after: *handed_out }
    }

    fn pass_over(&self, newest: u64) {
        let mut handed_out = self.handed_out();
        *handed_out = newest.max(*handed_out);
    }

    /// Hands firings to all streams of the ring; returns how long that takes them.
    fn hand_out(&self, page: &[Arc<Recorded>]) -> Duration {
        let mut handed_out = self.handed_out();
        for recorded in page.iter().filter(|recorded| recorded.seq > *handed_out) {
            // Fails if there is no stream.
            let _ = self.firings.send(recorded.clone());
        }
        *handed_out = page.last().map_or(*handed_out, |last| last.seq.max(*handed_out));
        TIME_PER_STREAM.saturating_mul(u32::try_from(self.firings.receiver_count()).unwrap_or(u32::MAX))
    }
}

/// Reads on whenever there are new firings, until the store or the use cases are gone: it keeps neither of them.
async fn follow(tail: Weak<Inner>, shared: Weak<Shared>, mut newest: watch::Receiver<u64>) {
    let mut waits = RetryPolicy::STREAMS.waits();
    let mut is_away = false;
    while newest.changed().await.is_ok() {
        loop {
            let up_to = *newest.borrow_and_update();
            let (Some(tail), Some(shared)) = (tail.upgrade(), shared.upgrade()) else { return };
            let Some(after) = shared.wanted_after(up_to) else { break };
            let page = tail.store.firings_of_all(after, PAGE_FIRINGS).await;
            drop(tail);
            match page {
                Ok(page) if page.is_empty() => break,
                Ok(page) => {
                    if std::mem::take(&mut is_away) {
                        tracing::info!("new firings can be read again: streams go on where they were");
                    }
                    waits.reset();
                    go_round(shared, page).await;
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_away, true) {
                        tracing::warn!(%error, "new firings cannot be read: streams wait; trying again until they can");
                    }
                    drop(shared);
                    sleep(waits.next(rand::random())).await;
                }
            }
        }
    }
}

/// Hands firings to one ring after the other, those that come up meanwhile included.
async fn go_round(shared: Arc<Shared>, page: Vec<(u64, Firing)>) {
    let page: Vec<_> = page.into_iter().map(|firing| Arc::new(Recorded::new(firing))).collect();
    let mut at = 0;
    loop {
        let Some(ring) = shared.rings().get(at).cloned() else { return };
        let takes = ring.hand_out(&page);
        sleep(takes).await;
        at += 1;
    }
}
