//! Leases of the outbox, as deliverers ask for them.

use std::time::Duration;

/// A lease that is asked for: of the alerts whose firings are to be delivered.
#[derive(Clone, Debug)]
pub struct OutboxLease {
    /// Who delivers the firings: a name that no other deliverer has at the time.
    pub owner: String,
    /// For how long, by the clock of the store's database.
    pub duration: Duration,
}

impl OutboxLease {
    pub(super) fn duration_ms(&self) -> i64 {
        i64::try_from(self.duration.as_millis()).unwrap_or(i64::MAX)
    }
}
