//! A processor alone, without bus, store, clock or channel.
//!
//! `impure` has the cases of rules that are found impure, and `log` the records of all tests.

mod impure;
mod log;

use std::sync::OnceLock;

use tocsin_engine::domain::Symbol;
use tocsin_engine::{Engine, Rule};

fn load(module: &str) -> Rule {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new().unwrap()).load(&wat::parse_str(module).unwrap()).unwrap()
}

fn symbol(number: u8) -> Symbol {
    Symbol::parse(&format!("S{number}")).unwrap()
}
