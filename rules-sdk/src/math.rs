//! Square roots, rounding, logarithms and the like, which a rule without `std` lacks: the same bits natively and in the
//! sandbox.

#[cfg(target_arch = "wasm32")]
pub use exact::{ceil, floor, sqrt, trunc};
pub use libm::*;

/// WASM has these as instructions, but stable Rust reaches them only through the functions that the compiler links to
/// every module. `libm`'s own, which compute the same bits, are ten times as large and slow.
#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code)] // names functions of the compiler's runtime; they take any number
mod exact {
    unsafe extern "C" {
        /// Rounds up.
        pub safe fn ceil(x: f64) -> f64;
        /// Rounds down.
        pub safe fn floor(x: f64) -> f64;
        /// The square root; NaN of a negative number.
        pub safe fn sqrt(x: f64) -> f64;
        /// Rounds towards 0.
        pub safe fn trunc(x: f64) -> f64;
    }
}
