use tocsin_rules_sdk::prelude::*;

#[derive(State)]
struct Window {
    price: f64,
}

#[derive(State)]
#[repr(C, align(16))]
struct Aligned {
    price: f64,
}

fn main() {}
