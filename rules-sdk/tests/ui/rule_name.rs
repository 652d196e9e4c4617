use tocsin_rules_sdk::prelude::*;

#[rule(name = "Big Move")]
fn big_move(_tick: &Tick) -> Verdict {
    Verdict::hold()
}

#[rule(name = "big-move", evidence("Change %"))]
fn other_move(_tick: &Tick) -> Verdict {
    Verdict::hold()
}

fn main() {}
