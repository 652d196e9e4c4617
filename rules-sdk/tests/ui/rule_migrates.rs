use tocsin_rules_sdk::prelude::*;

#[rule(name = "a", migrates)]
fn a(_tick: &Tick, _state: &mut f64) -> Verdict {
    Verdict::hold()
}

#[rule(name = "b", migrates())]
fn b(_tick: &Tick, _state: &mut f64) -> Verdict {
    Verdict::hold()
}

#[rule(name = "c", migrates(from_v1))]
fn c(_tick: &Tick, _state: &mut f64) -> Verdict {
    Verdict::hold()
}

#[rule(name = "d", migrates("0.0.0-a", from_v1))]
fn d(_tick: &Tick, _state: &mut f64) -> Verdict {
    Verdict::hold()
}

#[rule(name = "e", migrates("1" => from_v1))]
fn e(_tick: &Tick, _state: &mut f64) -> Verdict {
    Verdict::hold()
}

#[rule(name = "f", migrates("1.0.0" => from_v1))]
fn f(_tick: &Tick, _state: &mut f64) -> Verdict {
    Verdict::hold()
}

#[rule(name = "g", migrates("0.0.0-a" => from_v1, "0.0.0-a" => from_v1))]
fn g(_tick: &Tick, _state: &mut f64) -> Verdict {
    Verdict::hold()
}

#[rule(name = "h", migrates("0.0.0-a" => from_v1))]
fn h(_tick: &Tick) -> Verdict {
    Verdict::hold()
}

#[rule(name = "i", migrates("0.0.0-a+build" => from_v1))]
fn i(_tick: &Tick, _state: &mut f64) -> Verdict {
    Verdict::hold()
}

fn from_v1(_old: &f64, _state: &mut f64) -> bool {
    true
}

fn main() {}
