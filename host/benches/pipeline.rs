//! How fast ticks go from the bus to stored firings, side by side in one run: a bare Kafka consumer that only decodes, the
//! evaluate role on the same topic with none to 100,000 armed alerts, and the embedded bus; and how long a firing takes
//! from the publication of its tick until the store has it; and what checkpoints cost.
//!
//! `cargo xtask stack up` prints what `KAFKA_BROKERS` and `DATABASE_URL` must be. With `TOCSIN_BENCH_TICKS` other than
//! 1,000,000 ticks are read. What is compared takes turns, since the machine is not alone; the best of each counts.

#[path = "pipeline/checkpoints.rs"]
mod checkpoints;
#[path = "pipeline/latency.rs"]
mod latency;
#[path = "pipeline/rig.rs"]
mod rig;
#[path = "pipeline/throughput.rs"]
mod throughput;

use anyhow::Context;

fn main() -> anyhow::Result<()> {
    // What `cargo test --benches` asks for is no measurement.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let brokers =
        std::env::var("KAFKA_BROKERS").context("KAFKA_BROKERS is not set: `cargo xtask stack up` tells it")?;
    let database = std::env::var("DATABASE_URL").context("DATABASE_URL is not set: `cargo xtask stack up` tells it")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        throughput::run(&brokers).await?;
        latency::run(&brokers, &database).await?;
        checkpoints::run(&database).await
    })
}
