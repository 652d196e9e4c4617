use tocsin_rules_sdk::prelude::*;

#[derive(Params)]
#[repr(C)]
struct MinAboveMax {
    #[param(min = 2, max = 1)]
    price: f64,
}

#[derive(Params)]
#[repr(C)]
struct NothingBetween {
    #[param(exclusive_min = 1, max = 1)]
    price: f64,
}

#[derive(Params)]
#[repr(C)]
struct DefaultBelow {
    #[param(min = 0.01, default = 0)]
    price: f64,
}

#[derive(Params)]
#[repr(C)]
struct DefaultAbove {
    #[param(max = 10, default = 11)]
    count: u32,
}

#[derive(Params)]
#[repr(C)]
struct TooLargeForItsType {
    #[param(max = 4294967296)]
    count: u32,
}

#[derive(Params)]
#[repr(C)]
struct Fraction {
    #[param(min = 0.5)]
    count: i32,
}

const MOST: u32 = 7;

#[derive(Params)]
#[repr(C)]
struct NotALiteral {
    #[param(max = MOST)]
    count: u32,
}

#[derive(Params)]
#[repr(C)]
struct UnknownKey {
    #[param(minimum = 1)]
    count: u32,
}

#[derive(Params)]
#[repr(C)]
struct DefaultRoundsOut {
    #[param(max = 0.1, default = 0.1)]
    ratio: f32,
}

#[derive(Params)]
#[repr(C)]
struct DefaultHasNoFloat {
    #[param(default = 1e39)]
    ratio: f32,
}

fn main() {}
