use tocsin_rules_sdk::prelude::*;

#[derive(Params)]
struct Limits {
    price: f64,
}

fn main() {}
