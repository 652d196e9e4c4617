//! A producer that no kill reaches, so that ticks come all the time: seeded walks, as fast as a second of them is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use tocsin_proto::stock::StockTick;

use crate::environment::{Environment, FRAIL_VOLUME, LOADED_PRICE};

/// Ticks a second.
const RATE: u32 = 450;

/// The first symbol's share: a third, so that it is probed again soon after a quarantine.
const HOT_SHARE: u32 = 3;

/// The largest step of a price, cents; and how strongly it is drawn back, of its distance.
const MAX_STEP: f64 = 40.0;
const PULL: f64 = 0.01;

/// One tick in so many has the volume at which the frail rule traps.
const FRAIL_ONCE_IN: u32 = 12;

/// How long the brokers may take for what is left at the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);

/// How far the prices of fresh symbols are from the others', cents: they cross the targets of their alerts.
const FRESH_SPREAD: f64 = 400.0;

/// Ticks of a symbol that the load does not have otherwise.
pub(crate) struct FreshTicks {
    pub(crate) symbol: String,
    pub(crate) count: usize,
}

pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    fresh: Sender<FreshTicks>,
    thread: JoinHandle<anyhow::Result<u64>>,
}

impl Load {
    pub(crate) fn start(environment: &Environment, seed: u64) -> anyhow::Result<Self> {
        let mut settings = ClientConfig::new();
        settings.set("bootstrap.servers", &environment.stack.brokers).set("enable.idempotence", "true");
        settings.set("message.timeout.ms", "0").set("linger.ms", "2").set("partitioner", "consistent");
        let producer: ThreadedProducer<DefaultProducerContext> = settings.create()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (topic, symbols, stopped) = (environment.ticks_topic(), environment.loaded(), stop.clone());
        let (fresh, asked_for) = channel::<FreshTicks>();
        let thread = std::thread::spawn(move || {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut cents = vec![LOADED_PRICE * 100.0; symbols.len()];
            let (mut sent, begun) = (0, Instant::now());
            let mut fresh: VecDeque<FreshTicks> = VecDeque::new();
            loop {
                let stopped = stopped.load(Relaxed);
                fresh.extend(asked_for.try_iter());
                if stopped && fresh.is_empty() {
                    break;
                }
                let hot = rng.random_ratio(1, HOT_SHARE);
                let chosen = if hot { 0 } else { rng.random_range(0..symbols.len()) };
                let pull = PULL * (LOADED_PRICE * 100.0 - cents[chosen]);
                cents[chosen] = (cents[chosen] + rng.random_range(-MAX_STEP..=MAX_STEP) + pull).round();
                let frail = rng.random_ratio(1, FRAIL_ONCE_IN);
                let volume = if frail { FRAIL_VOLUME } else { f64::from(rng.random_range(0..5)) };
                publish(&producer, &topic, &symbols[chosen], cents[chosen] / 100.0, volume)?;
                if let Some(mut ticks) = fresh.pop_front() {
                    let cents = LOADED_PRICE * 100.0 + rng.random_range(-FRESH_SPREAD..=FRESH_SPREAD).round();
                    publish(&producer, &topic, &ticks.symbol, cents / 100.0, volume)?;
                    ticks.count -= 1;
                    // Symbols take turns.
                    fresh.extend((ticks.count > 0).then_some(ticks));
                }
                sent += 1;
                let due = begun + Duration::from_secs(1) * sent as u32 / RATE;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            producer.flush(FLUSH_TIMEOUT).context("the brokers do not take the last ticks")?;
            Ok(sent)
        });
        Ok(Self { stop, fresh, thread })
    }

    /// Where ticks of fresh symbols are asked for.
    pub(crate) fn fresh(&self) -> Sender<FreshTicks> {
        self.fresh.clone()
    }

    /// Publishes the fresh ticks that are asked for by now, and ends; how many other ticks there were.
    pub(crate) fn stop(self) -> anyhow::Result<u64> {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("the load does not panic")
    }
}

fn publish(
    producer: &ThreadedProducer<DefaultProducerContext>,
    topic: &str,
    symbol: &str,
    price: f64,
    volume: f64,
) -> anyhow::Result<()> {
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
    let tick = StockTick { symbol: symbol.to_owned(), price, timestamp, volume, conditions: 0 };
    let payload = tick.encode_to_vec();
    let mut record = BaseRecord::to(topic).key(symbol).payload(&payload);
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => record = back,
            Err((error, _)) => return Err(error.into()),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
