//! `cargo xtask test`: every test, with what they need installed and built first.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::rules;

/// Debian's packages that build rules where rustup has no wasm32 target, and those of the C example in docs/abi.md.
const PACKAGES: [&str; 5] = ["rustc-web", "libstd-rust-web-dev", "rust-web-src", "clang", "lld"];

/// Builds the example rules, then runs the tests of the whole workspace.
pub(crate) fn run() -> Result<()> {
    if !rules::can_build() {
        // Where this fails, building the rules says what to install.
        for arguments in [vec!["update"], [vec!["install", "--yes", "--quiet"], PACKAGES.to_vec()].concat()] {
            let _ = Command::new("apt-get").args(&arguments).env("DEBIAN_FRONTEND", "noninteractive").status();
        }
    }
    rules::run(&rules::Args::default())?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(["test", "--workspace", "--no-fail-fast"]).status()?;
    ensure!(status.success(), "a test failed: see above");
    Ok(())
}
