//! Tocsin evaluates a stream of trades against standing alerts, whose conditions are WebAssembly rules. The binary only calls
//! this library.
//!
//! `ARCHITECTURE.md` has the map of the modules, and which may import which. Start reading at [`roles`], which wires a process.

pub mod api;
pub mod cli;
pub mod config;
pub mod connections;
pub mod control;
pub mod data_dir;
pub mod delivery;
pub mod evaluator;
pub mod ingest;
pub mod lease;
pub mod program;
pub mod replay_server;
pub mod roles;
pub mod rules;
pub mod signals;
pub mod telemetry;
mod wire;
