//! Locks with a lease, as their holders ask for them.

use std::time::Duration;

/// A lock that is asked for. It ends by itself, so that one whose holder died is free again.
#[derive(Clone, Debug)]
pub struct Lease {
    /// What is locked.
    pub name: String,
    /// The process that asks: a name that no other has.
    pub owner: String,
    /// For how long, by the clock of the store's database: machines need not agree on the time.
    pub duration: Duration,
}

/// What became of a lease that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leased {
    /// It is the asker's.
    Held,
    /// Another process holds it.
    HeldBy(String),
}

impl Lease {
    pub(super) fn duration_ms(&self) -> i64 {
        i64::try_from(self.duration.as_millis()).unwrap_or(i64::MAX)
    }
}
