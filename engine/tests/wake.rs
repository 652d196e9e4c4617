//! Sleeping changes what is called, and nothing else: the shard that uses the index, the one that checks promises and the one
//! that evaluates all bindings fire alike and remember the same bytes.
#![allow(clippy::unwrap_used)] // the helpers belong to the tests

use std::sync::OnceLock;

use proptest::prelude::*;
use tocsin_engine::domain::{AlertId, BindingId, Conditions, Lifecycle, Position, Repeat, Symbol, Tenant, Tick};
use tocsin_engine::{
    Arming, Engine, EvaluationOptions, Event, Fault, GroupSnapshot, Rule, SavedBinding, Shard, Waking, builtin,
};

const MODES: [Waking; 3] = [Waking::Indexed, Waking::Checked, Waking::Naive];

fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new().unwrap())
}

/// A rule that sleeps, written as the body of `evaluate`: two numbers are its params, 24 bytes its state.
fn sleeper(name: &str, locals: &str, body: &str) -> Rule {
    let manifest = format!(
        r#"{{"abi":1,"name":"{name}","version":"1.0.0","sleeps":true,"state":{{"size":24}},"evidence":["count"],
            "params":{{"size":16,"schema":{{"type":"object","properties":{{"step":{{"type":"number","default":1}},
            "every":{{"type":"integer","default":1}}}}}},"layout":[{{"name":"step","type":"f64","offset":0}},
            {{"name":"every","type":"i64","offset":8}}]}}}}"#
    );
    let manifest: String = manifest.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    let text = format!(
        r#"(module (memory (export "memory") 0)
            (func (export "evaluate") (param $tick i32) (param $params i32) (param $state i32) (param $verdict i32)
              (result i32) {locals} {body})
            (@custom "tocsin.manifest" "{manifest}"))"#
    );
    engine().load(&wat::parse_str(text).unwrap()).unwrap()
}

/// Counts how often the price moves `step` away from where it was counted last, or 5 ms pass without; fires at every
/// `every`th count. State: the band's two prices (as bits, so that all zero is "none yet") and the count in the upper
/// half of a word whose lower half is the time.
fn mover() -> &'static Rule {
    static RULE: OnceLock<Rule> = OnceLock::new();
    RULE.get_or_init(|| {
        sleeper(
            "mover",
            "(local $price f64) (local $anchor f64) (local $time i64) (local $count i64) (local $code i32)",
            "(local.set $price (f64.load (local.get $tick)))
             (local.set $time (i64.load offset=16 (local.get $tick)))
             (local.set $anchor (f64.load (local.get $state)))
             (local.set $count (i64.load offset=16 (local.get $state)))
             (if (i32.or
                   (i32.or (i64.eqz (local.get $count)) (i64.ge_s (local.get $time) (i64.load offset=8 (local.get $state))))
                   (i32.or
                     (f64.le (local.get $price) (f64.sub (local.get $anchor) (f64.load (local.get $params))))
                     (f64.ge (local.get $price) (f64.add (local.get $anchor) (f64.load (local.get $params))))))
               (then
                 (local.set $anchor (local.get $price))
                 (local.set $count (i64.add (local.get $count) (i64.const 1)))
                 (f64.store (local.get $state) (local.get $anchor))
                 (i64.store offset=8 (local.get $state) (i64.add (local.get $time) (i64.const 5)))
                 (i64.store offset=16 (local.get $state) (local.get $count))
                 (local.set $code (i64.eqz (i64.rem_s (local.get $count) (i64.load offset=8 (local.get $params)))))
                 (f64.store (local.get $verdict) (f64.convert_i64_s (local.get $count)))))
             (f64.store offset=32 (local.get $verdict) (f64.sub (local.get $anchor) (f64.load (local.get $params))))
             (f64.store offset=40 (local.get $verdict) (f64.add (local.get $anchor) (f64.load (local.get $params))))
             (i64.store offset=48 (local.get $verdict) (i64.load offset=8 (local.get $state)))
             (i32.add (local.get $code) (i32.const 2))",
        )
    })
}

