//! The sandbox's walls, attacked from the inside: what a rule cannot write, whatever it calls; what a fault costs; what lies
//! cannot be recorded; what a rule cannot take from the others.

#![allow(clippy::unwrap_used)] // a failed test shows where

use std::ops::ControlFlow;
use std::sync::OnceLock;

use proptest::prelude::*;
use tocsin_engine::cost::Metering;
use tocsin_engine::domain::{
    AlertId, BindingId, Conditions, Lifecycle, Position, Repeat, Symbol, Tenant, Tick, Version,
};
use tocsin_engine::limits::{
    FIRING_INTERVAL_MS, FIRINGS_AT_ONCE, FUEL_PER_CALL, IMPURE_BINDINGS, MAX_PROBES_PER_TICK, PROBE_AFTER_RECORDS,
    QUARANTINE_AFTER_FAULTS, THREAD_STACK_BYTES,
};
use tocsin_engine::{
    Arming, Engine, EvaluateError, EvaluationOptions, Event, Fault, GroupSnapshot, Migration, MigrationError, Rule,
    Shard,
};
use tocsin_testdata::modules::with_manifest;

fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new().unwrap())
}

/// Sizes of the records of all rules here.
const PARAMS_BYTES: usize = 8;
const STATE_BYTES: usize = 16;

fn manifest(name: &str, more: &str) -> String {
    format!(
        r#"{{"abi":1,"name":"{name}","version":"1.0.0","state":{{"size":{STATE_BYTES}}},"evidence":["n"],{more}
            "params":{{"schema":{{"type":"object","properties":{{"p":{{"type":"number"}}}},"required":["p"]}},
              "layout":[{{"name":"p","type":"f64","offset":0}}],"size":{PARAMS_BYTES}}}}}"#
    )
}

