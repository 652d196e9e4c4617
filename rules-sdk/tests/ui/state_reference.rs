use tocsin_rules_sdk::prelude::*;

#[derive(State)]
#[repr(C)]
struct Window {
    prices: &'static [f64],
}

fn main() {}
