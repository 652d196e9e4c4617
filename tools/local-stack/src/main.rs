//! The local stack as a program of its own; `cargo xtask stack` takes the same arguments.

use clap::Parser;

#[derive(Parser)]
#[command(name = "local-stack", about = "Kafka, Redis and PostgreSQL to develop and test Tocsin against")]
struct Cli {
    #[command(flatten)]
    args: local_stack::Args,
}

fn main() -> anyhow::Result<()> {
    local_stack::run(&Cli::parse().args)
}
