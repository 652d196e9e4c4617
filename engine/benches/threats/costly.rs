//! The most time that fuel can take: each costly rule with as many iterations as its fuel pays for, timed.

use std::fmt;
use std::time::Duration;

use tocsin_engine::cost::MAX_NS_PER_FUEL;
use tocsin_engine::domain::{Position, Repeat, Tick};
use tocsin_engine::limits::{FUEL_PER_CALL, FUEL_PER_EVALUATION};
use tocsin_engine::{Arming, Engine, Event, Rule, Shard};
use tocsin_testdata::costly::{self, CostlyRule, OWN_MASK};

use crate::run::{arming, on_a_rules_stack, symbol, thread_cpu_time};

/// The timed evaluations of each rule.
const ROUNDS: usize = 30;
/// Other bindings of the same rule, each with 64 KiB of state: 64 MiB that the rule can read beyond its own pages.
const NEIGHBOURS: i64 = 1_024;
/// The number of bindings that burn the fuel of a whole call.
const CROWD: i64 = FUEL_PER_CALL.div_ceil(FUEL_PER_EVALUATION) as i64;

/// The measurements of one rule.
pub(crate) struct Row {
    kind: &'static str,
    /// The fuel of an evaluation.
    fuel: u64,
    median: Duration,
    most: Duration,
    /// The longest call, with as many bindings as burn the fuel of a whole call.
    call: Duration,
}

/// Measures all costly rules.
pub(crate) fn measure() -> Vec<Row> {
    on_a_rules_stack(|| {
        let engine = Engine::new().expect("Wasmtime starts");
        costly::rules().iter().map(|costly| row(&engine, costly)).collect()
    })
}

fn row(engine: &Engine, costly: &CostlyRule) -> Row {
    let rule = engine.load(&costly.module).unwrap_or_else(|error| panic!("{}: {error}", costly.kind));
    let turns = most_turns(&rule, costly);
    let (mut times, mut fuel) = (Vec::new(), 0);
    let mut shard = prepared(&rule, costly, turns, 1);
    for round in 0..ROUNDS {
        if costly.is_fresh {
            shard = prepared(&rule, costly, turns, 1);
        }
        let before = burnt(&shard);
        times.push(timed(&mut shard, round as u64 + 1));
        fuel = burnt(&shard) - before;
    }
    times.sort();
    let mut crowd = prepared(&rule, costly, turns, CROWD);
    // One tick is one call, or two where the fuel does not divide.
    let call = (1..=3).map(|offset| timed(&mut crowd, offset)).max().unwrap_or_default();
    Row { kind: costly.kind, fuel, median: times[ROUNDS / 2], most: times[ROUNDS - 1], call }
}

/// Returns a shard with `count` bindings, with all pages touched unless touching them is what is costly.
fn prepared(rule: &Rule, costly: &CostlyRule, turns: u32, count: i64) -> Shard {
    let mut shard = Shard::default();
    let mask = if costly.reads_tables { (1_u32 << 26) - 1 } else { OWN_MASK };
    for id in 0..count {
        shard.arm(binding(id, "COSTLY", rule, turns, mask)).expect("there is memory");
    }
    if costly.reads_tables {
        for id in 0..NEIGHBOURS {
            shard.arm(binding(-1 - id, "QUIET", rule, 0, 0)).expect("there is memory");
        }
    }
    if !costly.is_fresh {
        run(&mut shard, &tick(0.0), 0);
    }
    shard
}

fn binding(id: i64, on: &str, rule: &Rule, turns: u32, mask: u32) -> Arming {
    let params = [turns.to_le_bytes(), mask.to_le_bytes()].concat();
    arming(id, symbol(on), rule, params, Repeat::Every)
}

fn tick(volume: f64) -> Tick {
    Tick::new(symbol("COSTLY"), 1.0, volume, 0, Default::default()).expect("a tick")
}

/// Returns the most iterations within the budget.
fn most_turns(rule: &Rule, costly: &CostlyRule) -> u32 {
    let (mut fits, mut too_many) = (0, FUEL_PER_EVALUATION as u32);
    while too_many - fits > 1 {
        let turns = fits.midpoint(too_many);
        let mut shard = prepared(rule, costly, turns, 1);
        if run(&mut shard, &tick(1.0), 1).is_empty() { fits = turns } else { too_many = turns }
    }
    fits
}

fn run(shard: &mut Shard, tick: &Tick, offset: u64) -> Vec<Event> {
    let mut events = Vec::new();
    shard.evaluate(tick, Position { partition: 0, offset }, &mut events).expect("the machine keeps up");
    events
}

fn timed(shard: &mut Shard, offset: u64) -> Duration {
    // Another chain each time (Knuth's multiplicative hash), since the last one is in the caches.
    let volume = (offset.wrapping_mul(2_654_435_761) % (1 << 32)) as f64;
    let start = thread_cpu_time();
    let events = run(shard, &tick(volume), offset);
    let took = thread_cpu_time() - start;
    assert!(events.is_empty(), "it is within its budget: {:?}", events.first());
    took
}

fn burnt(shard: &Shard) -> u64 {
    shard.usage().map(|usage| usage.usage.fuel).sum()
}

impl Row {
    /// The column headings.
    pub(crate) const HEAD: &str =
        "pattern                                     fuel  ns/fuel   median     most  call, ms";

    /// Panics if an evaluation or a call takes longer than the limit. An evaluation may have been interrupted by the machine,
    /// so the median is checked.
    pub(crate) fn check(&self) {
        let budget = Duration::from_nanos(FUEL_PER_EVALUATION * MAX_NS_PER_FUEL);
        assert!(self.median <= budget, "{}: an evaluation takes {:?}", self.kind, self.median);
        assert!(self.call <= Duration::from_millis(20), "{}: a call takes {:?}", self.kind, self.call);
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        let ns_per_fuel = us(self.median) * 1e3 / self.fuel.max(1) as f64;
        write!(
            f,
            "{:<40} {:>7} {:>7.2} {:>8.0} {:>8.0} {:>8.1}",
            self.kind,
            self.fuel,
            ns_per_fuel,
            us(self.median),
            us(self.most),
            us(self.call) / 1e3
        )
    }
}
