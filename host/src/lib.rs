//! Tocsin: ticks in, WASM rules judge them, alerts fire. The binary is a thin shell around this library.
//!
//! `ARCHITECTURE.md` says who may import whom; [`roles`] wires it all together.

pub mod api;
mod backoff;
pub mod bus;
pub mod cli;
pub mod config;
pub mod connections;
pub mod control;
pub mod data_dir;
pub mod delivery;
pub mod disk;
pub mod evaluator;
mod failpoint;
pub mod feed;
pub mod health;
pub mod ingest;
pub mod lease;
mod lock_holder;
pub mod prices;
pub mod program;
#[cfg(test)]
mod proxy;
pub mod roles;
pub mod rules;
pub mod signals;
pub mod store;
pub mod telemetry;
mod words;
