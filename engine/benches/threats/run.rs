//! Runs honest alerts over a recording, alone and in one shard with hostile rules, and compares their firings.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::mpsc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use tocsin_engine::domain::{
    AlertId, BindingId, Conditions, Firing, Lifecycle, Position, Repeat, Symbol, Tenant, Tick,
};
use tocsin_engine::limits::{FUEL_PER_CALL, FUEL_PER_EVALUATION, THREAD_STACK_BYTES};
use tocsin_engine::{Arming, Engine, EvaluationOptions, Event, Fault, Rule, Shard, builtin};
use tocsin_testdata::hostile;

/// Honest alerts.
const HONEST: i64 = 1_000;
/// Hostile rules that are armed at the same time, each with an instance of its own.
const AT_ONCE: usize = 100;
/// Ticks on which each hostile rule is evaluated: enough to be quarantined.
const TICKS_EACH: usize = 8;
/// The first id of a hostile binding.
const FIRST_HOSTILE: i64 = 1_000_000;
/// The number of bindings that burn the fuel of a whole call.
const CROWD: i64 = FUEL_PER_CALL.div_ceil(FUEL_PER_EVALUATION) as i64;
/// Calls of a crowd that are timed.
const CROWDED_CALLS: usize = 50;
/// Calls between audits of purity.
const AUDIT_EVERY_CALLS: u32 = 3;

/// The result of a run.
pub(crate) struct Report {
    rules: usize,
    /// Faults of hostile rules.
    hostile_faults: usize,
    impure: usize,
    /// The slowest tick of each kind of hostile rule.
    slowest: BTreeMap<&'static str, Duration>,
    /// The durations of ticks of hostile rules, sorted.
    calls: Vec<Duration>,
    /// The longest call with as many bindings as it may have, all of which burn all their fuel.
    crowd: Duration,
    /// Firings of the honest alerts, the same in both runs.
    honest_firings: usize,
    rss_before_kib: u64,
    rss_after_kib: u64,
}

/// Runs hostile rules among honest alerts.
pub(crate) fn run(count: usize) -> Report {
    on_a_rules_stack(move || run_here(count))
}

/// Runs a function on a thread with the stack that rules need.
pub(crate) fn on_a_rules_stack<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    let thread = std::thread::Builder::new().stack_size(THREAD_STACK_BYTES);
    thread.spawn(move || send.send(run())).expect("a thread can be started");
    receive.recv().expect("honest alerts fire as they do alone, and nothing panics")
}

fn run_here(count: usize) -> Report {
    let engine = Engine::new().expect("Wasmtime starts");
    let honest = [builtin::ABOVE, builtin::BELOW].map(|module| engine.load(module).expect("it is built in"));
    let trades = &tocsin_testdata::recordings()[0].trades;
    let needed = count.div_ceil(AT_ONCE) * TICKS_EACH;
    let trades = &trades[..needed.max(20_000).min(trades.len())];
    let expect = alone(&honest, trades);

    let mut shard = shard();
    arm_honest(&mut shard, &honest, trades);
    let mut report = Report {
        rules: count,
        hostile_faults: 0,
        impure: 0,
        slowest: BTreeMap::new(),
        calls: Vec::new(),
        crowd: crowd(&engine),
        honest_firings: expect.len(),
        rss_before_kib: rss_kib(),
        rss_after_kib: 0,
    };
    let mut fired = Vec::new();
    let mut rules = hostile::rules(count).enumerate();
    let mut armed = Vec::new();
    for (offset, trade) in trades.iter().enumerate() {
        if offset % TICKS_EACH == 0 {
            for (id, _) in armed.drain(..) {
                shard.disarm(BindingId(id));
            }
            for (number, hostile) in rules.by_ref().take(AT_ONCE) {
                let rule = engine.load(&hostile.module).unwrap_or_else(|error| panic!("{}: {error}", hostile.kind));
                let id = FIRST_HOSTILE + number as i64;
                // On the symbol of the honest alerts, and on one of its own where it can be timed.
                for (id, symbol) in [(id, symbol(&trade.symbol)), (-id, symbol(&format!("H{number}")))] {
                    shard.arm(arming(id, symbol, &rule, Vec::new(), Repeat::Every)).expect("there is memory");
                    armed.push((id, hostile.kind));
                }
            }
        }
        for (id, kind) in armed.iter().filter(|(id, _)| *id < 0) {
            let tick = Tick { symbol: symbol(&format!("H{}", -id - FIRST_HOSTILE)), ..tick(trade) };
            let start = thread_cpu_time();
            evaluate(&mut shard, &tick, offset, &mut Vec::new(), &mut report);
            let took = thread_cpu_time() - start;
            report.calls.push(took);
            let slowest = report.slowest.entry(kind).or_default();
            *slowest = took.max(*slowest);
        }
        evaluate(&mut shard, &tick(trade), offset, &mut fired, &mut report);
    }
    assert!(rules.next().is_none(), "the recording has ticks for every hostile rule");
    assert_eq!(ids(&fired), ids(&expect), "honest alerts fire as they do alone");
    report.calls.sort();
    report.rss_after_kib = rss_kib();
    report
}

