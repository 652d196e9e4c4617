//! Cargo as a child process.

use std::process::Command;

/// Returns Cargo with the environment that a shell would give it. Variables that Cargo set for this program are removed:
/// build scripts that depend on them would run again, and most of the workspace would be recompiled each time.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let is_of_cargo = |name: &str| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|start| name.starts_with(start));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_of_cargo) {
            cargo.env_remove(name);
        }
    }
    cargo
}
