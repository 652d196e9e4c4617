//! How many inputs are accepted: a target whose inputs are all refused tests nothing, so it tells.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count of inputs, and of those that were accepted. Told whenever the first doubles.
pub struct Rate {
    of: &'static str,
    seen: AtomicU64,
    accepted: AtomicU64,
}

impl Rate {
    /// A count of `of`, such as `modules`.
    pub const fn of(of: &'static str) -> Self {
        Self { of, seen: AtomicU64::new(0), accepted: AtomicU64::new(0) }
    }

    /// Counts one.
    pub fn count(&self, is_accepted: bool) {
        let accepted = self.accepted.fetch_add(is_accepted.into(), Ordering::Relaxed) + u64::from(is_accepted);
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        if seen.is_power_of_two() {
            let percent = accepted as f64 / seen as f64 * 100.0;
            eprintln!("accepted: {accepted} of {seen} {} ({percent:.1} %)", self.of);
        }
    }
}