/// Fires at every price that is a multiple of `every`. Its bands promise nothing: they are empty, the wrong way round
/// or not numbers.
fn insomniac() -> &'static Rule {
    static RULE: OnceLock<Rule> = OnceLock::new();
    RULE.get_or_init(|| {
        sleeper(
            "insomniac",
            "(local $price i64)",
            "(local.set $price (i64.trunc_sat_f64_s (f64.load (local.get $tick))))
             (f64.store offset=32 (local.get $verdict) (f64.load (local.get $params)))
             (f64.store offset=40 (local.get $verdict)
               (f64.sqrt (f64.sub (f64.load (local.get $params)) (f64.const 2))))
             (i64.store offset=48 (local.get $verdict) (i64.const 9223372036854775807))
             (i32.add (i32.const 2) (i64.eqz (i64.rem_s (local.get $price) (i64.load offset=8 (local.get $params)))))",
        )
    })
}

fn built_in(below: bool) -> &'static Rule {
    static RULES: OnceLock<[Rule; 2]> = OnceLock::new();
    let rules = RULES.get_or_init(|| [builtin::ABOVE, builtin::BELOW].map(|module| engine().load(module).unwrap()));
    &rules[usize::from(below)]
}

fn arming(id: i64, symbol: &str, rule: &Rule, params: Vec<u8>, repeat: Repeat) -> Arming {
    Arming {
        binding: BindingId(id),
        alert: AlertId(id),
        tenant: Tenant::standard(),
        symbol: Symbol::parse(symbol).unwrap(),
        rule: rule.clone(),
        params,
        lifecycle: Lifecycle { repeat },
        saved: None,
    }
}

fn two(step: f64, every: i64) -> Vec<u8> {
    [step.to_le_bytes(), every.to_le_bytes()].concat()
}

/// Evaluates one tick, and returns what happened, by binding.
fn evaluate(shard: &mut Shard, tick: &Tick, offset: u64) -> Vec<(i64, String)> {
    let mut events = Vec::new();
    shard.evaluate(tick, Position { partition: 0, offset }, &mut events).unwrap();
    let described = events.into_iter().map(|event| match event {
        Event::Fired { firing, last } => (firing.binding.0, format!("{:?} {last}", firing.evidence)),
        Event::Faulted { binding, fault, .. } => (binding.0, fault.to_string()),
        other => panic!("{other:?}"),
    });
    let mut described: Vec<_> = described.collect();
    described.sort();
    described
}

#[derive(Clone, Debug)]
enum Step {
    Arm {
        rule: u8,
        step: i8,
        every: i8,
        once: bool,
    },
    Disarm(prop::sample::Index),
    Tick {
        price: i8,
        time_ms: u8,
    },
    /// Goes on from the snapshots: all bindings are awake again.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let arm = (0..4_u8, 0..9_i8, 1..4_i8, any::<bool>());
    prop_oneof![
        4 => arm.prop_map(|(rule, step, every, once)| Step::Arm { rule, step, every, once }),
        1 => any::<prop::sample::Index>().prop_map(Step::Disarm),
        8 => (-9..9_i8, 0..30_u8).prop_map(|(price, time_ms)| Step::Tick { price, time_ms }),
        1 => Just(Step::Restart),
    ]
}

fn arming_of(id: i64, rule: u8, step: i8, every: i8, once: bool) -> Arming {
    let repeat = if once { Repeat::Once } else { Repeat::Every };
    let (rule, params) = match rule {
        0 => (built_in(false), f64::from(step).to_le_bytes().to_vec()),
        1 => (built_in(true), f64::from(-step).to_le_bytes().to_vec()),
        2 => (mover(), two(step.into(), every.into())),
        _ => (insomniac(), two(step.into(), every.into())),
    };
    arming(id, "X", rule, params, repeat)
}

