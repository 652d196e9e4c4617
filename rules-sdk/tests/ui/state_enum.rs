use tocsin_rules_sdk::prelude::*;

#[derive(Clone, Copy)]
#[repr(u32)]
enum Side {
    Up,
    Down,
}

#[derive(State)]
#[repr(C)]
struct Window {
    side: Side,
}

fn main() {}
