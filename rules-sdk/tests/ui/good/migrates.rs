//! A rule that migrates states of two older forms; a test crate's own version is 0.0.0.
#![forbid(unsafe_code)]
#![deny(warnings, missing_docs, unreachable_pub, clippy::all)]
#![no_std]

use tocsin_rules_sdk::prelude::*;

/// What is remembered.
#[derive(State)]
#[repr(C)]
pub struct Memory {
    count: u64,
    last: f64,
}

/// What the first version remembered.
#[derive(State)]
#[repr(C)]
struct Count {
    count: u64,
}

/// Fires never.
#[rule(migrates("0.0.0-alpha" | "0.0.0-beta" => from_count, "0.0.0-gamma" => from_nothing))]
pub fn counts(_tick: &Tick, _state: &mut Memory) -> Verdict {
    Verdict::hold()
}

fn from_count(old: &Count, state: &mut Memory) -> bool {
    state.count = old.count;
    old.count > 0
}

fn from_nothing(_old: &(), state: &mut Memory) -> bool {
    state.last = 1.0;
    true
}

fn main() {}
