//! Measures a tick that wakes few bindings: armed `above` alerts on one symbol, evaluated by the wake index, all evaluated,
//! and in a native program's data structure.
//!
//! `cargo bench -p tocsin-engine --bench wake` prints one table. A *quiet* tick reaches no target, a *crossing* one
//! reaches ten; those alerts fire once, and are armed again outside of the measurement. The candidates of a row take
//! turns, so that their ratios are stable on a noisy machine.
//!
//! - *index*: [`Shard::evaluate`].
//! - *naive*: the same, evaluating all.
//! - *native*: a `BTreeMap` from target to alerts for each symbol, in a `HashMap`, written by hand for thresholds and
//!   for nothing else: no rules, no states, no faults.

#![allow(clippy::unwrap_used)] // a failed benchmark shows where

use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::time::{Duration, Instant};

use tocsin_engine::domain::{AlertId, BindingId, Conditions, Lifecycle, Position, Symbol, Tenant, Tick};
use tocsin_engine::{Arming, Engine, EvaluationOptions, Rule, Shard, Waking, builtin};

const COUNTS: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// Alerts that a crossing tick fires.
const CROSSED: usize = 10;
/// The measurements of each figure, of which the median is printed.
const ROUNDS: usize = 15;
/// A round of quiet ticks takes at least this long.
const ROUND_TIME: Duration = Duration::from_millis(5);
/// The lowest target, and how far apart they are.
const FIRST_TARGET: f64 = 1_000.0;
const TARGET_STEP: f64 = 0.01;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rule = Engine::new()?.load(builtin::ABOVE)?;
    println!("ns a tick, median of {ROUNDS} rounds; in brackets: times native, in the same rounds\n");
    println!("{:<9} {:>9} {:>12} {:>24} {:>28}", "tick", "alerts", "native", "index", "naive");
    for count in COUNTS {
        let mut native = Native::new(count);
        let before = rss_bytes();
        let mut index = Sandboxed::new(&rule, Waking::Indexed, count);
        let alert_bytes = (rss_bytes() - before) / count as i64;
        let mut naive = Sandboxed::new(&rule, Waking::Naive, count);
        let quiet = rounds(|| [quiet(&mut native), quiet(&mut index), quiet(&mut naive)]);
        print_row("quiet", count, &quiet);
        let crossing = rounds(|| [crossing(&mut native), crossing(&mut index), crossing(&mut naive)]);
        print_row("crossing", count, &crossing);
        println!("{:<9} {count:>9}   {alert_bytes} bytes of resident memory an alert, armed and asleep", "memory");
    }
    Ok(())
}

fn rounds(mut round: impl FnMut() -> [f64; 3]) -> Vec<[f64; 3]> {
    // The first one warms up.
    round();
    (0..ROUNDS).map(|_| round()).collect()
}

fn print_row(tick: &str, count: usize, rounds: &[[f64; 3]]) {
    let of = |figure: &dyn Fn(&[f64; 3]) -> f64| {
        let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    let times = |at: usize| format!("{:.0} [{:.2}x]", of(&|round| round[at]), of(&|round| round[at] / round[0]));
    println!("{tick:<9} {count:>9} {:>12.0} {:>24} {:>28}", of(&|round| round[0]), times(1), times(2));
}

/// A candidate, evaluated on ticks of one symbol.
trait Candidate {
    /// Evaluates a tick, and returns the number of alerts that fired.
    fn evaluate(&mut self, price: f64) -> usize;
    /// Arms the alerts that have fired again.
    fn rearm(&mut self);
    /// The number of quiet ticks between two readings of the clock, which take 20 ns each.
    fn ticks_at_once(&self) -> u32 {
        100
    }
}

/// Returns the ns per tick of ticks that reach no target.
fn quiet(candidate: &mut impl Candidate) -> f64 {
    let (start, mut ticks) = (Instant::now(), 0_u32);
    while start.elapsed() < ROUND_TIME {
        for i in 0..candidate.ticks_at_once() {
            let fired = candidate.evaluate(black_box(FIRST_TARGET - 1.0 - f64::from(i) / 128.0));
            assert_eq!(fired, 0);
            ticks += 1;
        }
    }
    start.elapsed().as_nanos() as f64 / f64::from(ticks)
}

/// Returns the ns of one tick that reaches the lowest targets.
fn crossing(candidate: &mut impl Candidate) -> f64 {
    let price = FIRST_TARGET + (CROSSED as f64 - 0.5) * TARGET_STEP;
    let start = Instant::now();
    let fired = candidate.evaluate(black_box(price));
    let ns = start.elapsed().as_nanos() as f64;
    assert_eq!(fired, CROSSED);
    candidate.rearm();
    // Those that were armed again fall asleep.
    candidate.evaluate(FIRST_TARGET - 1.0);
    ns
}

/// Returns the resident memory of this process; 0 where the system does not report it.
fn rss_bytes() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<i64>().ok()).unwrap_or(0) * 1024
}

