use tocsin_rules_sdk::prelude::*;

#[rule(migrates(
    "0.0.0-a" => not_a_state,
    "0.0.0-b" => other_state,
    "0.0.0-c" => answers_nothing,
    "0.0.0-d" => wants_params,
    "0.0.0-e" => missing,
))]
fn rule_of_types(_tick: &Tick, _state: &mut f64) -> Verdict {
    Verdict::hold()
}

fn not_a_state(_old: &bool, _state: &mut f64) -> bool {
    true
}

fn other_state(_old: &f64, _state: &mut u64) -> bool {
    true
}

fn answers_nothing(_old: &f64, _state: &mut f64) {}

fn wants_params(_old: &f64, _params: &(), _state: &mut f64) -> bool {
    true
}

fn main() {}
