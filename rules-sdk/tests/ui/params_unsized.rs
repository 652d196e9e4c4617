use tocsin_rules_sdk::prelude::*;

#[derive(Params)]
#[repr(C)]
struct Limits {
    levels: [f64],
}

fn main() {}
