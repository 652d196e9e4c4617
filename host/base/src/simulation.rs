//! Whether a thread is one of a simulator's, which plays the same again from the same seed.

use std::cell::Cell;

thread_local! {
    static SIMULATED: Cell<bool> = const { Cell::new(false) };
}

/// Makes this thread a simulator's.
pub fn begin() {
    SIMULATED.set(true);
}

/// Returns whether this thread is a simulator's.
pub fn is_simulated() -> bool {
    SIMULATED.get()
}
