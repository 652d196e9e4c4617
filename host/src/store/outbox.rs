//! Leases of the outbox, as deliverers ask for them.

/// A lease that is asked for.
#[derive(Clone, Debug)]
pub struct OutboxLease {
    /// Who tells the firings: a name that no other deliverer has at the time.
    pub owner: String,
    /// For how long, in milliseconds, by the clock of whoever asks next.
    pub duration_ms: i64,
}
