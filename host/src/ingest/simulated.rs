//! An invented feed, for trying Tocsin without a key: a seeded random walk for each symbol, with bursts and gaps.
//!
//! [`Generator`] is pure: the same seed gives the same symbols, prices, volumes and delays. [`run`] adds the clock.

use std::num::NonZeroU32;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tocsin_engine::domain::{Conditions, Symbol, Tick};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::now_ms;
use super::status::FeedStatus;

/// The largest relative step of a price from one trade to the next.
const MAX_STEP: f64 = 0.000_8;
/// How strongly a price is drawn back to where it began, of its distance a trade: it wanders by a few percent.
const PULL: f64 = 0.000_1;
/// The chance that a trade begins a burst.
const BURST_CHANCE: f64 = 0.01;
/// Trades in a burst.
const BURST_TRADES: std::ops::Range<u32> = 10..30;
/// How much faster a burst is.
const BURST_SPEEDUP: f64 = 20.0;
/// The chance that a gap follows a trade.
const GAP_CHANCE: f64 = 0.005;
/// How many times longer a gap is than the mean delay.
const GAP_FACTOR: f64 = 20.0;
/// A gap is never longer, seconds: a newcomer who watches should not think it broken.
const MAX_GAP_S: f64 = 3.0;
/// A symbol that trades above this price is bought in fractions.
const FRACTIONAL_ABOVE: f64 = 1_000.0;
/// The most ticks that are sent to the sink at once.
const MAX_BATCH: usize = 256;
/// A feed that has fallen this far behind its schedule (a full sink, a laptop asleep) does not catch up.
const MAX_LAG: Duration = Duration::from_secs(1);

/// One invented trade, and how long after the one before it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub delay: Duration,
    pub symbol: Symbol,
    pub price: f64,
    pub volume: f64,
}

/// Invents trades.
pub(super) struct Generator {
    rng: StdRng,
    walks: Vec<Walk>,
    mean_delay_s: f64,
    burst_left: u32,
}

struct Walk {
    symbol: Symbol,
    start: f64,
    price: f64,
}

impl Generator {
    pub(super) fn new(seed: u64, symbols: &[Symbol], ticks_per_second: NonZeroU32) -> Self {
        let walk = |symbol: &Symbol| {
            let start = starting_price(symbol);
            Walk { symbol: symbol.clone(), start, price: start }
        };
        Self {
            rng: StdRng::seed_from_u64(seed),
            walks: symbols.iter().map(walk).collect(),
            mean_delay_s: 1.0 / f64::from(ticks_per_second.get()),
            burst_left: 0,
        }
    }

    /// The next trade; none if there is no symbol.
    pub(super) fn next(&mut self) -> Option<Step> {
        if self.walks.is_empty() {
            return None;
        }
        let delay = self.next_delay();
        let chosen = self.rng.random_range(0..self.walks.len());
        let walk = &mut self.walks[chosen];
        let pull = PULL * (walk.start - walk.price) / walk.start;
        walk.price *= 1.0 + self.rng.random_range(-MAX_STEP..=MAX_STEP) + pull;
        let price = ((walk.price * 100.0).round() / 100.0).max(0.01);
        let volume = if walk.start > FRACTIONAL_ABOVE {
            f64::from(self.rng.random_range(1..200_000)) / 100_000.0
        } else {
            f64::from(self.rng.random_range(1..500))
        };
        Some(Step { delay, symbol: walk.symbol.clone(), price, volume })
    }

    fn next_delay(&mut self) -> Duration {
        let mut delay_s = self.mean_delay_s * self.rng.random_range(0.2..2.0);
        if self.burst_left > 0 {
            self.burst_left -= 1;
            delay_s /= BURST_SPEEDUP;
        } else if self.rng.random_bool(BURST_CHANCE) {
            self.burst_left = self.rng.random_range(BURST_TRADES);
        } else if self.rng.random_bool(GAP_CHANCE) {
            delay_s = (self.mean_delay_s * GAP_FACTOR).min(MAX_GAP_S);
        }
        Duration::from_secs_f64(delay_s)
    }
}

/// Where a symbol's price begins: near the real thing for the well-known, from 10.00 to 499.99 by its name for others.
fn starting_price(symbol: &Symbol) -> f64 {
    match symbol.as_str() {
        "AAPL" => 190.0,
        name if name.ends_with("BTCUSDT") => 60_000.0,
        name if name.ends_with("ETHUSDT") => 2_600.0,
        name => {
            // FNV-1a: the same price in every build and on every machine.
            let hash = name
                .bytes()
                .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
            (1_000 + hash % 49_000) as f64 / 100.0
        }
    }
}

