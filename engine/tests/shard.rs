//! The shard does what its rules answer: lifecycle, state, faults, snapshots.

#![allow(clippy::unwrap_used)] // a failed test shows where

use std::sync::OnceLock;

use tocsin_engine::domain::{AlertId, BindingId, Conditions, Lifecycle, Position, Repeat, Symbol, Tenant, Tick};
use tocsin_engine::limits::{PROBE_AFTER_RECORDS, QUARANTINE_AFTER_FAULTS};
use tocsin_engine::{
    Arming, Engine, EvaluationOptions, Event, Fault, GroupSnapshot, Health, Rule, SavedBinding, Shard, builtin,
};

fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new().unwrap())
}

/// A rule written as the body of `evaluate`, with its manifest.
fn rule(state_bytes: usize, evidence: &str, body: &str) -> Rule {
    let manifest = format!(
        r#"{{"abi":1,"name":"test","version":"1.0.0","state":{{"size":{state_bytes}}},"evidence":[{evidence}]}}"#
    );
    let text = format!(
        r#"(module (memory (export "memory") 1)
            (global $hidden (mut i32) (i32.const 0))
            (func (export "evaluate") (param $tick i32) (param $params i32) (param $state i32) (param $verdict i32)
              (result i32) {body})
            (@custom "tocsin.manifest" "{}"))"#,
        manifest.replace('"', "\\\"")
    );
    engine().load(&wat::parse_str(text).unwrap()).unwrap()
}

fn symbol(name: &str) -> Symbol {
    Symbol::parse(name).unwrap()
}

fn tick(name: &str, price: f64) -> Tick {
    Tick::new(symbol(name), price, 1.0, 1_000, Conditions::default()).unwrap()
}

fn arming(binding: i64, name: &str, rule: &Rule, params: &[u8], repeat: Repeat) -> Arming {
    Arming {
        binding: BindingId(binding),
        alert: AlertId(binding * 10),
        tenant: Tenant::standard(),
        symbol: symbol(name),
        rule: rule.clone(),
        params: params.to_vec(),
        lifecycle: Lifecycle { repeat },
        saved: None,
    }
}

/// Evaluates prices of X in turn and returns (offset, binding) of each firing.
fn fire(shard: &mut Shard, prices: &[f64]) -> Vec<(usize, i64)> {
    let mut fired = Vec::new();
    for (offset, price) in prices.iter().enumerate() {
        let mut events = Vec::new();
        shard.evaluate(&tick("X", *price), Position { partition: 0, offset: offset as u64 }, &mut events).unwrap();
        fired.extend(events.iter().filter_map(|event| match event {
            Event::Fired { firing, .. } => Some((offset, firing.binding.0)),
            _ => None,
        }));
    }
    fired
}

#[test]
fn above_and_below_fire_once_at_the_first_price_that_reaches_the_target() {
    let (above, below) = (engine().load(builtin::ABOVE).unwrap(), engine().load(builtin::BELOW).unwrap());
    let mut shard = Shard::default();
    for (id, rule, target, repeat) in [
        (1, &above, 10.0, Repeat::Once),
        (2, &above, 12.0, Repeat::Every),
        (3, &below, 9.0, Repeat::Once),
        (4, &above, 99.0, Repeat::Once),
    ] {
        shard.arm(arming(id, "X", rule, &f64::to_le_bytes(target), repeat)).unwrap();
    }
    shard.arm(arming(5, "Y", &above, &1f64.to_le_bytes(), Repeat::Once)).unwrap();
    let fired = fire(&mut shard, &[9.5, 10.0, 12.0, 11.0, 13.0, 9.0, 8.0]);
    assert_eq!(fired, [(1, 1), (2, 2), (4, 2), (5, 3)]);
    assert_eq!(shard.len(), 3);
}

