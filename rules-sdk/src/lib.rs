//! Write Tocsin alert rules in Rust: no heap, no imports, one attribute.
//!
//! A rule evaluates one tick for one alert: `(tick, params, &mut state) -> Verdict`. The host keeps params and state as plain
//! bytes, so both are structs of numbers. `docs/write-a-rule.md` leads from an empty folder to an uploaded rule, and
//! `example-rules/` has rules to start from.
//!
//! ```
//! # // The crate of a rule starts with `#![no_std]`.
//! use tocsin_rules_sdk::prelude::*;
//!
//! /// The params of an alert.
//! #[derive(Params)]
//! #[repr(C)]
//! pub struct Jump {
//!     /// The least move from one tick to the next.
//!     #[param(exclusive_min = 0, default = 2.5, unit = "USD")]
//!     pub dollars: f64,
//! }
//!
//! /// Fires when the price jumps from one tick to the next.
//! #[rule(evidence("jump"))]
//! pub fn jump(tick: &Tick, params: &Jump, last: &mut f64) -> Verdict {
//!     // State starts as zeroes, and no market opens at 0.
//!     let jump = if *last == 0.0 { 0.0 } else { tick.price - *last };
//!     *last = tick.price;
//!     if jump.abs() >= params.dollars { Verdict::fire().evidence([jump]) } else { Verdict::hold() }
//! }
//!
//! # use tocsin_rules_sdk::testing::Run;
//! # let tick = |price| Tick { price, volume: 1.0, time_ms: 0, conditions: 0 };
//! let fired = Run::<jump>::new(Jump { dollars: 3.0 }).fires([100.0, 102.0, 98.0].map(tick));
//! assert_eq!(fired, [(2, vec![-4.0])]);
//! ```
#![no_std]

// The macros generate `::tocsin_rules_sdk::…`, which must resolve in this crate's own tests too.
extern crate self as tocsin_rules_sdk;
// On native targets only, for tests of rules. It also provides the panic handler that a native `no_std` cdylib needs.
#[cfg(not(target_arch = "wasm32"))]
extern crate std;

pub mod abi;
pub mod manifest;
pub mod math;
// The only conversion of an address to a reference.
#[allow(unsafe_code)]
mod migration;
// `unsafe` traits: an implementation asserts that the host's bytes are a value of the type.
#[allow(unsafe_code)]
mod record;
mod rule;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod verdict;

#[cfg(feature = "macros")]
pub use tocsin_rules_sdk_macros::{Choice, Params, State, rule};

pub use abi::Tick;
pub use migration::OldState;
pub use record::{Choice, Params, State};
pub use rule::{Rule, evaluate, migrate};
pub use verdict::Verdict;

/// Everything that a rule needs: `use tocsin_rules_sdk::prelude::*;`.
pub mod prelude {
    pub use crate::math;
    #[cfg(feature = "macros")]
    pub use crate::rule;
    pub use crate::{Choice, Params, State, Tick, Verdict};
}

/// Turns a panic into a trap, which the host records as a fault of the evaluated binding.
#[cfg(all(target_arch = "wasm32", feature = "macros"))]
#[panic_handler]
fn trap(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
