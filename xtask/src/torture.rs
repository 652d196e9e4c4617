//! `cargo xtask torture`: tests that no crash loses or doubles a firing, on a stack of its own, whose services are killed as
//! well. The test itself is `host/tests/torture`.

use anyhow::{Context as _, Result, ensure};
use local_stack::brokers;

use crate::cargo::cargo;

/// The arguments of `cargo xtask torture`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many times to kill a process, failpoints included
    #[arg(long, default_value_t = 1000, value_name = "N")]
    kills: u32,
    /// Seed of the choice of processes and times; printed at the start of each run [default: random]
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
    /// Number of Kafka brokers: of three, one at a time is killed without an outage
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = brokers())]
    brokers: u8,
}

/// Starts a stack, builds the server with failpoints, and runs the test.
pub(crate) fn run(args: &Args) -> Result<()> {
    let stack = crate::held_stack(args.brokers)?;
    let mut torture = cargo();
    torture.args(["test", "--package", "tocsin", "--features", "failpoints", "--test", "torture"]);
    torture.envs(stack.environment()).env("TOCSIN_TORTURE_KILLS", args.kills.to_string());
    torture.env("TOCSIN_TORTURE_XTASK", std::env::current_exe().context("cannot find this program")?);
    torture.env("TOCSIN_TORTURE_STACK", stack.folder());
    if let Some(seed) = args.seed {
        torture.env("TOCSIN_TORTURE_SEED", seed.to_string());
    }
    let status = torture.status();
    stack.down()?;
    ensure!(status?.success(), "the torture test failed, or could not run: see above");
    Ok(())
}
