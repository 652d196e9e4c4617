//! `cargo xtask test`: installs, builds and starts what the tests need, and runs all of them.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use local_stack::apt;
use local_stack::tools::{ASSEMBLYSCRIPT, ZIG};

use crate::cargo::cargo;
use crate::rules;

/// The Debian packages that build rules where rustup's wasm32 target is not installed.
const RULE_PACKAGES: [&str; 3] = ["rustc-web", "libstd-rust-web-dev", "rust-web-src"];

/// Programs that tests start, each with its Debian package: the first two build rules in C, npm downloads the compiler of
/// AssemblyScript, curl is in the README's commands, and the last parses docker-compose.yml.
const TOOLS: [(&str, &str); 5] =
    [("clang", "clang"), ("wasm-ld", "lld"), ("npm", "npm"), ("curl", "curl"), ("docker-compose", "docker-compose")];

/// Builds the example rules, starts a stack, and runs the tests of the whole workspace against it.
pub(crate) fn run() -> Result<()> {
    apt::install(&missing(rules::can_build(), is_installed));
    // The other compilers of docs/other-languages.md. If one cannot be installed, the test that needs it fails.
    for compiler in [ASSEMBLYSCRIPT, ZIG] {
        compiler.install().unwrap_or_else(|error| crate::report(&error));
    }
    rules::run(&rules::Args::default())?;
    let stack = crate::held_stack(1)?;
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--no-fail-fast", "--features", "tocsin/failpoints"]);
    let tested = run_and_collect(tests.envs(stack.environment()));
    stack.down()?;
    let (succeeded, failures) = tested?;
    ensure!(succeeded, "a test failed. What was printed of failures, once more:\n{}", failures.join("\n"));
    Ok(())
}

/// Runs tests and prints what they print. Returns whether all passed, and the lines about failures: the whole output is long,
/// and where it is cut its end is what is kept.
fn run_and_collect(tests: &mut Command) -> Result<(bool, Vec<String>)> {
    let mut child = tests.stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().context("the tests have an output")?;
    let mut failures = Failures::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        failures.read(line);
    }
    Ok((child.wait()?.success(), failures.lines))
}

/// Lines of output that are about failures, each with some that follow it.
#[derive(Default)]
struct Failures {
    lines: Vec<String>,
    following: usize,
}

impl Failures {
    const FOLLOWING: usize = 12;
    const MAX_LINES: usize = 120;

    fn read(&mut self, line: String) {
        if ["FAILED", "panicked at"].iter().any(|word| line.contains(word)) {
            self.following = Self::FOLLOWING;
        }
        // What it compared, and what differs.
        if line.starts_with("torture:") {
            self.following = self.following.max(1);
        }
        if self.following > 0 && self.lines.len() < Self::MAX_LINES {
            self.following -= 1;
            self.lines.push(line);
        }
    }
}

/// Returns the packages that this machine lacks.
fn missing(can_build_rules: bool, has: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let for_rules = RULE_PACKAGES.into_iter().filter(|_| !can_build_rules);
    let for_tests = TOOLS.into_iter().filter(|(tool, _)| !has(tool)).map(|(_, package)| package);
    for_rules.chain(for_tests).collect()
}

fn is_installed(tool: &str) -> bool {
    let succeeds = |tool: &str, arguments: &[&str]| {
        Command::new(tool).args(arguments).output().is_ok_and(|output| output.status.success())
    };
    succeeds(tool, &["--version"]) || (tool == "docker-compose" && succeeds("docker", &["compose", "version"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_collected_with_what_follows_them() {
        let mut failures = Failures::default();
        failures.read("test one ... ok".into());
        failures.read("torture: FAILED: a process ended".into());
        failures.read("  its log".into());
        (0..20).for_each(|_| failures.read("test two ... ok".into()));
        assert_eq!(failures.lines.len(), Failures::FOLLOWING);
        assert_eq!(failures.lines[..2], ["torture: FAILED: a process ended", "  its log"]);
    }

    #[test]
    fn only_what_is_missing_is_installed() {
        assert!(missing(true, |_| true).is_empty());
        assert_eq!(missing(true, |tool| tool != "wasm-ld"), ["lld"]);
        assert_eq!(
            missing(false, |tool| tool == "curl"),
            [&RULE_PACKAGES[..], &["clang", "lld", "npm", "docker-compose"]].concat()
        );
    }
}
