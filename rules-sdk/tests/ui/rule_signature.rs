use tocsin_rules_sdk::prelude::*;

#[rule(name = "a")]
fn no_verdict(_tick: &Tick) {}

#[rule(name = "b")]
fn by_value(_tick: Tick) -> Verdict {
    Verdict::hold()
}

#[rule(name = "c")]
fn state_first(_tick: &Tick, _state: &mut f64, _params: &()) -> Verdict {
    Verdict::hold()
}

#[rule(name = "d")]
fn generic<T>(_tick: &Tick, _state: &mut T) -> Verdict {
    Verdict::hold()
}

#[rule(name = "e")]
fn nothing() -> Verdict {
    Verdict::hold()
}

fn main() {}
