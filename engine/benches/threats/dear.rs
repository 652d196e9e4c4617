//! What fuel buys at most: each dear rule with as many turns as its fuel pays for, timed.

use std::fmt;
use std::time::Duration;

use tocsin_engine::cost::MAX_NS_PER_FUEL;
use tocsin_engine::domain::{Position, Repeat, Tick};
use tocsin_engine::limits::{FUEL_PER_CALL, FUEL_PER_EVALUATION};
use tocsin_engine::{Arming, Engine, Event, Rule, Shard};
use tocsin_testdata::dear::{self, Dear, OWN_MASK};

use crate::run::{arming, on_a_rules_stack, symbol, thread_cpu_time};

/// Evaluations of each rule that are timed.
const ROUNDS: usize = 30;
/// Other bindings of the same rule, each with 64 KiB of state: what a rule can read beyond its own pages, 64 MiB.
const NEIGHBOURS: i64 = 1_024;
/// The bindings of one call that burn all that a call may burn.
const CROWD: i64 = FUEL_PER_CALL.div_ceil(FUEL_PER_EVALUATION) as i64;

/// What was measured of one rule.
pub(crate) struct Row {
    kind: &'static str,
    /// Fuel of the evaluation.
    fuel: u64,
    median: Duration,
    most: Duration,
    /// The most that one call took with as many bindings as burn all the fuel of a call.
    call: Duration,
}

/// Measures all dear rules.
pub(crate) fn measure() -> Vec<Row> {
    on_a_rules_stack(|| {
        let engine = Engine::new().expect("Wasmtime starts");
        dear::rules().iter().map(|dear| row(&engine, dear)).collect()
    })
}

fn row(engine: &Engine, dear: &Dear) -> Row {
    let rule = engine.load(&dear.module).unwrap_or_else(|error| panic!("{}: {error}", dear.kind));
    let turns = most_turns(&rule, dear);
    let (mut times, mut fuel) = (Vec::new(), 0);
    let mut shard = prepared(&rule, dear, turns, 1);
    for round in 0..ROUNDS {
        if dear.is_fresh {
            shard = prepared(&rule, dear, turns, 1);
        }
        let before = burnt(&shard);
        times.push(timed(&mut shard, round as u64 + 1));
        fuel = burnt(&shard) - before;
    }
    times.sort();
    let mut crowd = prepared(&rule, dear, turns, CROWD);
    // One tick is one call, or two where the fuel does not divide.
    let call = (1..=3).map(|offset| timed(&mut crowd, offset)).max().unwrap_or_default();
    Row { kind: dear.kind, fuel, median: times[ROUNDS / 2], most: times[ROUNDS - 1], call }
}

/// A shard with so many bindings, whose pages have been touched unless that is what is dear.
fn prepared(rule: &Rule, dear: &Dear, turns: u32, count: i64) -> Shard {
    let mut shard = Shard::default();
    let mask = if dear.reads_tables { (1_u32 << 26) - 1 } else { OWN_MASK };
    for id in 0..count {
        shard.arm(binding(id, "DEAR", rule, turns, mask)).expect("there is memory");
    }
    if dear.reads_tables {
        for id in 0..NEIGHBOURS {
            shard.arm(binding(-1 - id, "QUIET", rule, 0, 0)).expect("there is memory");
        }
    }
    if !dear.is_fresh {
        run(&mut shard, &tick(0.0), 0);
    }
    shard
}

fn binding(id: i64, on: &str, rule: &Rule, turns: u32, mask: u32) -> Arming {
    let params = [turns.to_le_bytes(), mask.to_le_bytes()].concat();
    arming(id, symbol(on), rule, params, Repeat::Every)
}

fn tick(volume: f64) -> Tick {
    Tick::new(symbol("DEAR"), 1.0, volume, 0, Default::default()).expect("a tick")
}

/// How often a rule can turn within its budget.
fn most_turns(rule: &Rule, dear: &Dear) -> u32 {
    let (mut fits, mut too_many) = (0, FUEL_PER_EVALUATION as u32);
    while too_many - fits > 1 {
        let turns = fits.midpoint(too_many);
        let mut shard = prepared(rule, dear, turns, 1);
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
    // Another chain each time (Knuth's multiplicative hash): what the last one read is in the caches.
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
    /// The names of the columns.
    pub(crate) const HEAD: &str =
        "pattern                                     fuel  ns/fuel   median     most  call, ms";

    /// Fails where an evaluation or a call takes longer than promised. One evaluation of the rounds may have been
    /// interrupted by the machine: the median is what the rule does.
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
