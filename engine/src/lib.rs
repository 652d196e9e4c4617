//! The domain of Tocsin and the engine that judges ticks: ticks in, verdicts out.
//!
//! This crate is synchronous and does no IO: it knows nothing of Kafka, SQL, HTTP or clocks, so anyone can embed it
//! and a test can hold every input still. [`domain`] holds the words that all of Tocsin shares.
//!
//! From a module's bytes to a verdict: [`inspect`] validates, `inject` re-encodes, [`Engine`] compiles, and a
//! [`Shard`] keeps the bindings of all symbols and judges each tick against them.

pub mod builtin;
pub mod cost;
pub mod domain;
mod fault;
mod group;
mod heap;
mod inject;
pub mod inspect;
mod instance;
pub mod limits;
pub mod manifest;
pub mod params;
mod runtime;
mod shard;
mod snapshot;
pub mod violation;

pub use fault::Fault;
pub use group::JudgeError;
pub use runtime::{Engine, LoadError, Rule, StartError};
pub use shard::{ArmError, Arming, Event, Shard};
pub use snapshot::{DamagedSnapshot, GroupSnapshot, SavedBinding};