/// Returns the slowest of some calls that burn as much fuel as a call can.
fn crowd(engine: &Engine) -> Duration {
    let rule = engine.load(&hostile::just_within_budget()).expect("it is a rule");
    let mut shard = Shard::default();
    let trade = &tocsin_testdata::recordings()[0].trades[0];
    for id in 0..CROWD {
        let arming = arming(id, symbol(&trade.symbol), &rule, Vec::new(), Repeat::Every);
        shard.arm(arming).expect("there is memory");
    }
    let call = |offset| {
        let mut events = Vec::new();
        let start = thread_cpu_time();
        shard.evaluate(&tick(trade), position(offset), &mut events).expect("the machine keeps up");
        assert!(events.is_empty(), "it is within its budget: {:?}", events[0]);
        thread_cpu_time() - start
    };
    (0..CROWDED_CALLS).map(call).max().unwrap_or_default()
}

/// Returns the firings of the honest alerts on their own.
fn alone(honest: &[Rule; 2], trades: &[tocsin_testdata::Trade]) -> Vec<Firing> {
    let mut shard = Shard::default();
    arm_honest(&mut shard, honest, trades);
    let mut fired = Vec::new();
    for (offset, trade) in trades.iter().enumerate() {
        let mut events = Vec::new();
        shard.evaluate(&tick(trade), position(offset), &mut events).expect("the machine keeps up");
        fired.extend(events.into_iter().filter_map(|event| match event {
            Event::Fired { firing, .. } => Some(firing),
            _ => None,
        }));
    }
    assert!(!fired.is_empty());
    fired
}

fn evaluate(shard: &mut Shard, tick: &Tick, offset: usize, fired: &mut Vec<Firing>, report: &mut Report) {
    let mut events = Vec::new();
    shard.evaluate(tick, position(offset), &mut events).expect("the machine keeps up");
    for event in events {
        match event {
            Event::Fired { firing, .. } if (1..=HONEST).contains(&firing.binding.0) => fired.push(firing),
            Event::Faulted { binding, fault, .. } => {
                assert!(!(1..=HONEST).contains(&binding.0), "an honest alert faulted: {fault}");
                report.hostile_faults += 1;
                report.impure += usize::from(matches!(fault, Fault::Impure(_)));
            }
            _ => {}
        }
    }
}

/// Returns the CPU time of this thread, which other processes do not affect.
pub(crate) fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn ids(firings: &[Firing]) -> Vec<[u8; 16]> {
    let mut ids: Vec<_> = firings.iter().map(|firing| *firing.id.as_bytes()).collect();
    ids.sort_unstable();
    ids
}

