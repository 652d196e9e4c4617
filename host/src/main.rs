//! The binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    // SAFETY: this is the only thread.
    #[expect(unsafe_code, reason = "the environment is written to")]
    unsafe {
        tocsin::program::run()
    }
}
