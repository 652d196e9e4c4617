//! Reports how many inputs are accepted: a target tests nothing if all of its inputs are refused.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts inputs, and those that were accepted. Prints both whenever the first doubles.
pub struct Rate {
    of: &'static str,
    seen: AtomicU64,
    accepted: AtomicU64,
}

impl Rate {
    /// Creates a count of `of`, such as `modules`.
    pub const fn of(of: &'static str) -> Self {
        Self { of, seen: AtomicU64::new(0), accepted: AtomicU64::new(0) }
    }

    /// Counts an input.
    pub fn count(&self, is_accepted: bool) {
        let accepted = self.accepted.fetch_add(is_accepted.into(), Ordering::Relaxed) + u64::from(is_accepted);
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        if seen.is_power_of_two() {
            let percent = accepted as f64 / seen as f64 * 100.0;
            eprintln!("accepted: {accepted} of {seen} {} ({percent:.1} %)", self.of);
        }
    }
}