/// A shard as a new process would make it.
fn restarted(shard: &mut Shard, mode: Waking, armed: &[Arming], stored: &mut Vec<SavedBinding>) -> Shard {
    for group in shard.take_changed() {
        let saved = GroupSnapshot::unpack(&group.bytes).unwrap();
        stored.retain(|old| saved.iter().all(|new| new.binding != old.binding));
        stored.extend(saved);
    }
    let mut fresh =
        Shard::new(EvaluationOptions { waking: mode, audit_every_calls: 0, ..EvaluationOptions::default() });
    for arming in armed.iter().filter(|arming| shard.holds(arming.binding)) {
        let saved = stored.iter().find(|saved| saved.binding == arming.binding).cloned();
        fresh.arm(Arming { saved, ..arming.clone() }).unwrap();
    }
    fresh
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_modes_fire_alike_and_remember_the_same(steps in prop::collection::vec(step(), 1..150)) {
        let mut armed = Vec::new();
        let mut shards = MODES.map(|waking| Shard::new(EvaluationOptions { waking, audit_every_calls: 3, ..EvaluationOptions::default() }));
        let mut stored = [Vec::new(), Vec::new(), Vec::new()];
        for (offset, step) in steps.into_iter().enumerate() {
            match step {
                Step::Arm { rule, step, every, once } => {
                    let arming = arming_of(armed.len() as i64 + 1, rule, step, every, once);
                    shards.iter_mut().for_each(|shard| shard.arm(arming.clone()).unwrap());
                    armed.push(arming);
                }
                Step::Disarm(place) => {
                    let id = BindingId(place.index(armed.len() + 1) as i64);
                    let disarmed = shards.each_mut().map(|shard| shard.disarm(id));
                    prop_assert!(disarmed.iter().all(|was| *was == disarmed[0]));
                }
                Step::Tick { price, time_ms } => {
                    let symbol = Symbol::parse("X").unwrap();
                    let tick = Tick::new(symbol, price.into(), 1.0, time_ms.into(), Conditions::default()).unwrap();
                    let [indexed, checked, naive] = shards.each_mut().map(|shard| evaluate(shard, &tick, offset as u64));
                    prop_assert_eq!(&indexed, &naive);
                    prop_assert_eq!(&checked, &naive);
                }
                Step::Restart => {
                    for (at, mode) in MODES.into_iter().enumerate() {
                        shards[at] = restarted(&mut shards[at], mode, &armed, &mut stored[at]);
                    }
                }
            }
            for arming in &armed {
                let [indexed, checked, naive] = shards.each_ref().map(|shard| shard.saved(arming.binding));
                prop_assert_eq!(&indexed, &naive);
                prop_assert_eq!(&checked, &naive);
            }
        }
    }
}

#[test]
fn all_modes_fire_alike_on_every_recorded_file_and_sleepers_are_seldom_called() {
    for recording in tocsin_testdata::recordings() {
        let mut shards = MODES.map(|waking| {
            Shard::new(EvaluationOptions { waking, audit_every_calls: 1000, ..EvaluationOptions::default() })
        });
        let mut id = 0;
        for (symbol, trades) in recording.by_symbol() {
            let prices = trades.iter().map(|trade| trade.price);
            let (low, high) = prices.fold((f64::MAX, f64::MIN), |(low, high), price| (low.min(price), high.max(price)));
            for part in 0..50 {
                let target = low + (high - low) * f64::from(part) / 40.0;
                let step = (high - low) / f64::from(part + 2);
                for (rule, params) in [
                    (built_in(false), target.to_le_bytes().to_vec()),
                    (built_in(true), target.to_le_bytes().to_vec()),
                    (mover(), two(step, 1 + i64::from(part) % 5)),
                ] {
                    id += 1;
                    let new = arming(id, symbol, rule, params, Repeat::Once);
                    shards.iter_mut().for_each(|shard| shard.arm(new.clone()).unwrap());
                }
            }
        }
        let mut fired = 0;
        for (offset, trade) in recording.trades.iter().enumerate() {
            let symbol = Symbol::parse(&trade.symbol).unwrap();
            let tick = Tick::new(symbol, trade.price, trade.volume, trade.time_ms, Conditions::default()).unwrap();
            let [indexed, checked, naive] = shards.each_mut().map(|shard| evaluate(shard, &tick, offset as u64));
            assert_eq!(indexed, naive, "{} at {offset}", recording.name);
            assert_eq!(checked, naive, "{} at {offset}", recording.name);
            fired += naive.len();
        }
        assert!(fired >= 100, "{}: {fired}", recording.name);
        let [indexed, _, naive] = shards.map(|shard| shard.evaluations());
        assert!(indexed < naive, "{}: {indexed} of {naive} evaluations", recording.name);
    }
}

