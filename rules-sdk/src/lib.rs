//! Write Tocsin alert rules in Rust.
#![no_std]

pub mod abi;
