//! `cargo xtask simulate`: runs the evaluator's deterministic simulator, optimised, on all cores. The simulator is
//! `host/src/evaluator/simulation`.

use std::thread::available_parallelism;

use anyhow::{Result, ensure};

use crate::cargo::cargo;

/// The arguments of `cargo xtask simulate`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many runs
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    runs: u64,
    /// Seed of the first run; each next run has the next seed
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
}

/// Builds the simulator and runs it.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut simulate = cargo();
    simulate.args(["test", "--release", "--package", "tocsin", "--lib", "--", "--nocapture"]);
    simulate.arg("evaluator::simulation::all_that_may_happen");
    simulate.env("TOCSIN_SIM_RUNS", args.runs.to_string()).env("TOCSIN_SIM_SEED", args.seed.to_string());
    simulate.env("TOCSIN_SIM_THREADS", available_parallelism()?.to_string());
    ensure!(simulate.status()?.success(), "a run differs from what the oracle says, or none could be made: see above");
    Ok(())
}
