use tocsin_rules_sdk::prelude::*;

#[derive(State)]
#[repr(C)]
struct Window {
    count: u32,
    price: f64,
}

fn main() {}
