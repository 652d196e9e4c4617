//! `cargo xtask fuzz`: runs the engine's fuzz targets for a while each, with cargo-fuzz. What they found before is kept,
//! and is where they go on.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::tools::{self, CARGO_FUZZ};

/// Where the targets are, in the workspace.
const FUZZ_FOLDER: &str = "engine/fuzz";

/// The longest input, in bytes: generated modules have some hundred operators.
const MAX_INPUT_BYTES: u32 = 8192;

/// Seeds of noise, and the bytes of one: enough that what a grammar makes of it has all of its parts.
const NOISE_FILES: u64 = 32;
const NOISE_BYTES: usize = 4096;

/// The longest that one input may take, in seconds: a thousandth of it is usual. Longer is found as a hang.
const MAX_INPUT_SECONDS: u32 = 20;

/// The most memory of a target, in MiB: inputs that make it grow are found.
const MAX_MEMORY_MIB: u32 = 3072;

/// A target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Target {
    /// Any bytes are inspected
    Validator,
    /// Any manifest is parsed, and params are packed by it
    Manifest,
    /// Generated modules that pass inspection are re-encoded and compiled
    Injection,
    /// Generated rules are evaluated beside honest ones
    Evaluation,
    /// Modules that attack the layout of memory, against a twin whose every store is guarded
    Layout,
}

const ALL: [Target; 5] = [Target::Validator, Target::Manifest, Target::Injection, Target::Evaluation, Target::Layout];

/// What `cargo xtask fuzz` takes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long each target runs, in seconds
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// One target [default: all, one after the other]
    #[arg(long, value_enum, value_name = "T")]
    target: Option<Target>,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Validator => "validator",
            Self::Manifest => "manifest",
            Self::Injection => "injection",
            Self::Evaluation => "evaluation",
            Self::Layout => "layout",
        }
    }

    /// Files of the repository to begin with.
    fn seeds(self) -> &'static [&'static str] {
        match self {
            Self::Validator => &["engine/src/builtin/above.wasm", "engine/src/builtin/below.wasm"],
            Self::Manifest => &["example-rules/other-languages/volume-above.json"],
            Self::Injection | Self::Evaluation | Self::Layout => &[],
        }
    }

    /// Whether it makes something of any bytes by a grammar, and so begins with noise too.
    fn has_grammar(self) -> bool {
        self != Self::Validator
    }
}

/// Runs the targets; the first that finds something ends the run.
pub(crate) fn run(args: &Args) -> Result<()> {
    CARGO_FUZZ.install()?;
    let targets = args.target.map_or(ALL.to_vec(), |target| vec![target]);
    for target in targets {
        let corpus = corpus(target)?;
        let mut fuzz = cargo_fuzz_run()?;
        fuzz.arg(target.name()).arg(corpus).arg("--");
        fuzz.arg(format!("-max_total_time={}", args.seconds));
        // Short inputs generate nothing, and the entropic schedule spends its time on the many features of a compiler.
        fuzz.args(["-len_control=0", "-entropic=0"]);
        fuzz.arg(format!("-max_len={MAX_INPUT_BYTES}"));
        fuzz.arg(format!("-timeout={MAX_INPUT_SECONDS}"));
        fuzz.arg(format!("-rss_limit_mb={MAX_MEMORY_MIB}"));
        if !fuzz.status().context("cannot run cargo fuzz")?.success() {
            bail!("the target {} found something, or was not built: see above", target.name());
        }
    }
    Ok(())
}

/// `cargo fuzz run`, up to the target's name. Without a sanitizer, since there is no unsafe code to be watched, and with
/// `-O`, which leaves assertions to the fuzz crate's profile: Cranelift's own are not what is looked for. It instruments
/// by compiler flags that are unstable, hence the variable.
fn cargo_fuzz_run() -> Result<Command> {
    let mut command = Command::new("cargo");
    command.args(["fuzz", "run", "-O", "--sanitizer", "none", "--codegen-units", "16", "--fuzz-dir", FUZZ_FOLDER]);
    command.arg("--target-dir").arg(tools::target_folder()?.join("fuzz"));
    command.current_dir(crate::workspace()).env("PATH", tools::path()?).env("RUSTC_BOOTSTRAP", "1");
    Ok(command)
}

/// The folder of a target's inputs, with its seeds in it.
fn corpus(target: Target) -> Result<PathBuf> {
    let folder = tools::target_folder()?.join("fuzz-corpus").join(target.name());
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let write = |name: &str, bytes: &[u8]| {
        let file = folder.join(name);
        std::fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))
    };
    for file in target.seeds() {
        let bytes = std::fs::read(crate::workspace().join(file)).with_context(|| format!("cannot read {file}"))?;
        write(&file.replace('/', "-"), &bytes)?;
    }
    if target.has_grammar() {
        (1..=NOISE_FILES).try_for_each(|seed| write(&format!("noise-{seed}"), &noise(seed)))?;
    }
    Ok(folder)
}

/// Bytes without a pattern, by Marsaglia's xorshift64. The seed is not 0.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(NOISE_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_one_of_the_fuzz_crates() {
        let manifest = std::fs::read_to_string(crate::workspace().join(FUZZ_FOLDER).join("Cargo.toml")).unwrap();
        let names: Vec<&str> = manifest
            .split("[[bin]]\nname = \"")
            .skip(1)
            .map(|rest| rest.split_once('"').expect("a name ends").0)
            .collect();
        assert_eq!(names, ALL.map(Target::name));
    }

    #[test]
    fn seeds_are_there_and_differ() {
        for file in ALL.into_iter().flat_map(Target::seeds) {
            assert!(crate::workspace().join(file).is_file(), "{file}");
        }
        // The first steps from a small seed are not noise yet.
        let zeroes = noise(1).iter().filter(|byte| **byte == 0).count();
        assert!(zeroes < NOISE_BYTES / 64 && noise(1) != noise(2), "{zeroes}");
    }
}
