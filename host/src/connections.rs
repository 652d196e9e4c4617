//! Bounds what clients may hold of this process: connections, within the limit of open files, and streams.
//!
//! Every connection takes a file descriptor, and so does every file of the store and the log, which cannot go on without.
//! [`open_files`] divides the limit between them; [`budget`] keeps the connections of REST and gRPC together to their part.
//! Nothing here reads or writes a connection: `api` does.

pub mod budget;
pub mod health;
pub mod open_files;
mod streams;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

pub use self::budget::{Activity, Budget, Place, Request};
pub use self::streams::{STREAMS_RETRY_AFTER, StreamPlace, Streams};

/// The most connections where nothing else is set and the limit of open files allows as many. An idle one takes a few KiB.
pub const DEFAULT_MAX_CONNECTIONS: u32 = 16_384;

/// Connections beyond the budget that are served `/health` and `/ready` only, so that probes are answered while every other
/// connection is in use. A machine has a handful of probes.
pub const STATUS_CONNECTIONS: u32 = 16;

/// The most live streams (SSE, WebSocket, gRPC watches) where nothing else is set.
pub const DEFAULT_MAX_STREAMS: u32 = 2_048;

/// The connections and streams of a process, on all its ports. Cloning is cheap.
#[derive(Clone)]
pub struct Connections(Arc<Inner>);

struct Inner {
    budget: Budget,
    status: Budget,
    streams: Streams,
    failed: Mutex<AcceptFailures>,
}

/// Connections that the system did not hand over.
#[derive(Debug, Default)]
struct AcceptFailures {
    count: u64,
    last: Option<(Instant, String)>,
}

/// How many connections and streams there are, and how many there were no room for, since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionCounts {
    /// Connections that are open.
    pub open: u64,
    /// The most that may be open at a time.
    pub max: u64,
    /// Idle ones that were closed to make room for others.
    pub evicted: u64,
    /// Those that were closed at once, or answered 503, since all others were in use.
    pub refused: u64,
    /// Attempts to accept one that failed.
    pub accept_failures: u64,
    /// Streams that are open.
    pub streams_open: u64,
    /// The most that may be open at a time.
    pub streams_max: u64,
    /// Streams that were refused.
    pub streams_refused: u64,
}

impl Connections {
    /// Creates places for `max` connections and `max_streams` streams.
    pub fn new(max: u32, max_streams: u32) -> Self {
        Self(Arc::new(Inner {
            budget: Budget::new(max),
            status: Budget::new(STATUS_CONNECTIONS),
            streams: Streams::new(max_streams),
            failed: Mutex::default(),
        }))
    }

    /// Returns the place of a new connection. Where all places are taken, the connection that has been idle for longest is
    /// closed for it; None if none is idle.
    pub async fn admit(&self) -> Option<Place> {
        self.0.budget.admit().await
    }

    /// Returns the place of a connection that [`Self::admit`] had none for, and that is served `/health` and `/ready` only.
    pub async fn admit_for_status(&self) -> Option<Place> {
        self.0.status.admit().await
    }

    /// Returns the places of streams.
    pub fn streams(&self) -> &Streams {
        &self.0.streams
    }

    /// Records that a connection could not be accepted.
    pub fn accept_failed(&self, error: &io::Error) {
        let mut failed = self.0.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.count += 1;
        failed.last = Some((Instant::now(), error.to_string()));
    }

    /// Returns how many connections and streams there are.
    pub fn counts(&self) -> ConnectionCounts {
        let Inner { budget, streams, failed, .. } = &*self.0;
        ConnectionCounts {
            open: budget.open(),
            max: budget.max(),
            evicted: budget.evicted(),
            refused: budget.refused(),
            accept_failures: failed.lock().unwrap_or_else(PoisonError::into_inner).count,
            streams_open: streams.open(),
            streams_max: streams.max(),
            streams_refused: streams.refused(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_there_is_too_much_of_is_a_problem_and_counted() {
        let connections = Connections::new(1, 1);
        assert_eq!(connections.problems(), [""; 0]);
        let place = connections.admit().await.unwrap();
        let _request = place.activity().begin();
        assert!(connections.admit().await.is_none());
        let stream = connections.streams().open_one().unwrap();
        assert!(connections.streams().open_one().is_none());
        connections.accept_failed(&io::Error::from_raw_os_error(24));
        let problems = connections.problems().join("\n");
        for part in ["all 1 were in use", "--max-connections", "--max-streams", "(os error 24)", "ulimit -n"] {
            assert!(problems.contains(part), "{part} is not in {problems}");
        }
        let counts = connections.counts();
        assert_eq!((counts.open, counts.max, counts.refused, counts.accept_failures), (1, 1, 1, 1));
        assert_eq!((counts.streams_open, counts.streams_max, counts.streams_refused), (1, 1, 1));
        drop((stream, place));
        assert!(connections.admit().await.is_some() && connections.streams().open_one().is_some());
    }
}
