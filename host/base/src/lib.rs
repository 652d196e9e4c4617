//! What several crates of the server need and none of them is about: waits between two tries, pairs of words in a setting,
//! and points at which a test lets the process die.

pub mod failpoint;
pub mod key_values;
#[cfg(any(test, feature = "testing"))]
pub mod proxy;
pub mod retry;
#[cfg(any(test, feature = "testing"))]
pub mod simulation;
