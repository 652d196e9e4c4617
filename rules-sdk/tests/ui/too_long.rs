use tocsin_rules_sdk::prelude::*;

#[derive(Params)]
#[repr(C)]
struct Long {
    #[param(unit = "a unit that goes on and on and on, until it is longer than any unit is")]
    price: f64,
}

#[derive(Params)]
#[repr(C)]
struct LongName {
    a_name_that_goes_on_and_on_and_on_until_it_is_longer_than_any_name: f64,
}

#[rule(
    name = "a-name-that-goes-on-and-on-and-on-until-it-is-longer-than-any-name",
    evidence("a_name_that_goes_on_and_on_and_on_until_it_is_longer_than_any_name")
)]
fn long(_tick: &Tick) -> Verdict {
    Verdict::hold()
}

fn main() {}
