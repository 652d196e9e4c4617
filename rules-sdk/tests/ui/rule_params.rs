use tocsin_rules_sdk::prelude::*;

struct Limits {
    price: f64,
}

#[rule(name = "limits")]
fn limits(tick: &Tick, params: &Limits) -> Verdict {
    Verdict::fire_if(tick.price > params.price)
}

fn main() {}
