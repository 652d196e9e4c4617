//! Measures one evaluation: the same rule as native code, in WebAssembly, and in scripting languages that could be embedded
//! instead.
//!
//! `cargo xtask rules && cargo bench -p tocsin-engine --bench engine` prints one table. Compare figures of one run only: the
//! candidates of a row take turns, round by round, so that on a noisy machine their ratios are stable where nanoseconds are
//! not. No price fires, so that only evaluation is measured.
//!
//! - *plugin*: the rule as native Rust behind a function pointer that is opaque to the optimiser, like a plugin in a shared
//!   library. The reference for the ratios.
//! - *inlined*: the same, inlined into the loop over its bindings. The lower limit.
//! - *certified*, *fuel*: [`Shard::evaluate`] on the rule's module, without and with the meter.
//! - *single*: *certified* with one symbol for each binding, and so one call into the sandbox for each.
//! - *LuaJIT*, *Rhai*: a call of a script's function for each binding.

#![allow(clippy::unwrap_used, clippy::print_stderr)] // a failed benchmark shows where

mod native;
mod scripts;
mod subjects;

use std::time::{Duration, Instant};

use tocsin_engine::domain::{AlertId, BindingId, Conditions, Lifecycle, Position, Repeat, Symbol, Tenant, Tick};
use tocsin_engine::{Arming, Rule, Shard};

use subjects::Subject;

/// The numbers of bindings.
const COUNTS: [usize; 5] = [1, 10, 100, 1_000, 10_000];
/// The measurements of each figure, of which the median is printed.
const ROUNDS: usize = 15;
/// The least duration of a measurement.
const ROUND_TIME: Duration = Duration::from_millis(10);
/// The first price, and the rise of each price: in a market that only rises no averages cross.
const FIRST_PRICE: f64 = 100.0;
const PRICE_STEP: f64 = 1e-6;
/// The first event time; a tick comes every millisecond.
const FIRST_TIME_MS: i64 = 1_700_000_000_000;

/// A candidate: evaluates a tick with the given price and time on all of its bindings.
pub(crate) type Pass = Box<dyn FnMut(f64, i64)>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let subjects = subjects::all()?;
    println!("ns an evaluation, median of {ROUNDS} rounds; in brackets: times the plugin, in the same rounds\n");
    print!("{:<13} {:>8}", "rule", "bindings");
    for name in ["plugin", "inlined", "certified", "fuel", "single", "LuaJIT", "Rhai"] {
        print!(" {name:>17}");
    }
    println!();
    for subject in &subjects {
        for count in COUNTS {
            let mut passes = vec![
                (subject.plugin)(count),
                (subject.inlined)(count),
                subject
                    .certified
                    .as_ref()
                    .map_or_else(|| Box::new(|_, _| {}) as Pass, |rule| sandboxed(subject, rule, count, one)),
                sandboxed(subject, &subject.metered, count, one),
                sandboxed(subject, subject.certified.as_ref().unwrap_or(&subject.metered), count, own),
                scripts::lua(&subject.lua, count),
                scripts::rhai(&subject.rhai, count),
            ];
            let figures = measure(count, &mut passes);
            print!("{:<13} {count:>8}", subject.name);
            for (at, figure) in figures.iter().enumerate() {
                if at == 2 && subject.certified.is_none() {
                    print!(" {:>17}", "-");
                } else {
                    print!(" {:>8.2} [{:>5.2}x]", figure.ns, figure.times);
                }
            }
            println!();
        }
    }
    Ok(())
}

/// The measurements of one candidate.
struct Figure {
    ns: f64,
    /// The ratio to the first candidate.
    times: f64,
}

/// Times the candidates in turns. The first round warms up and does not count.
fn measure(count: usize, passes: &mut [Pass]) -> Vec<Figure> {
    let mut rounds: Vec<Vec<f64>> = vec![Vec::new(); passes.len()];
    let mut clocks = vec![0_i64; passes.len()];
    for round in 0..=ROUNDS {
        for (at, pass) in passes.iter_mut().enumerate() {
            let (start, mut ticks) = (Instant::now(), 0_usize);
            while start.elapsed() < ROUND_TIME {
                // The clock is read once for at least 2,000 evaluations: it costs 20 ns itself.
                for _ in 0..(2_000 / count).max(1) {
                    pass(FIRST_PRICE + clocks[at] as f64 * PRICE_STEP, FIRST_TIME_MS + clocks[at]);
                    clocks[at] += 1;
                    ticks += 1;
                }
            }
            if round > 0 {
                rounds[at].push(start.elapsed().as_nanos() as f64 / (ticks * count) as f64);
            }
        }
    }
    let of_first = |figures: &Vec<f64>| figures.iter().zip(&rounds[0]).map(|(one, first)| one / first).collect();
    rounds.iter().map(|figures| Figure { ns: median(figures.clone()), times: median(of_first(figures)) }).collect()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Returns the one symbol of all bindings.
fn one(_: usize) -> String {
    "X".into()
}

/// Returns the symbol of one binding.
fn own(binding: usize) -> String {
    format!("X{binding}")
}

/// Returns a shard with bindings of a rule on the symbols that `symbol_of` returns.
fn sandboxed(subject: &Subject, rule: &Rule, count: usize, symbol_of: fn(usize) -> String) -> Pass {
    let mut shard = Shard::default();
    let mut ticks: Vec<Tick> = Vec::new();
    for i in 0..count {
        let symbol = Symbol::parse(&symbol_of(i)).unwrap();
        if ticks.last().is_none_or(|tick| tick.symbol != symbol) {
            ticks.push(Tick::new(symbol.clone(), 1.0, 1.0, 0, Conditions::default()).unwrap());
        }
        let id = i as i64 + 1;
        let armed = shard.arm(Arming {
            binding: BindingId(id),
            alert: AlertId(id),
            tenant: Tenant::standard(),
            symbol,
            rule: rule.clone(),
            params: rule.manifest().params.pack(&subject.params).unwrap().packed,
            lifecycle: Lifecycle { repeat: Repeat::Every },
            saved: None,
        });
        armed.unwrap();
    }
    let mut events = Vec::new();
    Box::new(move |price, time_ms| {
        for tick in &mut ticks {
            (tick.price, tick.time_ms) = (price, time_ms);
            shard.evaluate(tick, Position { partition: 0, offset: 0 }, &mut events).unwrap();
        }
        assert!(events.is_empty());
    })
}
