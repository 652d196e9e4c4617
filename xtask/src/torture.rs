//! `cargo xtask torture`: proves that no crash loses or doubles a firing, with a stack of its own, whose parts are killed as
//! well. What is done and compared is in `host/tests/torture`.

use anyhow::{Context as _, Result, ensure};

use crate::held_stack::HeldStack;
use crate::stack::brokers;
use crate::tools;

/// What `cargo xtask torture` takes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often a process is killed, failpoints included
    #[arg(long, default_value_t = 1000, value_name = "N")]
    kills: u32,
    /// What chooses who is killed, and when; told at the start of each run [default: chosen anew]
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
    /// Brokers of the Kafka cluster: of three, one at a time is killed and missed by nobody
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = brokers())]
    brokers: u8,
}

/// Brings a stack up, builds the program with its failpoints, and runs.
pub(crate) fn run(args: &Args) -> Result<()> {
    let stack = HeldStack::up(args.brokers)?;
    let mut torture = tools::cargo();
    torture.args(["test", "--package", "tocsin", "--features", "failpoints", "--test", "torture"]);
    torture.envs(stack.environment()).env("TOCSIN_TORTURE_KILLS", args.kills.to_string());
    torture.env("TOCSIN_TORTURE_XTASK", std::env::current_exe().context("cannot find this program")?);
    torture.env("TOCSIN_TORTURE_STACK", stack.folder());
    if let Some(seed) = args.seed {
        torture.env("TOCSIN_TORTURE_SEED", seed.to_string());
    }
    let status = torture.status();
    stack.down()?;
    ensure!(status?.success(), "exactly-once does not hold, or was not shown: see above");
    Ok(())
}
