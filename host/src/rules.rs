//! Compiled rules: modules from the store, validated and compiled in a child process under limits, and cached in memory and
//! on disk.

pub mod artifacts;
mod cache;
pub mod compiler;

pub use self::cache::{RuleCache, RuleCacheError};
