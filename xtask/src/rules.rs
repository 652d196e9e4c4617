//! `cargo xtask rules`: builds rule crates to WebAssembly.
//!
//! The compiler is rustup's if its wasm32 target is installed. Otherwise it is Debian's, which comes with the source of
//! `core`, and `core` is compiled with each rule: <https://doc.rust-lang.org/cargo/reference/unstable.html#build-std>.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use local_stack::tools;
use serde_json::Value;

use crate::cargo::cargo;

const TARGET: &str = "wasm32-unknown-unknown";

/// The stack of a rule, in bytes. The compiler's default of 1 MiB would give every instance 17 pages of memory. With this
/// size, stack and constants of a rule fit into one page of 64 KiB. A stack overflow traps.
const STACK_BYTES: u32 = 32 * 1024;

/// The build profile of a rule. It is passed to Cargo on the command line and not kept in a Cargo.toml, so that it applies
/// to crates outside of this workspace too. Speed comes before size, since a rule runs on every tick.
const PROFILE: [&str; 6] = [
    r#"profile.rule.inherits="release""#,
    "profile.rule.opt-level=3",
    r#"profile.rule.lto="fat""#,
    "profile.rule.codegen-units=1",
    r#"profile.rule.panic="abort""#,
    r#"profile.rule.strip="symbols""#,
];

/// Debian's compiler, and a file that exists if the source of `core` is installed.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const CORE_SOURCE: &str = "lib/rustlib/src/rust/library/core/Cargo.toml";

const HOW_TO_INSTALL: &str = "this machine has no compiler for wasm32. Install one of these, then try again:
    rustup target add wasm32-unknown-unknown                            (Rust from rustup.rs)
    apt-get install rustc-web libstd-rust-web-dev rust-web-src          (Debian)";

/// The arguments of `cargo xtask rules`.
#[derive(Default, clap::Args)]
pub(crate) struct Args {
    /// The folder for the modules, NAME.wasm [default: target/rules]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The Cargo.toml of one rule crate, instead of the example rules
    #[arg(long, value_name = "PATH")]
    manifest_path: Option<PathBuf>,
}

/// Builds the rules, copies the modules and prints their sizes.
pub(crate) fn run(args: &Args) -> Result<()> {
    let target_dir = tools::target_folder()?;
    let out = args.out.clone().unwrap_or_else(|| target_dir.join("rules"));
    let manifests = match &args.manifest_path {
        Some(path) => vec![path.clone()],
        None => example_manifests(&crate::workspace().join("example-rules"))?,
    };
    let toolchain = Toolchain::find()?;
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    for manifest in &manifests {
        let module = toolchain.build(manifest, &target_dir)?;
        let name = module.file_stem().unwrap_or_default().to_string_lossy().replace('_', "-");
        let copy = out.join(name).with_extension("wasm");
        let bytes = std::fs::copy(&module, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
        println!("{bytes:>8} bytes  {}", copy.display());
    }
    Ok(())
}

/// Returns whether this machine has a compiler for rules.
pub(crate) fn can_build() -> bool {
    Toolchain::find().is_ok()
}

/// Returns the Cargo.toml of each folder in `examples`, sorted.
fn example_manifests(examples: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(examples).with_context(|| format!("cannot read {}", examples.display()))?;
    let mut manifests = Vec::new();
    for entry in entries {
        let manifest = entry?.path().join("Cargo.toml");
        if manifest.is_file() {
            manifests.push(manifest);
        }
    }
    manifests.sort();
    Ok(manifests)
}

/// A compiler for wasm32.
enum Toolchain {
    /// Cargo's default compiler, with the target installed.
    Installed,
    /// Debian's, which compiles `core` first.
    Debian {
        /// The linker of the default toolchain, if it has one: Debian's compiler comes without.
        linker: Option<PathBuf>,
    },
}

impl Toolchain {
    fn find() -> Result<Self> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let rustc = Path::new(&rustc);
        if print(rustc, "target-libdir", &["--target", TARGET]).is_some_and(|libraries| libraries.is_dir()) {
            return Ok(Self::Installed);
        }
        let debian = Path::new(DEBIAN_RUSTC);
        let has_source = print(debian, "sysroot", &[]).is_some_and(|sysroot| sysroot.join(CORE_SOURCE).is_file());
        ensure!(has_source, HOW_TO_INSTALL);
        // The libraries of the machine's own target are in `…/lib`, its tools beside them in `…/bin`.
        let linker =
            print(rustc, "target-libdir", &[]).map(|libraries| libraries.with_file_name("bin").join("rust-lld"));
        Ok(Self::Debian { linker: linker.filter(|linker| linker.is_file()) })
    }

    /// Builds one crate and returns the path of its module.
    fn build(&self, manifest: &Path, target_dir: &Path) -> Result<PathBuf> {
        let mut cargo = cargo();
        for setting in PROFILE {
            cargo.args(["--config", setting]);
        }
        // `--crate-type`, so that a rule crate need not declare itself a cdylib.
        cargo.args(["rustc", "--lib", "--crate-type", "cdylib", "--profile", "rule", "--target", TARGET]);
        cargo.args(["--message-format", "json-render-diagnostics", "--manifest-path"]).arg(manifest);
        cargo.arg("--target-dir").arg(target_dir);
        if let Self::Debian { linker } = self {
            cargo.args(["-Z", "build-std=core"]).env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
            if let Some(linker) = linker {
                cargo.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
            }
        }
        cargo.arg("--").arg(format!("-Clink-arg=-zstack-size={STACK_BYTES}"));
        let output = cargo.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
        if !output.status.success() {
            bail!("cannot build {}: see above", manifest.display());
        }
        // The rule is built last, after its dependencies.
        let messages = String::from_utf8_lossy(&output.stdout);
        let module = messages.lines().rev().find_map(module_path);
        module.with_context(|| format!("{} has no library target that builds a module", manifest.display()))
    }
}

/// Returns the module that a JSON message of Cargo names, if it names one.
fn module_path(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    let mut files = message["filenames"].as_array()?.iter().filter_map(Value::as_str);
    files.find(|file| file.ends_with(".wasm")).map(PathBuf::from)
}

/// Returns a path that `rustc --print` prints.
fn print(rustc: &Path, what: &str, args: &[&str]) -> Option<PathBuf> {
    let output = Command::new(rustc).args(["--print", what]).args(args).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(path.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_found_among_cargos_messages() {
        let module = r#"{"reason":"compiler-artifact","filenames":["/t/my_rule.wasm"]}"#;
        assert_eq!(module_path(module), Some(PathBuf::from("/t/my_rule.wasm")));
        let library = r#"{"reason":"compiler-artifact","filenames":["/t/libcore.rlib","/t/libcore.rmeta"]}"#;
        for other in [library, r#"{"reason":"build-finished","success":true}"#, "not JSON"] {
            assert_eq!(module_path(other), None, "{other}");
        }
    }

    #[test]
    fn every_example_is_built() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../example-rules");
        let manifests = example_manifests(&examples).unwrap();
        for name in ["ema-cross", "percent-move", "volume-spike"] {
            assert!(manifests.contains(&examples.join(name).join("Cargo.toml")), "{name}: {manifests:?}");
        }
    }
}
