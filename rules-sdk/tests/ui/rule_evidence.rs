use tocsin_rules_sdk::prelude::*;

#[rule(name = "many", evidence("a", "b", "c", "d", "e"))]
fn many(_tick: &Tick) -> Verdict {
    Verdict::hold()
}

fn main() {}
