use tocsin_rules_sdk::prelude::*;

#[rule(name = "large")]
fn large(tick: &Tick, state: &mut [f64; 10_000]) -> Verdict {
    state[0] = tick.price;
    Verdict::hold()
}

fn main() {}