fn shard() -> Shard {
    Shard::new(EvaluationOptions { audit_every_calls: AUDIT_EVERY_CALLS, ..EvaluationOptions::default() })
}

fn arm_honest(shard: &mut Shard, rules: &[Rule; 2], trades: &[tocsin_testdata::Trade]) {
    let prices = trades.iter().filter(|trade| trade.symbol == trades[0].symbol).map(|trade| trade.price);
    let (low, high) = prices.fold((f64::MAX, f64::MIN), |(low, high), price| (low.min(price), high.max(price)));
    for id in 1..=HONEST {
        let target = low + (high - low) * id as f64 / HONEST as f64;
        let rule = &rules[id as usize % 2];
        let repeat = if id % 100 == 0 { Repeat::Every } else { Repeat::Once };
        shard
            .arm(arming(id, symbol(&trades[0].symbol), rule, target.to_le_bytes().to_vec(), repeat))
            .expect("there is memory");
    }
}

pub(crate) fn arming(id: i64, symbol: Symbol, rule: &Rule, params: Vec<u8>, repeat: Repeat) -> Arming {
    Arming {
        binding: BindingId(id),
        alert: AlertId(id),
        tenant: Tenant::standard(),
        symbol,
        rule: rule.clone(),
        params,
        lifecycle: Lifecycle { repeat },
        saved: None,
    }
}

pub(crate) fn symbol(name: &str) -> Symbol {
    Symbol::parse(name).expect("recordings have good symbols")
}

fn tick(trade: &tocsin_testdata::Trade) -> Tick {
    Tick::new(symbol(&trade.symbol), trade.price, trade.volume, trade.time_ms, Conditions::default())
        .expect("recordings have sane numbers")
}

fn position(offset: usize) -> Position {
    Position { partition: 0, offset: offset as u64 }
}

/// Returns the resident memory of this process, KiB; 0 where the system does not report it.
fn rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

impl Report {
    fn quantile(&self, part: f64) -> Duration {
        self.calls[((self.calls.len() - 1) as f64 * part) as usize]
    }

    /// Panics if a time limit of the threat table is exceeded.
    #[allow(dead_code)] // not called by the tests
    pub(crate) fn check_times(&self) {
        assert!(self.quantile(0.999) < Duration::from_millis(1), "p99.9 of a call is at most 1 ms");
        let most = self.quantile(1.0).max(self.crowd);
        assert!(most < Duration::from_millis(20), "no call takes more than 20 ms");
    }

    /// Returns the numbers of faults and of impure rules that were found.
    #[allow(dead_code)] // for the tests
    pub(crate) fn caught(&self) -> (usize, usize) {
        (self.hostile_faults, self.impure)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} hostile rules among {HONEST} honest alerts, which fired {} times, as they do alone",
            self.rules, self.honest_firings
        )?;
        writeln!(f, "{} faults, {} of them impurities, 0 panics, 0 aborts", self.hostile_faults, self.impure)?;
        let [p50, p999, most] = [0.5, 0.999, 1.0].map(|part| self.quantile(part).as_secs_f64() * 1e6);
        writeln!(
            f,
            "a tick of one hostile rule, CPU time: p50 {p50:.0} us, p99.9 {p999:.0} us, at most {most:.0} us, of {}",
            self.calls.len()
        )?;
        let crowd = self.crowd.as_secs_f64() * 1e3;
        writeln!(f, "a call of {CROWD} bindings that burn all their fuel: at most {crowd:.1} ms")?;
        writeln!(
            f,
            "memory (RSS): {} MiB before, {} MiB after",
            self.rss_before_kib / 1024,
            self.rss_after_kib / 1024
        )?;
        for (kind, slowest) in &self.slowest {
            writeln!(f, "  {kind:<40} at most {:>7.0} us", slowest.as_secs_f64() * 1e6)?;
        }
        Ok(())
    }
}
