//! What one evaluation costs: the same rule native, batched in WebAssembly, and called once for each binding.
//!
//! `cargo bench -p tocsin-engine --bench engine` prints one table, in ns an evaluation. Compare within one run: the
//! ratios hold on a noisy machine, the nanoseconds do not. No prices fire, so that what is measured is the judging and
//! not the making of firings.
//!
//! - *native*: a Rust function behind a pointer that the optimiser cannot see through, as a plugin would be, over packed
//!   records.
//! - *batched*: one [`Shard::judge`], hence one call into the sandbox for up to 1,024 bindings.
//! - *single*: the same through as many symbols, each with one binding, so that each evaluation is a call of its own,
//!   with the shard's own work for a tick.

#![allow(clippy::unwrap_used)] // a failed test shows where

use std::hint::black_box;
use std::time::{Duration, Instant};

use tocsin_engine::cost::Metering;
use tocsin_engine::domain::{AlertId, BindingId, Conditions, Lifecycle, Position, Repeat, Symbol, Tenant, Tick};
use tocsin_engine::{Arming, Engine, Rule, Shard, builtin};
use tocsin_rules_sdk::abi;

/// How many bindings.
const COUNTS: [usize; 4] = [1, 10, 1_000, 10_000];
/// Measurements of one figure: their median is printed, and how far they spread.
const ROUNDS: usize = 15;
/// How long one measurement takes at least.
const ROUND_TIME: Duration = Duration::from_millis(20);
/// The first price, and by how much each one is above the last: in a market that only rises no averages cross.
const FIRST_PRICE: f64 = 100.0;
const PRICE_STEP: f64 = 1e-6;

/// A native rule: as `evaluate`, but over references.
type Native = fn(&abi::Tick, &[u8], &mut [u8], &mut abi::Verdict) -> i32;

/// A rule in both of its forms.
struct Subject {
    name: &'static str,
    rule: Rule,
    native: Native,
    params: Vec<u8>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::new()?;
    let ema = include_str!("ema.wat");
    // The twin has one loop that is never repeated, which is enough to need the meter.
    let metered = ema.replace(";; METER", "(loop $once (br_if $once (i32.const 0)))");
    let periods = [12_u32, 26, 2, 0].map(u32::to_le_bytes).concat();
    let never = f64::MAX.to_le_bytes().to_vec();
    let load = |text: &str| -> Result<Rule, Box<dyn std::error::Error>> { Ok(engine.load(&wat::parse_str(text)?)?) };
    let subjects = [
        Subject { name: "threshold", rule: engine.load(builtin::ABOVE)?, native: above, params: never },
        Subject { name: "ema", rule: load(ema)?, native: ema_cross, params: periods.clone() },
        Subject { name: "ema, metered", rule: load(&metered)?, native: ema_cross, params: periods },
    ];
    assert!(matches!(subjects[1].rule.metering(), Metering::Certified { .. }));
    assert_eq!(subjects[2].rule.metering(), Metering::Metered);

    println!("ns an evaluation: median (least..most of {ROUNDS} rounds), and times native\n");
    println!("{:<13} {:>8}  {:>24}  {:>34}  {:>34}", "rule", "bindings", "native", "batched", "single");
    for subject in &subjects {
        for count in COUNTS {
            let native = native(subject, count);
            let batched = sandboxed(subject, count, |_| "X".into());
            let single = sandboxed(subject, count, |i| format!("X{i}"));
            let times = |figure: &Figure| format!("{figure} {:>6.1}x", figure.median / native.median);
            println!(
                "{:<13} {count:>8}  {:>24}  {:>34}  {:>34}",
                subject.name,
                native.to_string(),
                times(&batched),
                times(&single)
            );
        }
    }
    Ok(())
}

/// What was measured, in ns an evaluation.
struct Figure {
    least: f64,
    median: f64,
    most: f64,
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2}..{:.2})", self.median, self.least, self.most)
    }
}

/// Times passes of `count` evaluations each. The first round warms up and does not count.
fn measure(count: usize, mut pass: impl FnMut(f64)) -> Figure {
    let mut figures = Vec::new();
    let mut price = FIRST_PRICE;
    for _ in 0..=ROUNDS {
        let (start, mut passes) = (Instant::now(), 0_usize);
        while start.elapsed() < ROUND_TIME {
            // The clock is read once for at least 2,000 evaluations: it costs 20 ns itself.
            for _ in 0..(2_000 / count).max(1) {
                pass(price);
                price += PRICE_STEP;
                passes += 1;
            }
        }
        figures.push(start.elapsed().as_nanos() as f64 / (passes * count) as f64);
    }
    figures.remove(0);
    figures.sort_by(f64::total_cmp);
    Figure { least: figures[0], median: figures[ROUNDS / 2], most: figures[ROUNDS - 1] }
}

