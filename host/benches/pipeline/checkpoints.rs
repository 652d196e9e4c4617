//! What checkpoints cost: every tick changes the states of a thousand bindings, and all of them are written each time.

use std::time::Duration;

use serde_json::json;
use tocsin_bus::Bus;
use tocsin_engine::domain::Repeat;
use tocsin_store::Store;

use crate::rig::{Database, Rig, embedded};
use crate::throughput::{evaluate_all, publish};

const TICKS: usize = 1_000_000;

/// The best of so many counts: the machine is not alone.
const ROUNDS: usize = 4;

/// On ten symbols.
const BINDINGS: usize = 10_000;

/// Times between checkpoints. A run takes some seconds: the first is as good as never.
const INTERVALS: [Duration; 4] =
    [Duration::from_secs(60), Duration::from_secs(1), Duration::from_millis(250), Duration::from_millis(100)];

/// Counts its ticks and adds their prices up; never fires.
const COUNTER: &str = r#"(module (memory (export "memory") 1)
  (func (export "evaluate") (param $tick i32) (param i32) (param $state i32) (param i32) (result i32)
    (f64.store (local.get $state) (f64.add (f64.load (local.get $state)) (f64.const 1)))
    (f64.store offset=8 (local.get $state)
      (f64.add (f64.load offset=8 (local.get $state)) (f64.load (local.get $tick))))
    (i32.const 0))
  (@custom "tocsin.manifest" "{\"abi\":1,\"name\":\"counter\",\"version\":\"1.0.0\",\"state\":{\"size\":16}}"))"#;

pub(crate) async fn run(server: &str) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let bus = embedded(&folder)?;
    publish(&bus, TICKS).await?;
    println!(
        "\n{BINDINGS} states of 16 bytes, a thousand of them changed by each tick; ticks/s by time between checkpoints"
    );
    println!("{:<14} {}", "", INTERVALS.map(|interval| format!("{interval:>14?}")).join(""));
    let mut best = [[0.0_f64; INTERVALS.len()]; 2];
    for _ in 0..ROUNDS {
        for (i, interval) in INTERVALS.into_iter().enumerate() {
            let folder = tempfile::tempdir()?;
            let sqlite = measure(&bus, Store::open_sqlite(folder.path()).await?, interval).await?;
            let database = Database::make(server).await?;
            let postgres = measure(&bus, Store::open_postgres(&database.url).await?, interval).await;
            database.drop().await?;
            best[0][i] = best[0][i].max(sqlite);
            best[1][i] = best[1][i].max(postgres?);
        }
    }
    for (store, rates) in ["SQLite", "PostgreSQL"].into_iter().zip(best) {
        let shares = rates.map(|rate| format!("{rate:>9.0} {:>3.0}%", rate / rates[0] * 100.0));
        println!("{store:<14} {}", shares.join(""));
    }
    Ok(())
}

async fn measure(bus: &Bus, store: Store, interval: Duration) -> anyhow::Result<f64> {
    let rig = Rig::new(bus.clone(), store).await?;
    rig.upload(wat::parse_str(COUNTER)?).await?;
    rig.arm("counter", BINDINGS, |_| json!({}), Repeat::Every).await?;
    evaluate_all(rig.start(interval).await?, TICKS).await
}
