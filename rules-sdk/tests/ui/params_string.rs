use tocsin_rules_sdk::prelude::*;

#[derive(Params)]
#[repr(C)]
struct Limits {
    exchange: String,
}

fn main() {}
