//! The domain of Tocsin, and the engine that evaluates ticks against rules: ticks in, verdicts out.
//!
//! This crate is synchronous, does no IO (there is no Kafka, SQL or HTTP in it) and decides nothing by a clock, so it can be
//! embedded anywhere and tested with fixed inputs. [`domain`] has the types that all of Tocsin shares.
//!
//! From a module's bytes to a verdict: [`inspect`] validates, `inject` re-encodes, [`Engine`] compiles, and a
//! [`Shard`] keeps the bindings of all symbols and evaluates each tick against them.

pub mod builtin;
pub mod cost;
pub mod domain;
mod evaluate;
#[cfg(feature = "failpoints")]
mod failpoint;
mod fault;
mod group;
mod health;
mod heap;
mod ids;
mod inject;
pub mod inspect;
mod instance;
mod isolation;
pub mod limits;
pub mod manifest;
mod migration;
mod pace;
pub mod pack;
pub mod params;
mod purity;
mod reproduce;
mod runtime;
mod shard;
mod slab;
mod snapshot;
pub mod strict_json;
mod table;
pub mod trial;
mod usage;
pub mod violation;
mod wake;

pub use evaluate::{EvaluateError, Waking};
pub use fault::{Fault, FaultBundle};
pub use health::Health;
pub use migration::{Migration, MigrationError};
pub use pace::Pace;
pub use purity::Impurity;
pub use reproduce::{NotReproduced, reproduce};
pub use runtime::{Artifact, Engine, LoadError, Prepared, Rule, StartError};
pub use shard::{ArmError, Arming, EvaluationOptions, Event, Shard};
pub use snapshot::{GroupSnapshot, SavedBinding, SnapshotError};
pub use usage::{RuleUsage, Usage};
pub use wake::Band;