#[test]
fn a_broken_promise_is_found_when_it_is_looked_for() {
    // Fires at every third tick, or remembers every tick, though it promised to sleep while the price is below 100.
    let liars = [
        ("fires", "(i64.eqz (i64.rem_s (i64.load offset=16 (local.get $tick)) (i64.const 3)))"),
        ("remembers", "(f64.store (local.get $state) (f64.load (local.get $tick))) (i32.const 0)"),
        (
            "traps",
            "(if (i64.gt_s (i64.load offset=16 (local.get $tick)) (i64.const 1)) (then unreachable)) (i32.const 0)",
        ),
    ];
    for (what, lie) in liars {
        let band = "(f64.store offset=32 (local.get $verdict) (f64.const -inf))
             (f64.store offset=40 (local.get $verdict) (f64.const 100))
             (i64.store offset=48 (local.get $verdict) (i64.const 9223372036854775807))";
        let liar = sleeper("liar", "", &format!("{band} (i32.add (i32.const 2) (block (result i32) {lie}))"));
        let mut faults = Vec::new();
        for waking in MODES {
            let mut shard =
                Shard::new(EvaluationOptions { waking, audit_every_calls: 0, ..EvaluationOptions::default() });
            shard.arm(arming(1, "X", &liar, two(1.0, 1), Repeat::Every)).unwrap();
            let mut fired = 0;
            for time_ms in 1..=4 {
                let tick =
                    Tick::new(Symbol::parse("X").unwrap(), 50.0 + time_ms as f64, 1.0, time_ms, Conditions::default());
                let mut events = Vec::new();
                shard.evaluate(&tick.unwrap(), Position { partition: 0, offset: time_ms as u64 }, &mut events).unwrap();
                for event in events {
                    match event {
                        Event::Faulted { fault, .. } => faults.push((waking, fault)),
                        Event::Fired { .. } => fired += 1,
                        other => panic!("{other:?}"),
                    }
                }
            }
            assert_eq!(fired, usize::from(what == "fires" && waking == Waking::Naive), "{what}, {waking:?}");
        }
        let checked =
            faults.iter().filter(|(waking, fault)| *waking == Waking::Checked && matches!(fault, Fault::Overslept(_)));
        assert!(checked.count() >= 1, "{what}: {faults:?}");
        assert!(faults.iter().all(|(waking, _)| *waking != Waking::Indexed), "{what}: {faults:?}");
    }
}

#[test]
fn a_sleeper_is_called_only_when_a_tick_leaves_its_band() {
    let mut shard = Shard::default();
    for id in 1..=1000 {
        let target = 100.0 + id as f64;
        shard.arm(arming(id, "X", built_in(false), target.to_le_bytes().to_vec(), Repeat::Once)).unwrap();
    }
    let mut evaluations = Vec::new();
    for (offset, price) in [50.0, 60.0, 101.0, 100.0, 104.5, 104.5].into_iter().enumerate() {
        let tick = Tick::new(Symbol::parse("X").unwrap(), price, 1.0, 0, Conditions::default()).unwrap();
        let before = shard.evaluations();
        let fired = evaluate(&mut shard, &tick, offset as u64).len();
        evaluations.push((fired, shard.evaluations() - before));
    }
    assert_eq!(evaluations, [(0, 1000), (0, 0), (1, 1), (0, 0), (3, 3), (0, 0)]);
}
