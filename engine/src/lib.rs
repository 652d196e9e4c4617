//! The domain of Tocsin and the engine that judges ticks: ticks in, verdicts out.
//!
//! This crate is synchronous and does no IO: it knows nothing of Kafka, SQL, HTTP or clocks, so anyone can embed it
//! and a test can hold every input still. [`domain`] holds the words that all of Tocsin shares.

pub mod domain;
