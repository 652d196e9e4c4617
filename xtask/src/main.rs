//! `cargo xtask`: Tocsin's development tasks, one file each. The local stack is the crate `local-stack`.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use local_stack::HeldStack;

mod cargo;
mod fuzz;
mod rules;
mod simulate;
mod test;
mod torture;
mod wat;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tocsin's development tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fuzz the engine.
    Fuzz(fuzz::Args),
    /// Build rules to WebAssembly: the example rules, or one crate.
    Rules(rules::Args),
    /// Simulate evaluators under a seeded scheduler, and compare the results with an oracle.
    Simulate(simulate::Args),
    /// Start and stop Kafka, Redis and PostgreSQL to develop against.
    Stack(local_stack::Args),
    /// Run every test, with what they need built, installed and started.
    Test,
    /// Kill processes and backends at random, and compare the results with an undisturbed run.
    Torture(torture::Args),
    /// Assemble WebAssembly text with its manifest; without arguments, the built-in rules.
    Wat(wat::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Rules(args) => rules::run(&args),
        Task::Simulate(args) => simulate::run(&args),
        Task::Stack(args) => local_stack::run(&args),
        Task::Test => test::run(),
        Task::Torture(args) => torture::run(&args),
        Task::Wat(args) => wat::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// Starts a stack for one run of the tests.
fn held_stack(brokers: u8) -> Result<HeldStack> {
    let mut stack = Command::new(std::env::current_exe().context("cannot find this program")?);
    stack.arg("stack");
    HeldStack::up(stack, brokers)
}

/// Returns the root of the repository.
fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the repository")
}

/// Prints an error with its causes.
#[allow(clippy::print_stderr)] // a task's errors are for the terminal
fn report(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}
