use tocsin_rules_sdk::prelude::*;

#[derive(State)]
#[repr(C)]
struct Window {
    prices: Vec<f64>,
}

fn main() {}