#[test]
fn a_firing_says_what_and_why() {
    let above = engine().load(builtin::ABOVE).unwrap();
    let mut shard = Shard::default();
    shard.arm(arming(1, "X", &above, &10f64.to_le_bytes(), Repeat::Once)).unwrap();
    let mut events = Vec::new();
    let position = Position { partition: 3, offset: 7 };
    shard.evaluate(&tick("X", 10.5), position, &mut events).unwrap();
    let [Event::Fired { firing, last: true }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((firing.alert, firing.position, firing.tick.price), (AlertId(10), position, 10.5));
    assert_eq!(firing.evidence, [("target".into(), 10.0)]);
    assert_eq!(firing.rule.digest, above.reference().digest);
}

#[test]
fn each_binding_has_its_own_state_and_a_new_one_starts_at_zero() {
    // Counts ticks, and fires at the third.
    let counter = rule(
        8,
        "",
        "(i32.store (local.get $state) (i32.add (i32.load (local.get $state)) (i32.const 1)))
         (i32.eq (i32.load (local.get $state)) (i32.const 3))",
    );
    let mut shard = Shard::default();
    for id in 0..3000 {
        shard.arm(arming(id, "X", &counter, &[], Repeat::Every)).unwrap();
    }
    assert!(fire(&mut shard, &[1.0, 1.0]).is_empty());
    assert!(shard.disarm(BindingId(0)));
    shard.arm(arming(9999, "X", &counter, &[], Repeat::Every)).unwrap();
    let fired = fire(&mut shard, &[1.0, 1.0, 1.0]);
    assert_eq!(fired.iter().filter(|(offset, _)| *offset == 0).count(), 2999);
    assert_eq!(fired.last(), Some(&(2, 9999)));
    assert_eq!(fired.len(), 3000);
}

#[test]
fn a_fault_stops_only_its_own_binding_and_puts_its_state_back() {
    // Params-free: the state's second word says who traps. Every call counts first, so a partial write precedes it.
    let picky = rule(
        8,
        "",
        "(i32.store (local.get $state) (i32.add (i32.load (local.get $state)) (i32.const 1)))
         (if (i32.load offset=4 (local.get $state)) (then unreachable))
         (i32.const 1)",
    );
    let mut shard = Shard::default();
    for id in 1..=5 {
        let mut new = arming(id, "X", &picky, &[], Repeat::Every);
        let state = [0, 0, 0, 0, u8::from(id == 3), 0, 0, 0].to_vec();
        new.saved = Some(SavedBinding { binding: BindingId(id), health: Health::default(), pace: None, state });
        shard.arm(new).unwrap();
    }
    let mut quarantined = false;
    for offset in 0..5 {
        let mut events = Vec::new();
        shard.evaluate(&tick("X", 1.0), Position { partition: 0, offset }, &mut events).unwrap();
        let fired = events.iter().filter(|event| matches!(event, Event::Fired { .. })).count();
        assert_eq!((fired, events.len()), (4, 5));
        for event in &events {
            if let Event::Faulted { binding, fault, quarantined: now, .. } = event {
                assert_eq!(*binding, BindingId(3));
                assert!(matches!(fault, Fault::Trap(trap) if trap.contains("unreachable")), "{fault}");
                quarantined = *now;
                if !quarantined {
                    assert_eq!(shard.saved(BindingId(3)).unwrap().state[0], 0);
                }
            }
        }
        assert_eq!(shard.saved(BindingId(5)).unwrap().state[0], offset as u8 + 1);
    }
    assert!(quarantined && shard.saved(BindingId(3)).unwrap().health.is_quarantined());
}

#[test]
fn endless_loops_and_recursion_run_out_of_fuel() {
    for body in ["(loop $l (br $l)) (i32.const 0)", "(call 0 (local.get 0) (local.get 1) (local.get 2) (local.get 3))"]
    {
        let mut shard = Shard::default();
        shard.arm(arming(1, "X", &rule(0, "", body), &[], Repeat::Every)).unwrap();
        let mut events = Vec::new();
        shard.evaluate(&tick("X", 1.0), Position { partition: 0, offset: 0 }, &mut events).unwrap();
        assert!(matches!(&events[..], [Event::Faulted { fault: Fault::OutOfFuel, .. }]), "{body}: {events:?}");
    }
}

#[test]
fn answers_without_meaning_are_faults() {
    let cases = [
        ("", "(i32.const 2)", Fault::BadCode(2)),
        ("", "(i32.const 4)", Fault::BadCode(4)),
        ("", "(i32.const -1)", Fault::BadCode(-1)),
        (
            "\"x\"",
            "(f64.store (local.get $verdict) (f64.div (f64.const 1) (f64.const 0))) (i32.const 1)",
            Fault::BadEvidence(0),
        ),
    ];
    for (evidence, body, expect) in cases {
        let mut shard = Shard::default();
        shard.arm(arming(1, "X", &rule(0, evidence, body), &[], Repeat::Every)).unwrap();
        let mut events = Vec::new();
        shard.evaluate(&tick("X", 1.0), Position { partition: 0, offset: 0 }, &mut events).unwrap();
        assert!(matches!(&events[..], [Event::Faulted { fault, .. }] if *fault == expect), "{body}: {events:?}");
    }
}

#[test]
fn a_guest_sees_only_the_memory_that_it_asked_for_and_cannot_grow_it() {
    let sizes = rule(
        0,
        "\"size\", \"grown\", \"after\"",
        "(f64.store (local.get $verdict) (f64.convert_i32_s (memory.size)))
         (f64.store offset=8 (local.get $verdict) (f64.convert_i32_s (memory.grow (i32.const 1))))
         (f64.store offset=16 (local.get $verdict) (f64.convert_i32_s (memory.size)))
         (i32.const 1)",
    );
    let mut shard = Shard::default();
    for id in 0..2000 {
        shard.arm(arming(id, "X", &sizes, &[], Repeat::Every)).unwrap();
    }
    let mut events = Vec::new();
    shard.evaluate(&tick("X", 1.0), Position { partition: 0, offset: 0 }, &mut events).unwrap();
    assert_eq!(events.len(), 2000);
    for event in events {
        let Event::Fired { firing, .. } = event else { panic!("{event:?}") };
        assert_eq!(firing.evidence.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [1.0, -1.0, 1.0]);
    }
}

#[test]
fn every_nan_has_the_same_bits_where_a_rule_could_see_them() {
    let nan = "(f64.div (f64.const 0) (f64.const 0))";
    let body = format!(
        "(f64.store (local.get $state) (f64.neg {nan}))
         (i64.store offset=8 (local.get $state) (i64.reinterpret_f64 (f64.neg {nan})))
         (f64.store offset=16 (local.get $state) (f64.copysign (f64.const 1) (f64.neg {nan})))
         (i32.const 0)"
    );
    let mut shard = Shard::default();
    shard.arm(arming(1, "X", &rule(24, "", &body), &[], Repeat::Every)).unwrap();
    fire(&mut shard, &[1.0]);
    let canonical = 0x7ff8_0000_0000_0000_u64.to_le_bytes();
    assert_eq!(shard.saved(BindingId(1)).unwrap().state, [canonical, canonical, 1f64.to_le_bytes()].concat());
}

#[test]
fn a_restored_shard_goes_on_as_the_first_would_have() {
    let counter = rule(
        8,
        "",
        "(i32.store (local.get $state) (i32.add (i32.load (local.get $state)) (i32.const 1)))
         (i32.eqz (i32.rem_u (i32.load (local.get $state)) (i32.const 3)))",
    );
    let mut first = Shard::default();
    for id in 1..=3 {
        first.arm(arming(id, "X", &counter, &[], Repeat::Every)).unwrap();
        fire(&mut first, &[1.0]);
    }
    let mut second = Shard::default();
    for snapshot in first.take_changed() {
        for saved in GroupSnapshot::unpack(&snapshot.bytes).unwrap() {
            let mut new = arming(saved.binding.0, "X", &counter, &[], Repeat::Every);
            new.saved = Some(saved);
            second.arm(new).unwrap();
        }
    }
    let mut third = Shard::default();
    assert!(third.absorb(&second, &mut Vec::new()).is_empty());
    let expect = fire(&mut first, &[1.0; 7]);
    assert_eq!(fire(&mut second, &[1.0; 7]), expect);
    assert_eq!(fire(&mut third, &[1.0; 7]), expect);
    assert!(!first.take_changed().is_empty());
    assert!(first.take_changed().is_empty(), "nothing happened since");
}

/// Evaluates `ticks` ticks of price 1 from an offset on.
fn events(shard: &mut Shard, from: u64, ticks: u64) -> Vec<Event> {
    let mut events = Vec::new();
    for offset in from..from + ticks {
        shard.evaluate(&tick("X", 1.0), Position { partition: 0, offset }, &mut events).unwrap();
    }
    events
}

/// Counts its evaluations in its state, fires, and traps at the first so many.
fn bad_at_first(evaluations: u32) -> Rule {
    rule(
        8,
        "",
        &format!(
            "(if (f64.lt (f64.load (local.get $tick)) (f64.const {evaluations})) (then unreachable)) (i32.const 1)"
        ),
    )
}

#[test]
fn a_quarantined_binding_waits_for_its_probe_through_a_restart_and_can_be_released() {
    let rule = bad_at_first(2);
    let mut shard = Shard::default();
    shard.arm(arming(1, "X", &rule, &[], Repeat::Every)).unwrap();
    let faults = u64::from(QUARANTINE_AFTER_FAULTS);
    assert_eq!(events(&mut shard, 0, faults).len() as u64, faults);
    let saved = shard.take_changed().remove(0);
    let (evaluations, waits_from) = (shard.evaluations(), faults + 500);
    assert!(events(&mut shard, faults, 500).is_empty(), "it is not evaluated while it is quarantined");
    assert!(shard.take_changed().is_empty(), "nor is there anything new to remember");

    // A restart from the snapshot waits on where this one was.
    let mut restarted = Shard::default();
    for saved in GroupSnapshot::unpack(&saved.bytes).unwrap() {
        restarted.arm(Arming { saved: Some(saved), ..arming(1, "X", &rule, &[], Repeat::Every) }).unwrap();
    }
    for shard in [&mut shard, &mut restarted] {
        let probe_at = faults - 1 + PROBE_AFTER_RECORDS;
        assert!(events(shard, waits_from, probe_at - waits_from).is_empty());
        let probed = events(shard, probe_at, 1);
        assert!(matches!(&probed[..], [Event::Faulted { quarantined: true, .. }]), "one fault is enough: {probed:?}");
        let quiet = 2 * PROBE_AFTER_RECORDS - 1;
        assert!(events(shard, probe_at + 1, quiet).is_empty(), "and the wait is twice as long");
        assert_eq!(events(shard, probe_at + 1 + quiet, 1).len(), 1);
    }
    assert_eq!(shard.evaluations(), evaluations + 2);

    // Unquarantined by an operator, when the price is one that it does not fault on.
    assert!(shard.unquarantine(BindingId(1)).unwrap());
    assert!(!shard.unquarantine(BindingId(1)).unwrap(), "it is quarantined no more");
    let mut released = Vec::new();
    shard.evaluate(&tick("X", 5.0), Position { partition: 0, offset: 9 }, &mut released).unwrap();
    assert!(matches!(&released[..], [Event::Recovered { .. }, Event::Fired { .. }]), "{released:?}");
    assert_eq!(shard.saved(BindingId(1)).unwrap().health, Health::default());
}

#[test]
fn an_impure_rule_is_found_and_taken_out_of_service() {
    let counter = "(global.set $hidden (i32.add (global.get $hidden) (i32.const 1)))";
    let impure = [
        ("code", format!("{counter} (i32.gt_s (global.get $hidden) (i32.const 100))"), ""),
        (
            "n ",
            format!(
                "{counter} (f64.store (local.get $verdict) (f64.convert_i32_s (global.get $hidden))) (i32.const 1)"
            ),
            "\"n\"",
        ),
        (
            "bytes of the state",
            format!("{counter} (i32.store (local.get $state) (global.get $hidden)) (i32.const 0)"),
            "",
        ),
        ("bytes of the state", "(i32.store (local.get $state) (local.get $state)) (i32.const 0)".into(), ""),
    ];
    for (differs, body, evidence) in impure {
        let rule = rule(8, evidence, &body);
        let mut shard = Shard::new(EvaluationOptions { audit_every_calls: 10, ..EvaluationOptions::default() });
        for id in 1..=20 {
            shard.arm(arming(id, if id % 2 == 0 { "X" } else { "Y" }, &rule, &[], Repeat::Every)).unwrap();
        }
        let events = events(&mut shard, 0, 400);
        // A fresh instance counts to 1: only that may be recorded.
        let is_lie = |event: &Event| matches!(event, Event::Fired { firing, .. } if firing.evidence[0].1 != 1.0);
        assert!(!events.iter().any(is_lie), "{body}: a lie is recorded");
        let found = events.iter().filter_map(|event| match event {
            Event::Impure { impurity, .. } => Some(impurity.differed.clone()),
            _ => None,
        });
        let found: Vec<String> = found.collect();
        assert!(matches!(&found[..], [one] if one.contains(differs)), "{body}: {found:?}");
        assert!(shard.is_empty());
    }
}

#[test]
fn a_table_that_shrinks_keeps_its_states() {
    let counter = rule(
        8,
        "",
        "(i64.store (local.get $state) (i64.add (i64.load (local.get $state)) (i64.const 1))) (i32.const 0)",
    );
    let mut shard = Shard::default();
    for round in 1..=3 {
        for id in 0..5000 {
            shard.arm(arming(id, "X", &counter, &[], Repeat::Every)).unwrap();
            if id % 1000 == 0 {
                fire(&mut shard, &[1.0]);
            }
        }
        fire(&mut shard, &[1.0]);
        for id in (0..5000).filter(|id| id % 1000 != 7) {
            assert!(shard.disarm(BindingId(id)));
        }
        for thousand in 0..5 {
            let state = shard.saved(BindingId(thousand * 1000 + 7)).unwrap().state;
            let first_round = 5 - thousand;
            assert_eq!(i64::from_le_bytes(state.try_into().unwrap()), first_round + (round - 1) * 6, "{thousand}");
        }
    }
}
