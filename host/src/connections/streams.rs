//! Places of streams: each of them costs a write for every event, for as long as its client likes.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// When a client that was refused a stream may try again: streams last for hours, but those that are not read end within
/// the minute.
pub const STREAMS_RETRY_AFTER: Duration = Duration::from_secs(10);

/// The places of all streams of a process. Cloning is cheap.
#[derive(Clone)]
pub struct Streams(Arc<Inner>);

struct Inner {
    max: u32,
    room: Arc<Semaphore>,
    refused: AtomicU64,
    last_refused: Mutex<Option<Instant>>,
}

/// The place of one stream, free again when this is dropped.
#[derive(Debug)]
pub struct StreamPlace(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Streams {
    /// Creates places for `max` streams.
    pub fn new(max: u32) -> Self {
        let room = Arc::new(Semaphore::new(max as usize));
        Self(Arc::new(Inner { max, room, refused: AtomicU64::new(0), last_refused: Mutex::default() }))
    }

    /// Returns a place for a stream; None, which is counted, if all are taken.
    pub fn open_one(&self) -> Option<StreamPlace> {
        let place = self.0.room.clone().try_acquire_owned().ok().map(StreamPlace);
        if place.is_none() {
            self.0.refused.fetch_add(1, Relaxed);
            *self.0.last_refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        place
    }

    /// The most streams.
    pub fn max(&self) -> u64 {
        self.0.max.into()
    }

    /// Streams that are open.
    pub fn open(&self) -> u64 {
        self.max() - self.0.room.available_permits() as u64
    }

    /// Streams that were refused since the start.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Relaxed)
    }

    pub(super) fn last_refused(&self) -> Option<Instant> {
        *self.0.last_refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns why a stream is refused, and what to do, for a client.
    pub fn refusal(&self) -> String {
        format!(
            "all {} streams that this server allows are open: close one, or try again in {} s; --max-streams allows more",
            self.0.max,
            STREAMS_RETRY_AFTER.as_secs()
        )
    }
}