/// Sends invented trades, with the present as their event time, until stopped or no longer read.
pub(super) async fn run(
    mut generator: Generator,
    sink: &mpsc::Sender<Vec<Tick>>,
    status: &FeedStatus,
    stop: &CancellationToken,
) {
    status.set_connected(now_ms());
    let sending = async {
        let mut due = Instant::now();
        let mut batch = Vec::new();
        while let Some(step) = generator.next() {
            due += step.delay;
            let now = Instant::now();
            if now > due + MAX_LAG {
                due = now;
            }
            if due > now || batch.len() == MAX_BATCH {
                if send(&mut batch, sink, status).await.is_none() {
                    return;
                }
                sleep_until(due).await;
            }
            let tick = Tick::new(step.symbol, step.price, step.volume, now_ms(), Conditions::default());
            batch.push(tick.expect("a generator's prices and volumes are positive, and no clock says the year 10000"));
        }
        stop.cancelled().await;
    };
    // The stop first: what would have been sent since is no longer this process's to send.
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = sending => {}
    }
    status.set_disconnected();
    tracing::info!("the simulated feed has stopped");
}

async fn send(batch: &mut Vec<Tick>, sink: &mpsc::Sender<Vec<Tick>>, status: &FeedStatus) -> Option<()> {
    if batch.is_empty() {
        return Some(());
    }
    status.count_ticks(batch.len(), now_ms());
    sink.send(std::mem::take(batch)).await.ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::status::FeedKind;
    use super::*;

    fn symbols() -> Vec<Symbol> {
        ["AAPL", "BINANCE:BTCUSDT", "IC MARKETS:1"].map(|text| Symbol::parse(text).unwrap()).to_vec()
    }

    fn steps(seed: u64, count: usize) -> Vec<Step> {
        let mut generator = Generator::new(seed, &symbols(), NonZeroU32::new(20).unwrap());
        std::iter::from_fn(|| generator.next()).take(count).collect()
    }

    #[test]
    fn the_seed_decides_everything() {
        assert_eq!(steps(7, 1_000), steps(7, 1_000));
        assert_ne!(steps(7, 1_000), steps(8, 1_000));
    }

    #[test]
    fn prices_wander_around_sensible_starts() {
        let mut ranges = BTreeMap::<_, (f64, f64)>::new();
        for step in steps(1, 100_000) {
            assert!(step.price > 0.0 && step.volume > 0.0, "{step:?}");
            assert_eq!((step.price * 100.0).round() / 100.0, step.price, "{step:?}");
            let range = ranges.entry(step.symbol.to_string()).or_insert((f64::MAX, f64::MIN));
            *range = (range.0.min(step.price), range.1.max(step.price));
        }
        assert_eq!(ranges.len(), 3);
        for (symbol, (low, high)) in &ranges {
            let start = starting_price(&Symbol::parse(symbol).unwrap());
            assert!(*low > start * 0.7 && *high < start * 1.5 && high > low, "{symbol}: {low} to {high}");
        }
        assert_eq!((starting_price(&symbols()[0]), starting_price(&symbols()[1])), (190.0, 60_000.0));
    }

    #[test]
    fn trades_come_at_about_the_asked_rate_in_bursts_and_gaps() {
        let steps = steps(3, 100_000);
        let total: Duration = steps.iter().map(|step| step.delay).sum();
        let rate = steps.len() as f64 / total.as_secs_f64();
        assert!((15.0..25.0).contains(&rate), "{rate} a second");
        assert!(steps.iter().any(|step| step.delay >= Duration::from_millis(900)), "gaps");
        assert!(steps.windows(8).any(|run| run.iter().all(|step| step.delay < Duration::from_millis(6))), "bursts");
    }

    #[tokio::test(start_paused = true)]
    async fn ticks_are_sent_until_stopped() {
        let (sink, mut ticks) = mpsc::channel(1);
        let (status, stop) = (FeedStatus::new(FeedKind::Simulated), CancellationToken::new());
        let generator = Generator::new(7, &symbols(), NonZeroU32::new(20).unwrap());
        let reading = async {
            let mut seen = Vec::new();
            while seen.len() < 200 {
                seen.extend(ticks.recv().await.unwrap());
            }
            assert!(status.snapshot().connected);
            stop.cancel();
            seen
        };
        let ((), seen) = tokio::join!(run(generator, &sink, &status, &stop), reading);
        for (tick, step) in seen.iter().zip(steps(7, 200)) {
            assert_eq!((&tick.symbol, tick.price, tick.volume), (&step.symbol, step.price, step.volume));
        }
        let snapshot = status.snapshot();
        assert!(!snapshot.connected && snapshot.ticks >= 200 && snapshot.last_tick_at_ms.is_some(), "{snapshot:?}");
    }

    #[test]
    fn without_symbols_there_is_nothing_to_say() {
        assert_eq!(Generator::new(1, &[], NonZeroU32::MIN).next(), None);
    }
}
