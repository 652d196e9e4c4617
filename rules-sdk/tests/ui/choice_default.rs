use tocsin_rules_sdk::prelude::*;

#[derive(Choice, Clone, Copy)]
#[repr(u32)]
enum Side {
    Up,
}

#[derive(Params)]
#[repr(C)]
struct AsText {
    #[param(default = "up")]
    side: Side,
}

fn main() {}
