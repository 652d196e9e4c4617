//! Mathematical functions for rules without `std`, such as square roots, rounding and logarithms, with the same results
//! natively and in the sandbox.

#[cfg(target_arch = "wasm32")]
pub use exact::{ceil, floor, sqrt, trunc};
pub use libm::*;

/// WebAssembly has instructions for these, but stable Rust generates them only through functions of the compiler's runtime.
/// Those of `libm`, with the same results, are ten times as large and slow.
#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code)] // names functions of the compiler's runtime; they take any number
mod exact {
    unsafe extern "C" {
        /// Rounds up.
        pub safe fn ceil(x: f64) -> f64;
        /// Rounds down.
        pub safe fn floor(x: f64) -> f64;
        /// Returns the square root, or NaN for a negative number.
        pub safe fn sqrt(x: f64) -> f64;
        /// Rounds towards 0.
        pub safe fn trunc(x: f64) -> f64;
    }
}