/// A rule of some fields, which have a function `$evaluate`.
fn rule(name: &str, more: &str, fields: &str) -> Rule {
    let fields = format!(r#"(memory (export "memory") 1) {fields}"#);
    engine().load(&with_manifest(&manifest(name, more), &fields)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The head of an exported `evaluate`.
const EVALUATE: &str =
    r#"(func $evaluate (export "evaluate") (param $t i32) (param $p i32) (param $s i32) (param $v i32) (result i32)"#;

fn arming(binding: i64, symbol: &str, rule: &Rule, param: f64) -> Arming {
    Arming {
        binding: BindingId(binding),
        alert: AlertId(binding),
        tenant: Tenant::standard(),
        symbol: Symbol::parse(symbol).unwrap(),
        rule: rule.clone(),
        params: param.to_le_bytes().to_vec(),
        lifecycle: Lifecycle { repeat: Repeat::Every },
        saved: None,
    }
}

fn tick(symbol: &str, price: f64, time_ms: i64) -> Tick {
    Tick::new(Symbol::parse(symbol).unwrap(), price, 1.0, time_ms, Conditions::default()).unwrap()
}

fn evaluate(shard: &mut Shard, tick: &Tick, offset: u64) -> Vec<Event> {
    let mut events = Vec::new();
    shard.evaluate(tick, Position { partition: 0, offset }, &mut events).unwrap();
    events
}

fn fired(events: &[Event]) -> Vec<i64> {
    let fired = events.iter().filter_map(|event| match event {
        Event::Fired { firing, .. } => Some(firing.binding.0),
        _ => None,
    });
    fired.collect()
}

fn faults(events: &[Event]) -> Vec<(i64, &Fault)> {
    let faulted = events.iter().filter_map(|event| match event {
        Event::Faulted { binding, fault, .. } => Some((binding.0, fault)),
        _ => None,
    });
    faulted.collect()
}

/// How a module enters its own `evaluate`, with the state and the verdict of its choice: fields beside `evaluate`, and the
/// code that does it. `S` and `V` stand for the two addresses.
const SELF_CALLS: [(&str, &str, &str); 4] = [
    ("by its index", "", "(drop (call $evaluate (i32.const -1) (i32.const 0) S V))"),
    (
        "through a helper",
        "(func $help (param $s i32) (param $v i32) (result i32)
           (call $evaluate (i32.const -1) (i32.const 0) (local.get $s) (local.get $v)))",
        "(drop (call $help S V))",
    ),
    (
        "through a table",
        "(type $e (func (param i32 i32 i32 i32) (result i32))) (table 1 funcref) (elem (i32.const 0) $evaluate)",
        "(drop (call_indirect (type $e) (i32.const -1) (i32.const 0) S V (i32.const 0)))",
    ),
    (
        "through a helper and a table",
        "(type $e (func (param i32 i32 i32 i32) (result i32))) (table 2 funcref) (elem (i32.const 1) $evaluate)
         (func $help (param $s i32) (param $v i32) (result i32)
           (call_indirect (type $e) (i32.const -1) (i32.const 0) (local.get $s) (local.get $v) (i32.const 1)))",
        "(drop (call $help S V))",
    ),
];

/// What such a call aims at: a state and a verdict.
const TARGETS: [(&str, &str, &str); 7] = [
    ("the next state", "(i32.add (local.get $s) (i32.const 16))", "(local.get $v)"),
    ("the state before", "(i32.sub (local.get $s) (i32.const 16))", "(local.get $v)"),
    ("the own params", "(local.get $p)", "(local.get $v)"),
    ("the next params", "(i32.add (local.get $p) (i32.const 8))", "(local.get $v)"),
    ("the answer's slot", "(i32.sub (local.get $v) (i32.const 8))", "(local.get $v)"),
    ("another answer", "(local.get $s)", "(i32.add (local.get $v) (i32.const 64))"),
    ("the tick", "(local.get $t)", "(local.get $v)"),
];

#[test]
fn a_module_that_enters_its_own_evaluate_writes_nowhere_else() {
    for (how, beside, call) in SELF_CALLS {
        for (what, state, verdict) in TARGETS {
            let call = call.replace('S', state).replace('V', verdict);
            let fields = format!(
                "{beside} {EVALUATE}
                   (if (i32.eq (local.get $t) (i32.const -1))
                     (then (i64.store (local.get $s) (i64.const -1)) (i64.store offset=8 (local.get $s) (i64.const -1))
                           (i64.store (local.get $v) (i64.const 1)) (return (i32.const 1))))
                   ;; Only with the odd param: its neighbours are honest.
                   (if (f64.eq (f64.load (local.get $p)) (f64.const 2)) (then {call}))
                   (i32.const 0))"
            );
            let rule = rule("self-call", "", &fields);
            let mut shard = Shard::default();
            for (binding, param) in [(1, 1.0), (2, 2.0), (3, 3.0)] {
                shard.arm(arming(binding, "X", &rule, param)).unwrap();
            }
            let before: Vec<_> = (1..=3).map(|binding| shard.saved(BindingId(binding)).unwrap().state).collect();
            for offset in 0..3 {
                let events = evaluate(&mut shard, &tick("X", 10.0, 0), offset);
                assert_eq!(faults(&events), [(2, &Fault::StrayWrite)], "{how}: {what}");
                assert!(fired(&events).is_empty(), "{how}: {what}");
            }
            let after: Vec<_> = (1..=3).map(|binding| shard.saved(BindingId(binding)).unwrap().state).collect();
            assert_eq!(before, after, "{how}: {what}");
        }
    }
}

#[test]
fn an_evaluate_that_is_the_migration_too_writes_to_the_new_state_only() {
    // As `migrate` its third parameter is the params, and its fourth the state.
    let fields = format!(
        r#"{EVALUATE} (i64.store (local.get $s) (i64.const -1)) (i32.const 0)) (export "migrate" (func $evaluate))"#
    );
    let new = rule("migrates", r#""migrates":["0.9.0"],"#, &fields);
    let mut old = new.manifest().clone();
    old.version = Version::parse("0.9.0").unwrap();
    let made = Migration::new(&new, &old).unwrap().state(&[0; PARAMS_BYTES], &[0; STATE_BYTES]);
    assert!(matches!(made, Err(MigrationError::Faulted(Fault::StrayWrite))), "{made:?}");
}

#[test]
fn an_evaluate_that_nobody_but_the_host_enters_needs_no_guard() {
    let honest = format!("{EVALUATE} (i64.store (local.get $s) (i64.const 7)) (i32.const 0))");
    let mut shard = Shard::default();
    shard.arm(arming(1, "X", &rule("honest", "", &honest), 1.0)).unwrap();
    assert!(evaluate(&mut shard, &tick("X", 1.0, 0), 0).is_empty());
    assert_eq!(shard.saved(BindingId(1)).unwrap().state[0], 7);
}

/// A rule with the largest state whose bindings trap on every tick after the first, all of them.
fn traps_with_a_large_state() -> Rule {
    let manifest = r#"{"abi":1,"name":"large","version":"1.0.0","state":{"size":65536}}"#;
    let fields = format!(
        r#"(memory (export "memory") 1) {EVALUATE}
             (i64.store (local.get $s) (i64.add (i64.load (local.get $s)) (i64.const 1)))
             (if (f64.gt (f64.load (local.get $t)) (f64.const 5)) (then unreachable))
             (i32.const 0))"#
    );
    engine().load(&with_manifest(manifest, &fields)).unwrap()
}

#[test]
fn a_fault_costs_its_record_and_quarantine_bounds_the_probes() {
    const COUNT: i64 = 300;
    let rule = traps_with_a_large_state();
    let mut shard = Shard::default();
    for binding in 1..=COUNT {
        shard.arm(Arming { params: Vec::new(), ..arming(binding, "X", &rule, 0.0) }).unwrap();
    }
    assert!(evaluate(&mut shard, &tick("X", 1.0, 0), 0).is_empty());
    let mut offset = 1;
    let mut next = |shard: &mut Shard| {
        offset += 1;
        evaluate(shard, &tick("X", 10.0, 0), offset)
    };
    // Copying all tables for each of these faults would be 7 TB.
    for _ in 0..QUARANTINE_AFTER_FAULTS {
        assert_eq!(faults(&next(&mut shard)).len(), COUNT as usize);
    }
    for _ in 1..PROBE_AFTER_RECORDS {
        assert!(next(&mut shard).is_empty());
    }
    let mut probed = Vec::new();
    for _ in 0..COUNT as usize / MAX_PROBES_PER_TICK {
        let events = next(&mut shard);
        assert_eq!(events.len(), MAX_PROBES_PER_TICK);
        probed.extend(faults(&events).iter().map(|(binding, _)| *binding));
    }
    // In the order of their numbers, whatever happened to them before.
    assert_eq!(probed, (1..=probed.len() as i64).collect::<Vec<_>>());
    let state = shard.saved(BindingId(7)).unwrap().state;
    assert_eq!(state[0], 1, "the state of before the first fault");
}

/// Rules that answer otherwise than a fresh instance would, and only when they fire.
const LIARS: [(&str, &str); 3] = [
    (
        "a hidden counter",
        "(global.set $n (i32.add (global.get $n) (i32.const 1)))
         (i32.eqz (i32.rem_u (global.get $n) (i32.const 50)))",
    ),
    (
        "a counter in its own memory",
        "(i32.store (i32.const 64) (i32.add (i32.load (i32.const 64)) (i32.const 1)))
         (i32.eqz (i32.rem_u (i32.load (i32.const 64)) (i32.const 50)))",
    ),
    (
        "a neighbour's params as evidence",
        "(f64.store (local.get $v) (f64.load (i32.add (local.get $p) (i32.const 8))))
         (f64.eq (f64.load (local.get $p)) (f64.const 2))",
    ),
];

#[test]
fn lies_told_only_when_firing_are_not_recorded() {
    for (what, body) in LIARS {
        let rule = rule("liar", "", &format!("(global $n (mut i32) (i32.const 0)) {EVALUATE} {body})"));
        let mut shard = Shard::default();
        for binding in 1..=5 {
            shard.arm(arming(binding, "X", &rule, binding as f64)).unwrap();
        }
        let mut impure = 0;
        for offset in 0..200 {
            let events = evaluate(&mut shard, &tick("X", 10.0, 0), offset);
            assert!(fired(&events).is_empty(), "{what}: {events:?}");
            impure += faults(&events).iter().filter(|(_, fault)| matches!(fault, Fault::Impure(_))).count();
        }
        assert!(impure > 0, "{what}");
    }
}

#[test]
fn a_rule_that_looks_at_addresses_is_found_soon() {
    // Any address fires by chance; none does again and again.
    let rule = rule("liar", "", &format!("{EVALUATE} (i32.eqz (i32.rem_u (local.get $s) (i32.const 48))))"));
    let mut shard = Shard::default();
    for binding in 1..=30 {
        shard.arm(arming(binding, "X", &rule, 1.0)).unwrap();
    }
    (0..20).for_each(|offset| _ = evaluate(&mut shard, &tick("X", 10.0, 0), offset));
    assert!(fired(&evaluate(&mut shard, &tick("X", 10.0, 0), 20)).is_empty());
}

#[test]
fn what_is_impure_for_one_odd_param_is_quarantined_alone() {
    let odd = "(global.set $n (i32.add (global.get $n) (i32.const 1)))
               (f64.store (local.get $v) (f64.const 1))
               (if (f64.eq (f64.load (local.get $p)) (f64.const 13))
                 (then (f64.store (local.get $v) (f64.convert_i32_s (global.get $n)))))
               (i32.const 1)";
    let rule = rule("odd", "", &format!("(global $n (mut i32) (i32.const 0)) {EVALUATE} {odd})"));
    let arm = |shard: &mut Shard, odd: i64| {
        for binding in 1..=20 {
            shard.arm(arming(binding, "X", &rule, if binding <= odd { 13.0 } else { binding as f64 + 100.0 })).unwrap();
        }
    };
    // A few bindings, and all others go on.
    let mut shard = Shard::default();
    arm(&mut shard, IMPURE_BINDINGS as i64);
    for offset in 0..3000 {
        let events = evaluate(&mut shard, &tick("X", 10.0, offset as i64 * FIRING_INTERVAL_MS), offset);
        assert!(fired(&events).len() >= 20 - IMPURE_BINDINGS - 1, "{offset}: {events:?}");
        assert!(!events.iter().any(|event| matches!(event, Event::Impure { .. })));
    }
    assert!(shard.saved(BindingId(2)).unwrap().health.is_quarantined(), "it is not tried again by itself");
    assert!(shard.unquarantine(BindingId(2)).unwrap());
    // Evidence from many speaks against the version.
    let mut shard = Shard::default();
    arm(&mut shard, 12);
    let events: Vec<_> = (0..3).flat_map(|offset| evaluate(&mut shard, &tick("X", 10.0, 0), offset)).collect();
    assert!(events.iter().any(|event| matches!(event, Event::Impure { .. })));
    assert!(shard.is_empty());
}

#[test]
fn a_version_that_is_found_impure_while_its_bindings_catch_up_is_taken_out_of_service_afterwards() {
    let body = "(global.set $n (i32.add (global.get $n) (i32.const 1)))
                (f64.store (local.get $v) (f64.convert_i32_s (global.get $n))) (i32.const 1)";
    let rule = rule("counts", "", &format!("(global $n (mut i32) (i32.const 0)) {EVALUATE} {body})"));
    let mut catching_up = Shard::for_catching_up(EvaluationOptions::default());
    for binding in 1..=8 {
        catching_up.arm(arming(binding, "X", &rule, 1.0)).unwrap();
    }
    let events: Vec<_> = (0..3).flat_map(|offset| evaluate(&mut catching_up, &tick("X", 10.0, 0), offset)).collect();
    assert!(faults(&events).len() >= IMPURE_BINDINGS, "{events:?}");
    assert!(!events.iter().any(|event| matches!(event, Event::Impure { .. })));

    // Among many others of the version, those are not enough.
    let mut large = Shard::default();
    for binding in 100..200 {
        large.arm(arming(binding, "Y", &rule, 1.0)).unwrap();
    }
    let mut events = Vec::new();
    assert!(large.absorb(&catching_up, &mut events).is_empty());
    assert!(events.is_empty() && large.len() == 108, "{events:?}");

    let mut shard = Shard::default();
    assert!(shard.absorb(&catching_up, &mut events).is_empty());
    assert!(matches!(&events[..], [Event::Impure { rule, .. }] if rule.name.as_str() == "counts"), "{events:?}");
    assert!(shard.is_empty());
}

#[test]
fn a_binding_fires_no_faster_than_its_pace_and_a_replay_suppresses_the_same() {
    // Fires on every tick, and counts them.
    let body = "(i64.store (local.get $s) (i64.add (i64.load (local.get $s)) (i64.const 1)))
                (f64.store (local.get $v) (f64.convert_i64_s (i64.load (local.get $s)))) (i32.const 1)";
    let rule = rule("flood", "", &format!("{EVALUATE} {body})"));
    let arm = || {
        let mut shard = Shard::default();
        shard.arm(arming(1, "X", &rule, 0.0)).unwrap();
        shard.arm(Arming { lifecycle: Lifecycle { repeat: Repeat::Once }, ..arming(2, "X", &rule, 0.0) }).unwrap();
        shard
    };
    let run = |shard: &mut Shard, offsets: std::ops::Range<u64>| -> Vec<u64> {
        let evidence = offsets.flat_map(|offset| {
            let events = evaluate(shard, &tick("X", 10.0, offset as i64), offset);
            let numbers = events.into_iter().filter_map(|event| match event {
                Event::Fired { firing, .. } if firing.binding.0 == 1 => Some(firing.evidence[0].1 as u64),
                _ => None,
            });
            numbers.collect::<Vec<_>>()
        });
        evidence.collect()
    };
    let mut shard = arm();
    let all = run(&mut shard, 0..5_000);
    let recorded = i64::from(FIRINGS_AT_ONCE) + 4_999 / FIRING_INTERVAL_MS;
    assert_eq!(all.len() as i64, recorded);
    assert!(all[all.len() - 1] > 4_900, "the state goes on behind a firing that is not recorded");
    assert_eq!(shard.take_suppressed(), [(BindingId(1), 5_000 - recorded as u64)].into());
    assert!(shard.take_suppressed().is_empty());
    // Stored in the middle of the burst, and gone on from there.
    let mut first = arm();
    let mut parts = run(&mut first, 0..700);
    let snapshot = first.take_changed().pop().unwrap();
    let saved = GroupSnapshot::unpack(&snapshot.bytes).unwrap().into_iter().find(|saved| saved.binding.0 == 1);
    let mut second = Shard::default();
    second.arm(Arming { saved, ..arming(1, "X", &rule, 0.0) }).unwrap();
    parts.extend(run(&mut second, 700..5_000));
    assert_eq!(parts, all);
}

/// A certified rule that burns nearly all that it may.
fn costly(name: &str) -> Rule {
    let roots = "f64.sqrt ".repeat(3_800);
    let rule = rule(name, "", &format!("{EVALUATE} f64.const 2 {roots} drop i32.const 0)"));
    assert!(matches!(rule.metering(), Metering::Certified { worst_fuel } if worst_fuel > 90_000));
    rule
}

#[test]
fn groups_take_turns_and_the_caller_is_asked_between_their_steps() {
    let costly = costly("costly");
    let honest = rule("honest", "", &format!("{EVALUATE} (f64.store (local.get $v) (f64.const 1)) (i32.const 1))"));
    let shard = || {
        let mut shard = Shard::default();
        shard.arm(arming(0, "X", &honest, 0.0)).unwrap();
        for binding in 1..=200 {
            shard.arm(arming(binding, "X", &costly, 0.0)).unwrap();
        }
        shard
    };
    let (mut steps, mut first_seen) = (0, None);
    let mut events = Vec::new();
    let position = Position { partition: 0, offset: 0 };
    let mut between = |events: &mut Vec<Event>| {
        steps += 1;
        if first_seen.is_none() && !events.is_empty() {
            first_seen = Some(steps);
        }
        ControlFlow::Continue(())
    };
    shard().evaluate_in_turns(&tick("X", 1.0, 0), position, &mut events, &mut between).unwrap();
    assert_eq!(fired(&events), [0]);
    assert_eq!(first_seen, Some(1), "the honest alert does not wait for the costly ones");
    assert!(steps as u64 >= 200 * 90_000 / FUEL_PER_CALL, "{steps} steps");
    // The caller may break off.
    let broken = shard().evaluate_in_turns(&tick("X", 1.0, 0), position, &mut events, &mut |_| ControlFlow::Break(()));
    assert!(matches!(broken, Err(EvaluateError::Interrupted)));
}

#[test]
fn a_rule_that_is_found_impure_takes_no_other_groups_turn() {
    // Two tenants have the same bytes; between and behind their groups is an honest one of each.
    let liar = "(global.set $n (i32.add (global.get $n) (i32.const 1)))
                (f64.store (local.get $v) (f64.convert_i32_s (global.get $n))) (i32.const 1)";
    let liar = rule("liar", "", &format!("(global $n (mut i32) (i32.const 0)) {EVALUATE} {liar})"));
    let counts = "(i64.store (local.get $s) (i64.add (i64.load (local.get $s)) (i64.const 1))) (i32.const 0)";
    let honest = rule("honest", "", &format!("{EVALUATE} {counts})"));
    let mut shard = Shard::default();
    let tenant = |number: i64| Tenant::from_stored(&format!("t{number}"));
    for number in 1..=2 {
        for binding in 0..4 {
            let arming = arming(number * 100 + binding, "X", &liar, 0.0);
            shard.arm(Arming { tenant: tenant(number), ..arming }).unwrap();
        }
        let arming = arming(number * 100 + 50, "X", &honest, 0.0);
        shard.arm(Arming { tenant: tenant(number), ..arming }).unwrap();
    }
    let mut impure = 0;
    for offset in 0..5 {
        let events = evaluate(&mut shard, &tick("X", 1.0, 0), offset);
        impure += events.iter().filter(|event| matches!(event, Event::Impure { .. })).count();
    }
    assert!(impure > 0);
    for number in 1..=2 {
        let state = shard.saved(BindingId(number * 100 + 50)).unwrap().state;
        assert_eq!(state[0], 5, "each tick is evaluated once");
    }
}

#[test]
fn what_a_suspect_hides_beside_its_verdict_is_gone() {
    // Counts in words of the verdict that the host does not read, and faults now and then to be evaluated in isolation.
    let body = "(i64.store offset=16 (local.get $v) (i64.add (i64.load offset=16 (local.get $v)) (i64.const 1)))
                (if (i64.eqz (i64.rem_u (i64.trunc_f64_u (f64.load (local.get $t))) (i64.const 10))) (then unreachable))
                (i64.eqz (i64.rem_u (i64.load offset=16 (local.get $v)) (i64.const 50)))";
    let hidden = rule("hides", "", &format!("{EVALUATE} {body})"));
    let mut shard = Shard::default();
    shard.arm(arming(1, "X", &hidden, 0.0)).unwrap();
    for offset in 0..500 {
        // It faults once in ten evaluations.
        let price = 1.0 + offset as f64;
        let events = evaluate(&mut shard, &tick("X", price, 0), offset);
        assert!(fired(&events).is_empty(), "{offset}: {events:?}");
    }
}

#[test]
fn the_address_of_a_suspects_state_is_in_no_evidence() {
    // Faults now and then, and else fires with where its state lies.
    let body =
        "(if (i64.eqz (i64.rem_u (i64.trunc_f64_u (f64.load (local.get $t))) (i64.const 10))) (then unreachable))
                (f64.store (local.get $v) (f64.convert_i32_u (local.get $s))) (i32.const 1)";
    let leaky = rule("leaky", "", &format!("{EVALUATE} {body})"));
    let mut shard = Shard::default();
    shard.arm(arming(1, "X", &leaky, 0.0)).unwrap();
    assert_eq!(faults(&evaluate(&mut shard, &tick("X", 10.0, 0), 0)).len(), 1, "it is a suspect now");
    let events = evaluate(&mut shard, &tick("X", 11.0, 0), 1);
    assert!(fired(&events).is_empty(), "{events:?}");
    assert!(matches!(faults(&events)[..], [(1, Fault::Impure(_))]), "{events:?}");
}

#[test]
fn a_large_state_is_paid_for_by_its_size() {
    let metering = |state_bytes: usize| {
        let manifest = format!(r#"{{"abi":1,"name":"large","version":"1.0.0","state":{{"size":{state_bytes}}}}}"#);
        let fields = format!(r#"(memory (export "memory") 1) {EVALUATE} (i32.const 0))"#);
        engine().load(&with_manifest(&manifest, &fields)).unwrap().metering()
    };
    let (Metering::Certified { worst_fuel: small }, Metering::Certified { worst_fuel: large }) =
        (metering(8), metering(64 * 1024))
    else {
        panic!("both are certified");
    };
    assert_eq!(large - small, 4096);
}

#[test]
fn a_trap_after_a_stray_write_is_named_a_trap() {
    // Certified, so that nothing but the reset sets the meter.
    let body = "(if (f64.gt (f64.load (local.get $t)) (f64.const 5)) (then unreachable))
                (i64.store (i32.add (local.get $s) (i32.const 4096)) (i64.const 1)) (i32.const 0)";
    let both = rule("both", "", &format!("{EVALUATE} {body})"));
    assert!(matches!(both.metering(), Metering::Certified { .. }));
    let mut shard = Shard::default();
    shard.arm(arming(1, "X", &both, 0.0)).unwrap();
    assert_eq!(faults(&evaluate(&mut shard, &tick("X", 1.0, 0), 0)), [(1, &Fault::StrayWrite)]);
    let events = evaluate(&mut shard, &tick("X", 9.0, 0), 1);
    assert!(matches!(faults(&events)[..], [(1, Fault::Trap(_))]), "{events:?}");
}

#[test]
fn usage_is_counted_by_rule() {
    let costly = costly("costly");
    let mut shard = Shard::new(EvaluationOptions::default());
    for binding in 1..=3 {
        shard.arm(arming(binding, "X", &costly, 0.0)).unwrap();
    }
    (0..4).for_each(|offset| _ = evaluate(&mut shard, &tick("X", 1.0, 0), offset));
    let usage: Vec<_> = shard.usage().collect();
    assert_eq!(usage.len(), 1);
    assert_eq!((usage[0].rule.name.as_str(), usage[0].usage.evaluations), ("costly", 12));
    assert!(usage[0].usage.fuel > 12 * 90_000);
    assert!(!usage[0].usage.time.is_zero());

    // It stays known when nothing is armed any more, goes on where something is again, and goes to another shard.
    (1..=3).for_each(|binding| assert!(shard.disarm(BindingId(binding))));
    let evaluations = |shard: &Shard| shard.usage().map(|used| used.usage.evaluations).collect::<Vec<_>>();
    assert_eq!(evaluations(&shard), [12]);
    shard.arm(arming(4, "X", &costly, 0.0)).unwrap();
    evaluate(&mut shard, &tick("X", 1.0, 0), 4);
    assert_eq!(evaluations(&shard), [13]);
    let mut absorbing = Shard::default();
    assert!(absorbing.absorb(&shard, &mut Vec::new()).is_empty());
    assert_eq!(evaluations(&absorbing), [13]);
}

/// A function that recurses without end, in one of many shapes.
#[derive(Clone, Debug)]
struct Shape {
    params: usize,
    results: usize,
    locals: usize,
    /// Values that are kept over the call: they must be spilled.
    kept: usize,
    /// Values that a loop keeps, which is not entered.
    in_loop: usize,
    /// Results of blocks, which cost nothing.
    blocks: usize,
    /// A helper that the compiler may fold in, and how many values it has.
    helper: usize,
    /// It calls itself through a second function.
    in_turns: bool,
    through_table: bool,
}

impl Shape {
    fn any() -> impl Strategy<Value = Self> {
        let sizes = (0..32usize, 0..32usize, 0..400usize, 0..300usize, 0..400usize, 0..20usize, 0..400usize);
        (sizes, any::<bool>(), any::<bool>()).prop_map(|(sizes, in_turns, through_table)| {
            let (params, results, locals, kept, in_loop, blocks, helper) = sizes;
            Self { params, results, locals, kept, in_loop, blocks, helper, in_turns, through_table }
        })
    }

    fn fields(&self) -> String {
        let types = |count: usize| "i64 ".repeat(count);
        let (params, results) = (types(self.params), types(self.results));
        let signature = format!("(type $f (func (param {params}) (result {results})))");
        let callee = if self.in_turns { "$b" } else { "$a" };
        let arguments: String = (0..self.params).map(|at| format!("(local.get {at})")).collect();
        let call = if self.through_table {
            format!("(call_indirect (type $f) {arguments} (i32.const 0))")
        } else {
            format!("(call {callee} {arguments})")
        };
        let load = |count: usize, from: usize| -> String {
            (0..count).map(|at| format!("(i64.load offset={} (i32.const 0))", from + at * 8)).collect()
        };
        let adds = |count: usize| "(i64.add)".repeat(count.saturating_sub(1));
        let keep = |count: usize, from: usize| match count {
            0 => (String::new(), String::new()),
            _ => (load(count, from), format!("{} (global.set $sink)", adds(count))),
        };
        let drops = "(drop)".repeat(self.results);
        let (kept, use_kept) = keep(self.kept, 0);
        let (looped, use_looped) = keep(self.in_loop, 4096);
        let block = format!("(block (result {}) {}) {}", types(20), load(20, 64), "(drop)".repeat(20));
        let blocks = block.repeat(self.blocks);
        let zeros = "(i64.const 0)".repeat(self.results);
        let body = |call: &str| {
            format!(
                "(local {}) {kept} {blocks} (call $help)
                 (if (i64.eq (global.get $sink) (i64.const 77)) (then (loop {looped} {call} {drops} {use_looped})))
                 {call} {drops} {use_kept} {zeros}",
                types(self.locals)
            )
        };
        let (help, use_help) = keep(self.helper, 8192);
        let other = if self.in_turns {
            format!("(func $b (type $f) {})", body(&format!("(call $a {arguments})")))
        } else {
            String::new()
        };
        let start = "(i64.const 1)".repeat(self.params);
        format!(
            "{signature} (table 1 funcref) (elem (i32.const 0) $a) (global $sink (mut i64) (i64.const 0))
             (func $help {help} {use_help})
             (func $a (type $f) {}) {other}
             {EVALUATE} {start} (call $a) {drops} (i32.const 0))",
            body(&call)
        )
    }
}

/// Runs on a thread with the stack that rules may use up.
fn on_a_rules_stack<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::Builder::new().stack_size(THREAD_STACK_BYTES).spawn(run).unwrap().join().unwrap()
}

#[test]
fn fuel_ends_every_recursion_before_the_stack_does() {
    // `TOCSIN_SHAPES=10000` searches as many as the threat table asks for.
    let shapes = std::env::var("TOCSIN_SHAPES").map_or(150, |count| count.parse().unwrap());
    on_a_rules_stack(move || {
        let config = ProptestConfig { cases: shapes, failure_persistence: None, ..ProptestConfig::default() };
        proptest!(config, |(shape in Shape::any())| {
            let module = with_manifest(&manifest("deep", ""), &format!(r#"(memory (export "memory") 1) {}"#, shape.fields()));
            let rule = match engine().load(&module) {
                Ok(rule) => rule,
                // Too large for the limits: no rule, no recursion.
                Err(error) => {
                    prop_assert!(error.to_string().contains("more than the"), "{error}");
                    return Ok(());
                }
            };
            let mut shard = Shard::default();
            shard.arm(arming(1, "X", &rule, 0.0)).unwrap();
            let events = evaluate(&mut shard, &tick("X", 1.0, 0), 0);
            prop_assert_eq!(faults(&events), [(1, &Fault::OutOfFuel)]);
        });
    });
}