fn native(subject: &Subject, count: usize) -> Figure {
    let evaluate = black_box(subject.native);
    let manifest = subject.rule.manifest();
    let (params_bytes, state_bytes) = (manifest.params.packed_bytes(), manifest.state_bytes);
    let params = subject.params.repeat(count);
    let mut states = vec![0; count * state_bytes];
    let mut verdict = abi::Verdict::default();
    measure(count, |price| {
        let tick = abi::Tick { price, volume: 1.0, time_ms: 0, conditions: 0 };
        let mut fired = 0;
        for slot in 0..count {
            let params = &params[slot * params_bytes..][..params_bytes];
            let state = &mut states[slot * state_bytes..][..state_bytes];
            fired += evaluate(&tick, params, state, &mut verdict);
        }
        assert_eq!(fired, 0);
    })
}

/// A shard with one binding of the subject on each of the symbols that `symbol_of` names.
fn sandboxed(subject: &Subject, count: usize, symbol_of: impl Fn(usize) -> String) -> Figure {
    let mut shard = Shard::default();
    let mut symbols = Vec::new();
    for i in 0..count {
        let symbol = Symbol::parse(&symbol_of(i)).expect("a letter and digits");
        if symbols.last() != Some(&symbol) {
            symbols.push(symbol.clone());
        }
        let id = i as i64 + 1;
        let armed = shard.arm(Arming {
            binding: BindingId(id),
            alert: AlertId(id),
            tenant: Tenant::standard(),
            symbol,
            rule: subject.rule.clone(),
            params: subject.params.clone(),
            lifecycle: Lifecycle { repeat: Repeat::Every },
            saved: None,
        });
        armed.expect("there is memory for 10,000 bindings");
    }
    let tick = |symbol: Symbol| Tick::new(symbol, 1.0, 1.0, 0, Conditions::default()).expect("sane numbers");
    let mut ticks: Vec<Tick> = symbols.into_iter().map(tick).collect();
    let mut events = Vec::new();
    measure(count, |price| {
        for tick in &mut ticks {
            tick.price = price;
            shard.judge(tick, Position { partition: 0, offset: 0 }, &mut events).expect("the machine keeps up");
        }
        assert!(events.is_empty());
    })
}

/// A field of a packed record.
fn field<const N: usize>(record: &[u8], at: usize) -> [u8; N] {
    record[at..at + N].try_into().expect("a slice of N bytes")
}

/// `above`, native.
fn above(tick: &abi::Tick, params: &[u8], _state: &mut [u8], verdict: &mut abi::Verdict) -> i32 {
    let target = f64::from_le_bytes(field(params, 0));
    if tick.price < target {
        return abi::HOLD;
    }
    verdict.evidence[0] = target;
    abi::FIRE
}

/// `ema.wat`, native.
fn ema_cross(tick: &abi::Tick, params: &[u8], state: &mut [u8], verdict: &mut abi::Verdict) -> i32 {
    let word = |at| u32::from_le_bytes(field(params, at));
    let (fast_period, slow_period, direction) = (word(0), word(4), word(8));
    let (mut fast, mut slow) = (f64::from_le_bytes(field(state, 0)), f64::from_le_bytes(field(state, 8)));
    let (mut seen, before) = (u32::from_le_bytes(field(state, 16)), i32::from_le_bytes(field(state, 20)));
    if seen == 0 {
        (fast, slow) = (tick.price, tick.price);
    }
    let step = |average: f64, period: u32| average + 2.0 / (f64::from(period) + 1.0) * (tick.price - average);
    (fast, slow) = (step(fast, fast_period), step(slow, slow_period));
    state[..8].copy_from_slice(&fast.to_le_bytes());
    state[8..16].copy_from_slice(&slow.to_le_bytes());
    if seen <= slow_period {
        seen += 1;
        state[16..20].copy_from_slice(&seen.to_le_bytes());
    }
    let side = if fast > slow {
        1
    } else if fast < slow {
        -1
    } else {
        before
    };
    state[20..24].copy_from_slice(&side.to_le_bytes());
    let wanted = direction == 2 || side == if direction == 0 { 1 } else { -1 };
    if before != 0 && before != side && seen > slow_period && wanted {
        (verdict.evidence[0], verdict.evidence[1]) = (fast, slow);
        return abi::FIRE;
    }
    abi::HOLD
}
