use tocsin_rules_sdk::prelude::*;

#[rule(name = "one")]
fn one(_tick: &Tick) -> Verdict {
    Verdict::hold()
}

#[rule(name = "two")]
fn two(_tick: &Tick) -> Verdict {
    Verdict::hold()
}

fn main() {}