fn target(alert: usize) -> f64 {
    FIRST_TARGET + alert as f64 * TARGET_STEP
}

struct Sandboxed {
    shard: Shard,
    waking: Waking,
    rule: Rule,
    tick: Tick,
    fired: Vec<tocsin_engine::Event>,
}

impl Sandboxed {
    fn new(rule: &Rule, waking: Waking, count: usize) -> Self {
        let symbol = Symbol::parse("X").unwrap();
        let tick = Tick::new(symbol, 1.0, 1.0, 0, Conditions::default()).unwrap();
        let shard = Shard::new(EvaluationOptions { waking, ..EvaluationOptions::default() });
        let mut new = Self { shard, waking, rule: rule.clone(), tick, fired: Vec::new() };
        (0..count).for_each(|alert| new.arm(alert as i64));
        new.evaluate(FIRST_TARGET - 1.0);
        new
    }

    fn arm(&mut self, alert: i64) {
        let armed = self.shard.arm(Arming {
            binding: BindingId(alert),
            alert: AlertId(alert),
            tenant: Tenant::standard(),
            symbol: self.tick.symbol.clone(),
            rule: self.rule.clone(),
            params: target(alert as usize).to_le_bytes().to_vec(),
            lifecycle: Lifecycle::default(),
            saved: None,
        });
        armed.unwrap();
    }
}

impl Candidate for Sandboxed {
    fn evaluate(&mut self, price: f64) -> usize {
        self.tick.price = price;
        self.fired.clear();
        self.shard.evaluate(&self.tick, Position { partition: 0, offset: 0 }, &mut self.fired).unwrap();
        self.fired.len()
    }

    fn rearm(&mut self) {
        (0..CROSSED as i64).for_each(|alert| self.arm(alert));
    }

    fn ticks_at_once(&self) -> u32 {
        if self.waking == Waking::Naive { 1 } else { 100 }
    }
}

/// Alerts by symbol and by target, as the bits of positive floats are ordered.
struct Native {
    symbols: HashMap<String, BTreeMap<u64, Vec<u64>>>,
    fired: Vec<u64>,
}

impl Native {
    fn new(count: usize) -> Self {
        let targets = (0..count).map(|alert| (target(alert).to_bits(), vec![alert as u64])).collect();
        Self { symbols: HashMap::from([("X".to_owned(), targets)]), fired: Vec::new() }
    }
}

impl Candidate for Native {
    fn evaluate(&mut self, price: f64) -> usize {
        self.fired.clear();
        let Some(targets) = self.symbols.get_mut(black_box("X")) else { return 0 };
        while let Some(first) = targets.first_entry().filter(|first| *first.key() <= price.to_bits()) {
            self.fired.extend(first.remove());
        }
        self.fired.len()
    }

    fn rearm(&mut self) {
        let targets = self.symbols.get_mut("X").unwrap();
        for alert in 0..CROSSED {
            targets.entry(target(alert).to_bits()).or_default().push(alert as u64);
        }
    }
}
