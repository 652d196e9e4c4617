//! A fault's bundle is enough to see the fault again, and nothing else is taken for it.

#![allow(clippy::unwrap_used)] // a failed test shows where

use std::sync::OnceLock;

use tocsin_engine::domain::{
    AlertId, BindingId, Conditions, Digest, Lifecycle, Position, Repeat, RuleName, Symbol, Tenant, Tick,
};
use tocsin_engine::{
    Arming, Band, Engine, EvaluationOptions, Event, Fault, FaultBundle, NotReproduced, Rule, Shard, Waking, reproduce,
};

fn rule(state_bytes: usize, sleeps: bool, body: &str) -> Rule {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    let manifest = format!(
        r#"{{"abi":1,"name":"test","version":"1.0.0","state":{{"size":{state_bytes}}},"evidence":["x"],"sleeps":{sleeps}}}"#
    );
    let text = format!(
        r#"(module (memory (export "memory") 1)
            (func (export "evaluate") (param $tick i32) (param $params i32) (param $state i32) (param $verdict i32)
              (result i32) {body})
            (@custom "tocsin.manifest" "{}"))"#,
        manifest.replace('"', "\\\"")
    );
    ENGINE.get_or_init(|| Engine::new().unwrap()).load(&wat::parse_str(text).unwrap()).unwrap()
}

/// Evaluates ticks in turn until the rule faults, and returns the bundle.
fn first_fault(rule: &Rule, waking: Waking, prices: &[f64]) -> FaultBundle {
    let mut shard = Shard::new(EvaluationOptions { waking, audit_every_calls: 0, ..EvaluationOptions::default() });
    let symbol = Symbol::parse("X").unwrap();
    shard
        .arm(Arming {
            binding: BindingId(7),
            alert: AlertId(70),
            tenant: Tenant::standard(),
            symbol: symbol.clone(),
            rule: rule.clone(),
            params: Vec::new(),
            lifecycle: Lifecycle { repeat: Repeat::Every },
            saved: None,
        })
        .unwrap();
    let mut events = Vec::new();
    for (offset, price) in prices.iter().enumerate() {
        let tick = Tick::new(symbol.clone(), *price, 1.0, 1_000, Conditions::default()).unwrap();
        shard.evaluate(&tick, Position { partition: 0, offset: offset as u64 }, &mut events).unwrap();
        for event in events.drain(..) {
            if let Event::Faulted { bundle, .. } = event {
                return *bundle;
            }
        }
    }
    panic!("the rule never faults");
}

/// Counts its evaluations in its state, and at the third does what `body` says.
fn at_the_third(body: &str) -> String {
    format!(
        "(i32.store (local.get $state) (i32.add (i32.load (local.get $state)) (i32.const 1)))
         (if (result i32) (i32.eq (i32.load (local.get $state)) (i32.const 3)) (then {body}) (else (i32.const 0)))"
    )
}

#[test]
fn every_kind_of_fault_is_seen_again_from_its_bundle_alone() {
    let sleep = "(f64.store offset=32 (local.get $verdict) (f64.const 1))
                 (f64.store offset=40 (local.get $verdict) (f64.const 9))
                 (i64.store offset=48 (local.get $verdict) (i64.const 9000)) (i32.const 2)";
    let oversleeps = format!(
        "(if (result i32) (f64.gt (f64.load (local.get $tick)) (f64.const 5)) (then (i32.const 1)) (else {sleep}))"
    );
    let cases = [
        (rule(8, false, &at_the_third("(loop $l (br $l)) (i32.const 0)")), "out_of_fuel"),
        (rule(8, false, &at_the_third("(i32.div_u (i32.const 1) (i32.const 0))")), "trap"),
        (rule(8, false, &at_the_third("(i32.store (i32.const 200000) (i32.const 1)) (i32.const 0)")), "stray_write"),
        (rule(8, false, &at_the_third("(i32.const 9)")), "bad_code"),
        (
            rule(8, false, &at_the_third("(f64.store (local.get $verdict) (f64.const inf)) (i32.const 1)")),
            "bad_evidence",
        ),
        (rule(0, true, &oversleeps), "overslept"),
    ];
    for (rule, kind) in cases {
        let bundle = first_fault(&rule, Waking::Checked, &[3.0, 4.0, 6.0]);
        assert_eq!((bundle.fault.kind(), bundle.position.offset), (kind, 2));
        reproduce(&rule, &bundle).unwrap_or_else(|error| panic!("{kind}: {error}"));
    }
}

#[test]
fn an_error_describes_the_difference() {
    let faulty = rule(8, false, &at_the_third("(i32.div_u (i32.const 1) (i32.const 0))"));
    let bundle = first_fault(&faulty, Waking::Indexed, &[1.0; 3]);
    let refusal = |bundle: &FaultBundle| reproduce(&faulty, bundle).unwrap_err();
    let earlier = FaultBundle { state: vec![1, 0, 0, 0, 0, 0, 0, 0], ..bundle.clone() };
    let message = refusal(&earlier).to_string();
    assert!(
        message.contains("divide by zero") && message.ends_with("evaluated again, it held and changed its state"),
        "{message}"
    );
    let other = FaultBundle { fault: Fault::OutOfFuel, ..bundle.clone() };
    assert!(matches!(refusal(&other), NotReproduced::Differs { expected: Fault::OutOfFuel, .. }));
    let short = FaultBundle { state: vec![2], ..bundle.clone() };
    assert!(refusal(&short).to_string().contains("state record has 1 bytes"), "{}", refusal(&short));
    let mut misnamed = bundle.clone();
    misnamed.rule.name = RuleName::parse("another").unwrap();
    assert!(refusal(&misnamed).to_string().contains("another 1.0.0, but its module says test 1.0.0"));
    let mut foreign = bundle.clone();
    foreign.rule.digest = Digest::of(b"another");
    assert!(matches!(refusal(&foreign), NotReproduced::Digest { .. }));
    assert!(matches!(refusal(&FaultBundle { fuel: 1, ..bundle }), NotReproduced::Fuel(1)));
}

#[test]
fn who_overslept_is_message_by_the_band() {
    let band = "(f64.store offset=32 (local.get $verdict) (f64.const 1))
                (f64.store offset=40 (local.get $verdict) (f64.const 9))
                (i64.store offset=48 (local.get $verdict) (i64.const 9000))";
    let fires = format!(
        "{band} (if (result i32) (f64.gt (f64.load (local.get $tick)) (f64.const 5)) (then (i32.const 1)) (else (i32.const 2)))"
    );
    let liar = rule(0, true, &fires);
    let bundle = first_fault(&liar, Waking::Checked, &[3.0, 6.0]);
    let promised = Band { low: 1.0, high: 9.0, until_ms: 9000 };
    assert_eq!(bundle.fault, Fault::Overslept(promised));
    assert_eq!(reproduce(&liar, &bundle).unwrap(), "it fired");
    let mut outside = bundle.clone();
    outside.tick.price = 9.0;
    assert!(matches!(reproduce(&liar, &outside), Err(NotReproduced::Awake(_))));
    let mut elsewhere = bundle.clone();
    elsewhere.tick.price = 4.0;
    assert!(matches!(reproduce(&liar, &elsewhere), Err(NotReproduced::Differs { .. })));
    let sleepless = rule(0, false, "(i32.const 1)");
    let foreign = FaultBundle { rule: sleepless.reference().clone(), ..bundle };
    assert!(matches!(reproduce(&sleepless, &foreign), Err(NotReproduced::Awake(_))));
}
