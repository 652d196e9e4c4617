//! Ticks a second.

use std::time::{Duration, Instant};

use anyhow::Context;
use prost::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, error::KafkaError};
use tocsin_bus::{Bus, KafkaConfig};
use tocsin_engine::domain::Repeat;
use tocsin_proto::stock::StockTick;
use tocsin_store::Store;

use crate::rig::{CHECKPOINT_INTERVAL, Rig, Running, embedded, quiet_tick, topic};

const ROUNDS: usize = 3;

/// Ticks handed to the bus at once.
const BATCH: usize = 8192;

/// Armed alerts that are compared.
const ALERTS: [usize; 3] = [0, 1_000, 100_000];

/// Above every price of a quiet tick.
const NEVER: f64 = 1_000.0;

pub(crate) async fn run(brokers: &str) -> anyhow::Result<()> {
    let ticks: usize = match std::env::var("TOCSIN_BENCH_TICKS") {
        Ok(text) => text.parse().context("TOCSIN_BENCH_TICKS")?,
        Err(_) => 1_000_000,
    };
    let (bus, config) = topic(brokers).await?;
    let published = publish(&bus, ticks).await?;
    println!("{ticks} ticks of 10 symbols on 8 partitions; published to Kafka at {published:.0} ticks/s");
    let mut bare_best: f64 = 0.0;
    let mut best = [0.0_f64; ALERTS.len()];
    for _ in 0..ROUNDS {
        bare_best = bare_best.max(bare(&config, ticks)?);
        for (best, alerts) in best.iter_mut().zip(ALERTS) {
            *best = best.max(evaluate(bus.clone(), alerts, ticks).await?);
        }
    }
    println!("\n{:<44} {:>12} {:>8}", "from Kafka", "ticks/s", "ratio");
    println!("{:<44} {bare_best:>12.0} {:>8.2}", "a bare consumer that decodes", 1.0);
    for (rate, alerts) in best.into_iter().zip(ALERTS) {
        println!("{:<44} {rate:>12.0} {:>8.2}", format!("the evaluate role, {alerts} alerts"), rate / bare_best);
    }
    let folder = tempfile::tempdir()?;
    let bus = embedded(&folder)?;
    let published = publish(&bus, ticks).await?;
    println!("\n{:<44} {:>12}", "embedded", "ticks/s");
    println!("{:<44} {published:>12.0}", "published to the log on disk");
    for alerts in ALERTS {
        let mut best: f64 = 0.0;
        for _ in 0..ROUNDS {
            best = best.max(evaluate(bus.clone(), alerts, ticks).await?);
        }
        println!("{:<44} {best:>12.0}", format!("the evaluate role, {alerts} alerts"));
    }
    Ok(())
}

pub(crate) async fn publish(bus: &Bus, ticks: usize) -> anyhow::Result<f64> {
    let begun = Instant::now();
    for first in (0..ticks).step_by(BATCH) {
        bus.publish((first..ticks.min(first + BATCH)).map(quiet_tick).collect()).await?;
    }
    Ok(ticks as f64 / begun.elapsed().as_secs_f64())
}

/// What rdkafka does at its simplest: one consumer, one thread, every message decoded.
fn bare(config: &KafkaConfig, ticks: usize) -> anyhow::Result<f64> {
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", &config.brokers).set("group.id", "bare").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = settings.create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..config.partitions {
        all.add_partition_offset(&config.topic, partition.cast_signed(), Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    let (mut read, mut sum, mut begun) = (0, 0.0, None);
    while read < ticks {
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => {
                begun.get_or_insert_with(Instant::now);
                sum += StockTick::decode(message.payload().unwrap_or_default())?.price;
                read += 1;
            }
            Some(Err(KafkaError::PartitionEOF(_))) => {}
            Some(Err(error)) => return Err(error.into()),
        }
    }
    anyhow::ensure!(sum > 0.0, "prices were read");
    Ok(ticks as f64 / begun.context("a first message")?.elapsed().as_secs_f64())
}

/// From the first tick that is judged to the last.
async fn evaluate(bus: Bus, alerts: usize, ticks: usize) -> anyhow::Result<f64> {
    let folder = tempfile::tempdir()?;
    let rig = Rig::new(bus, Store::open_sqlite(folder.path()).await?).await?;
    rig.arm_above(alerts, NEVER, Repeat::Once).await?;
    evaluate_all(rig.start(CHECKPOINT_INTERVAL).await?, ticks).await
}

/// Stops once so many ticks are judged; how many a second.
pub(crate) async fn evaluate_all(running: Running, ticks: usize) -> anyhow::Result<f64> {
    let stats = running.evaluator.stats();
    let mut first = None;
    let (before, begun) = loop {
        let judged = stats.snapshot().ticks as usize;
        if judged > 0 {
            first.get_or_insert((judged, Instant::now()));
        }
        match first {
            Some(first) if judged >= ticks => break first,
            _ => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    };
    let rate = (ticks - before) as f64 / begun.elapsed().as_secs_f64();
    running.stop().await?;
    Ok(rate)
}
