use tocsin_rules_sdk::prelude::*;

#[derive(State)]
#[repr(C)]
struct Window {
    price: f64,
    armed: [bool; 8],
}

fn main() {}
