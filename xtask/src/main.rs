//! `cargo xtask`: Tocsin's development tasks. Each is a file of its own; this one only picks.

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod apt;
mod fuzz;
mod held_stack;
mod rules;
mod stack;
mod test;
mod tools;
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
    /// Build rules to WebAssembly: the examples, or a crate of yours.
    Rules(rules::Args),
    /// Kafka, Redis and PostgreSQL to develop against.
    Stack(stack::Args),
    /// Run every test, building what they need.
    Test,
    /// Kill processes and backends at random, and compare what came of it with an undisturbed run.
    Torture(torture::Args),
    /// Assemble WebAssembly text, manifest included; without arguments, the built-in rules.
    Wat(wat::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Rules(args) => rules::run(&args),
        Task::Stack(args) => stack::run(&args),
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

/// The root of the repository.
fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

/// Says what went wrong, with its causes.
#[allow(clippy::print_stderr)] // a task's errors are for the terminal
fn report(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}
