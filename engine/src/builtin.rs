//! The rules that every server has: `above` and `below`. They are ordinary modules. The modules are kept next to their
//! sources, so that building this crate needs no WebAssembly toolchain.

/// `above`: fires when the price is at or above `target`.
pub const ABOVE: &[u8] = include_bytes!("builtin/above.wasm");

/// `below`: fires when the price is at or below `target`.
pub const BELOW: &[u8] = include_bytes!("builtin/below.wasm");

/// All built-in modules.
pub const ALL: [&[u8]; 2] = [ABOVE, BELOW];

#[cfg(test)]
mod tests {
    use super::*;

    /// The digest of a built-in rule is stored with each of its alerts: the module must correspond to its source, and must
    /// not change without a new version.
    #[test]
    fn the_modules_are_assembled_from_their_sources() {
        let (above, below) = (include_str!("builtin/above.wat"), include_str!("builtin/below.wat"));
        for (source, module) in [(above, ABOVE), (below, BELOW)] {
            assert!(wat::parse_str(source).unwrap() == module, "assemble the .wat again: cargo xtask wat");
        }
    }
}
