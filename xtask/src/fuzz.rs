//! `cargo xtask fuzz`: runs each of the engine's fuzz targets for some time, with cargo-fuzz. Their corpora are kept, and the
//! next run continues from them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use local_stack::tools::{self, CARGO_FUZZ};

/// The folder of the fuzz crate, in the repository.
const FUZZ_FOLDER: &str = "engine/fuzz";

/// The longest input, in bytes: generated modules have about a hundred operators.
const MAX_INPUT_BYTES: u32 = 8192;

/// The number of random seed inputs, and the bytes of each: enough for a grammar to generate all of its parts.
const NOISE_FILES: u64 = 32;
const NOISE_BYTES: usize = 4096;

/// An input that takes longer, in seconds, is reported as a hang. A thousandth of it is usual.
const MAX_INPUT_SECONDS: u32 = 20;

/// The most memory of a target, in MiB. An input that needs more is reported.
const MAX_MEMORY_MIB: u32 = 3072;

/// A fuzz target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Target {
    /// Inspects any bytes
    Validator,
    /// Parses any manifest, and packs params by it
    Manifest,
    /// Re-encodes and compiles generated modules that pass inspection
    Injection,
    /// Evaluates generated rules beside built-in ones
    Evaluation,
    /// Compares modules that attack the layout of memory with twins whose stores are all guarded
    Layout,
}

const ALL: [Target; 5] = [Target::Validator, Target::Manifest, Target::Injection, Target::Evaluation, Target::Layout];

/// The arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long to run each target, in seconds
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// The target to run [default: all, one after the other]
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

    /// Returns the files of the repository that seed the corpus.
    fn seeds(self) -> &'static [&'static str] {
        match self {
            Self::Validator => &["engine/src/builtin/above.wasm", "engine/src/builtin/below.wasm"],
            Self::Manifest => &["example-rules/other-languages/volume-above.json"],
            Self::Injection | Self::Evaluation | Self::Layout => &[],
        }
    }

    /// Returns whether the target generates its input from any bytes by a grammar, so that random bytes are seeds too.
    fn has_grammar(self) -> bool {
        self != Self::Validator
    }
}

/// Runs the targets, up to the first that finds a bug.
pub(crate) fn run(args: &Args) -> Result<()> {
    CARGO_FUZZ.install()?;
    let targets = args.target.map_or(ALL.to_vec(), |target| vec![target]);
    for target in targets {
        let corpus = corpus(target)?;
        let mut fuzz = cargo_fuzz_run()?;
        fuzz.arg(target.name()).arg(corpus).arg("--");
        fuzz.arg(format!("-max_total_time={}", args.seconds));
        // Short inputs generate nothing, and the entropic schedule would spend its time on the many features of a compiler.
        fuzz.args(["-len_control=0", "-entropic=0"]);
        fuzz.arg(format!("-max_len={MAX_INPUT_BYTES}"));
        fuzz.arg(format!("-timeout={MAX_INPUT_SECONDS}"));
        fuzz.arg(format!("-rss_limit_mb={MAX_MEMORY_MIB}"));
        if !fuzz.status().context("cannot run cargo fuzz")?.success() {
            bail!("the fuzz target {} found a bug, or could not be built: see above", target.name());
        }
    }
    Ok(())
}

/// Returns `cargo fuzz run`, up to the target's name. It runs without a sanitizer, since there is no unsafe code to check,
/// and with `-O`, which leaves assertions to the fuzz crate's profile: Cranelift's are not under test. The instrumentation
/// is by unstable compiler flags, hence `RUSTC_BOOTSTRAP`.
fn cargo_fuzz_run() -> Result<Command> {
    let mut command = Command::new("cargo");
    command.args(["fuzz", "run", "-O", "--sanitizer", "none", "--codegen-units", "16", "--fuzz-dir", FUZZ_FOLDER]);
    command.arg("--target-dir").arg(tools::target_folder()?.join("fuzz"));
    command.current_dir(crate::workspace()).env("PATH", tools::path()?).env("RUSTC_BOOTSTRAP", "1");
    Ok(command)
}

/// Returns the folder of a target's corpus, after writing its seeds there.
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

/// Returns pseudorandom bytes, by Marsaglia's xorshift64. The seed must not be 0.
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
    fn the_targets_are_those_of_the_fuzz_crate() {
        let manifest = std::fs::read_to_string(crate::workspace().join(FUZZ_FOLDER).join("Cargo.toml")).unwrap();
        let names: Vec<&str> = manifest
            .split("[[bin]]\nname = \"")
            .skip(1)
            .map(|rest| rest.split_once('"').expect("a name ends").0)
            .collect();
        assert_eq!(names, ALL.map(Target::name));
    }

    #[test]
    fn seeds_exist_and_differ() {
        for file in ALL.into_iter().flat_map(Target::seeds) {
            assert!(crate::workspace().join(file).is_file(), "{file}");
        }
        // The first steps from a small seed are not random yet.
        let zeroes = noise(1).iter().filter(|byte| **byte == 0).count();
        assert!(zeroes < NOISE_BYTES / 64 && noise(1) != noise(2), "{zeroes}");
    }
}
