//! A stack of Kafka, Redis and PostgreSQL to develop and test against: Docker containers where Docker is available,
//! otherwise local programs, which are installed where they are missing.
//!
//! A stack lives in a folder, which holds its ports, data, logs and process ids, so several stacks run side by side.
//! [`run`] carries out a command line (`cargo xtask stack`, or this crate's own binary); [`HeldStack`] is a stack for
//! one run of the tests. [`apt`] and [`tools`] install programs, for `xtask` too.
//!
//! This is scaffolding: no part of the product depends on it.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};

pub mod apt;
mod cli;
mod docker;
mod held_stack;
mod kafka;
mod local;
mod ports;
mod postgres;
mod process;
mod redis;
mod service;
mod state;
mod status;
pub mod tools;

pub use cli::{Args, brokers, run};
pub use held_stack::HeldStack;

/// The root of the repository.
fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the crate is two folders below the root")
}

/// Returns random bits of the operating system.
fn random() -> Result<u128> {
    let mut bytes = [0; 16];
    let source = std::fs::File::open("/dev/urandom");
    source.and_then(|mut source| source.read_exact(&mut bytes)).context("cannot read /dev/urandom")?;
    Ok(u128::from_ne_bytes(bytes))
}
