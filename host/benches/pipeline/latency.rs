//! From the publication of a tick until the store has its firing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tocsin_engine::domain::{Conditions, Repeat, Tenant, Tick};
use tocsin_store::Store;

use crate::rig::{CHECKPOINT_INTERVAL, Database, Rig, embedded, quiet_tick, symbol, topic};

/// Ticks a second: one batch every [`STEP`].
const RATE: usize = 10_000;

const STEP: Duration = Duration::from_millis(5);

const SECONDS: usize = 10;

/// One tick of so many fires.
const FIRES_EVERY: usize = 100;

/// Above every price of a quiet tick.
const TARGET: f64 = 1_000.0;

pub(crate) async fn run(brokers: &str, database: &str) -> anyhow::Result<()> {
    println!(
        "\n{:<44} {:>9} {:>9} {:>9}",
        "published -> firing committed, 10,000 ticks/s", "p50 ms", "p99 ms", "max ms"
    );
    let folder = tempfile::tempdir()?;
    let store = Store::open_sqlite(folder.path()).await?;
    measure("embedded", Rig::new(embedded(&folder)?, store).await?).await?;
    let database = Database::make(database).await?;
    let store = Store::open_postgres(&database.url).await?;
    let measured = measure("Kafka and PostgreSQL", Rig::new(topic(brokers).await?.0, store).await?).await;
    database.drop().await?;
    measured
}

async fn measure(name: &str, rig: Rig) -> anyhow::Result<()> {
    rig.arm_above(10, TARGET, Repeat::Every).await?;
    let running = rig.start(CHECKPOINT_INTERVAL).await?;
    let mut newest = rig.store.newest_firing().await?;
    let mut after = *newest.borrow_and_update();
    let publisher = tokio::spawn(publish(rig.bus.clone()));
    let expected = RATE * SECONDS / FIRES_EVERY;
    let mut committed = HashMap::new();
    while committed.len() < expected {
        newest.changed().await?;
        newest.borrow_and_update();
        let firings = rig.store.firings(&Tenant::standard(), None, after, 10_000).await?;
        let now = Instant::now();
        for (seq, firing) in firings {
            after = seq;
            committed.insert(firing.tick.price.to_bits(), now);
        }
    }
    let published = publisher.await??;
    let mut waits: Vec<f64> = published
        .iter()
        .filter_map(|(price, at)| Some(committed.get(price)?.duration_since(*at).as_secs_f64() * 1e3))
        .collect();
    waits.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
    println!("{name:<44} {:>9.2} {:>9.2} {:>9.2}", at(0.5), at(0.99), at(1.0));
    running.stop().await
}

/// Publishes at an even rate; says when each tick that fires was handed to the bus, by its price.
async fn publish(bus: tocsin_bus::Bus) -> anyhow::Result<Vec<(u64, Instant)>> {
    let batch = (RATE as f64 * STEP.as_secs_f64()) as usize;
    let mut published = Vec::new();
    let mut timer = tokio::time::interval(STEP);
    for first in (0..RATE * SECONDS).step_by(batch) {
        timer.tick().await;
        let now = Instant::now();
        let tick = |i: usize| {
            if !i.is_multiple_of(FIRES_EVERY) {
                return Ok(quiet_tick(i));
            }
            let price = TARGET * 2.0 + i as f64;
            Tick::new(symbol(i / FIRES_EVERY), price, 1.0, 0, Conditions::default())
        };
        let ticks = (first..first + batch).map(tick).collect::<Result<Vec<_>, _>>()?;
        published.extend(ticks.iter().filter(|tick| tick.price > TARGET).map(|tick| (tick.price.to_bits(), now)));
        bus.publish(ticks).await?;
    }
    Ok(published)
}
