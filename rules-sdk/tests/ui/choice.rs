use tocsin_rules_sdk::prelude::*;

#[derive(Choice, Clone, Copy)]
enum NoRepr {
    Up,
}

#[derive(Choice, Clone, Copy)]
#[repr(u32)]
enum WithFields {
    Up(u32),
}

#[derive(Choice, Clone, Copy)]
#[repr(u32)]
enum WithNumbers {
    Up = 1,
}

#[derive(Choice, Clone, Copy)]
#[repr(u32)]
#[allow(non_camel_case_types)]
enum WrittenAlike {
    Top10,
    top10,
}

fn main() {}
