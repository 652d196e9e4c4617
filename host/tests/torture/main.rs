//! Exactly-once firings, tortured: a process for each role over a real Kafka, Redis and PostgreSQL, killed, held still,
//! stopped and let die at named points while ticks come, and while alerts are created, deleted and promoted. Then one
//! evaluator evaluates the same ticks undisturbed, and every firing, state and record is compared: nothing may be lost, doubled
//! or different.
//!
//! `cargo xtask torture --kills N` runs it with a stack of its own, whose parts are killed as well. As one of the tests it
//! has 20 kills, and leaves the stack alone. What is done is chosen by a seed, which is printed first.

mod another_log;
mod clients;
mod compare;
mod db;
mod environment;
mod first_ticks;
mod halts;
mod load;
mod plan;
mod processes;
mod proxy;
mod reference;
mod run;
mod stack;
mod topics;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;

/// Kills where none are asked for: as many as a test has time for.
const DEFAULT_KILLS: usize = 20;

/// The name by which `cargo test` filters.
const NAME: &str = "torture";

/// Whether this test is meant by what `cargo test` passes on: filters, and options for those that have a harness.
fn is_asked_for(arguments: impl IntoIterator<Item = String>) -> bool {
    let (mut filters, mut arguments) = (Vec::new(), arguments.into_iter());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--skip" if arguments.next().is_some_and(|skipped| NAME.contains(&skipped)) => return false,
            "--test-threads" | "--format" | "--color" | "--logfile" | "-Z" => _ = arguments.next(),
            option if option.starts_with('-') => {}
            _ => filters.push(argument),
        }
    }
    filters.is_empty() || filters.iter().any(|filter| NAME.contains(filter.as_str()))
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--list") {
        println!("{NAME}: test");
        return ExitCode::SUCCESS;
    }
    if !is_asked_for(std::env::args().skip(1)) {
        println!("torture: filtered out");
        return ExitCode::SUCCESS;
    }
    let begun = Instant::now();
    match torture() {
        Ok(true) => {
            println!("torture: 0 lost, 0 duplicated, 0 different; {} s", begun.elapsed().as_secs());
            ExitCode::SUCCESS
        }
        Ok(false) => {
            println!("torture: FAILED, see above; {} s", begun.elapsed().as_secs());
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("torture: FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn torture() -> anyhow::Result<bool> {
    let number = |name: &str| -> anyhow::Result<Option<u64>> {
        let text = std::env::var(name).ok();
        text.map(|text| text.parse().with_context(|| format!("{name}={text} is no number"))).transpose()
    };
    let kills = number("TOCSIN_TORTURE_KILLS")?.map_or(DEFAULT_KILLS, |kills| kills as usize);
    let seed = number("TOCSIN_TORTURE_SEED")?.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    println!("torture: {kills} kills, TOCSIN_TORTURE_SEED={seed}");
    if !cfg!(feature = "failpoints") {
        println!("torture: no failpoints: they are in a build with --features failpoints, as `cargo xtask test` makes");
    }
    run::run(kills, seed)
}
