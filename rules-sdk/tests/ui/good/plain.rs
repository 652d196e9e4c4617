//! The shortest rule, under the strictest lints: generated code trips none.
#![forbid(unsafe_code)]
#![deny(warnings, missing_docs, unreachable_pub, clippy::all)]
#![no_std]

use tocsin_rules_sdk::prelude::*;

/// What an alert chooses.
#[derive(Params)]
#[repr(C)]
pub struct Limit {
    /// The price.
    pub price: f64,
}

/// What is remembered.
#[derive(State)]
#[repr(C)]
pub struct Last {
    price: f64,
}

/// Fires when the price goes through a limit.
#[rule(evidence("price"))]
pub fn through(tick: &Tick, params: &Limit, last: &mut Last) -> Verdict {
    let crossed = (last.price < params.price) != (tick.price < params.price);
    last.price = tick.price;
    Verdict::fire_if(crossed).evidence([tick.price])
}

fn main() {}
