//! Three rules on one symbol: any generated module, one by a grammar that is pure and has correct wake bands, and the
//! built-in `above`. Whatever the first does, the others behave as they do alone.

#![no_main]

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::{Corpus, fuzz_target};
use tocsin_engine::domain::{BindingId, Repeat, Tick};
use tocsin_engine::{Arming, EvaluationOptions, Event, Rule, Waking, builtin};
use tocsin_engine_fuzz::plan::Plan;
use tocsin_engine_fuzz::rate::Rate;
use tocsin_engine_fuzz::replay::{History, Number, arming, events_of, run, ticks};
use tocsin_engine_fuzz::{engine, plan, smith};

static PLANS: Rate = Rate::of("rules by the grammar");
static GENERATED: Rate = Rate::of("generated rules");
/// After a quarantine the waking strategies may differ: see [`check_wakings`].
static COMPARED: Rate = Rate::of("inputs compared between wakings");

/// The first ids of each rule's bindings.
const ABOVE: i64 = 100;
const GENERATED_FROM: i64 = 200;

/// An input.
struct Input {
    ticks: Vec<Tick>,
    restart_at: usize,
    plan: Plan,
    /// Bindings of the plan's rule and of `above`.
    honest: Vec<Arming>,
    hostile: Vec<Arming>,
}

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Ok(input) = input(&mut Unstructured::new(bytes)) else { return Corpus::Reject };
    let all: Vec<Arming> = input.honest.iter().chain(&input.hostile).cloned().collect();
    let options =
        |waking, audit_every_calls| EvaluationOptions { waking, audit_every_calls, ..EvaluationOptions::default() };
    let indexed = run(options(Waking::Indexed, 1), &all, &input.ticks, None);
    let others = [
        run(options(Waking::Naive, 0), &all, &input.ticks, None),
        run(options(Waking::Checked, 2), &all, &input.ticks, None),
        run(options(Waking::Indexed, 0), &all, &input.ticks, Some(input.restart_at)),
    ];
    for arming in &input.honest {
        let alone = run(options(Waking::Indexed, 0), std::slice::from_ref(arming), &input.ticks, None);
        assert_eq!(events_of(&indexed, arming.binding), events_of(&alone, arming.binding), "with others, and alone");
    }
    for history in others.iter().chain([&indexed]) {
        check_honest(&input, history);
    }
    check_wakings(&input, &indexed, &others);
    Corpus::Keep
});

fn input(u: &mut Unstructured<'_>) -> Result<Input> {
    let ticks = ticks(u)?;
    let restart_at = u.choose_index(ticks.len())?;
    let bindings = u.int_in_range(1..=5)?;
    let params = (0..bindings).map(|_| params(u)).collect::<Result<Vec<_>>>()?;
    let plan: Plan = u.arbitrary()?;
    let loaded = engine().load(&plan.module());
    PLANS.count(loaded.is_ok());
    let Ok(rule) = loaded else { return Err(arbitrary::Error::IncorrectFormat) };
    let mut honest: Vec<Arming> =
        (1..).zip(params).map(|(id, (params, repeat))| arming(id, &rule, params, repeat)).collect();
    let above = engine().load(builtin::ABOVE).expect("built in");
    for (id, target) in (ABOVE..).zip([0.0_f64, 7.0]) {
        honest.push(arming(id, &above, target.to_le_bytes().into(), Repeat::Every));
    }
    let hostile = match hostile(u) {
        Some((rule, records)) => (GENERATED_FROM..GENERATED_FROM + 3)
            .map(|id| arming(id, &rule, vec![id as u8; records.params], Repeat::Every))
            .collect(),
        None => Vec::new(),
    };
    Ok(Input { ticks, restart_at, plan, honest, hostile })
}

/// Returns a wake band, usually a valid one with small numbers.
fn params(u: &mut Unstructured<'_>) -> Result<(Vec<u8>, Repeat)> {
    let (low, high): (Number, Number) = u.arbitrary()?;
    let until_ms = if u.ratio(3, 4)? { u.int_in_range(0..=255)? } else { u.arbitrary::<i64>()? };
    let mut params = Vec::with_capacity(plan::RECORDS.params);
    params.extend_from_slice(&low.value().to_le_bytes());
    params.extend_from_slice(&high.value().to_le_bytes());
    params.extend_from_slice(&until_ms.to_le_bytes());
    Ok((params, if u.ratio(1, 4)? { Repeat::Once } else { Repeat::Every }))
}

/// Returns a generated rule, from the rest of the input, if there is a rest and it is a rule.
fn hostile(u: &mut Unstructured<'_>) -> Option<(Rule, smith::Records)> {
    let (module, records) = smith::module(u).ok()?;
    let loaded = engine().load(&module);
    GENERATED.count(loaded.is_ok());
    Some((loaded.ok()?, records))
}

/// Checks that no honest rule is reported as impure or overslept, and that `above` fires as it must.
fn check_honest(input: &Input, history: &History) {
    let digest_of_plan = input.honest[0].rule.reference().digest;
    for (_, event) in history.iter().flatten() {
        if let Event::Impure { rule, impurity } = event {
            assert_ne!(rule.digest, digest_of_plan, "{impurity}: {:?}", input.plan);
            assert_ne!(rule.name.as_str(), "above", "{impurity}");
        }
        if let Event::Faulted { binding, fault, .. } = event {
            assert!(
                !matches!(fault, tocsin_engine::Fault::Overslept(_)) || binding.0 >= GENERATED_FROM,
                "{:?}",
                input.plan
            );
        }
    }
    for (id, target) in (ABOVE..).zip([0.0, 7.0]) {
        let fired: Vec<usize> = events_of(history, BindingId(id)).iter().map(|(at, _)| *at).collect();
        let prices = input.ticks.iter().enumerate().filter(|(_, tick)| tick.price >= target);
        assert_eq!(fired, prices.map(|(at, _)| at).collect::<Vec<_>>(), "above {target}");
    }
}

/// Checks that the events of an honest binding depend neither on the waking strategy nor on a restart. A quarantine does:
/// it depends on the last evaluations, of which a binding that sleeps has fewer.
fn check_wakings(input: &Input, indexed: &History, others: &[History]) {
    let is_quarantine = |event: &Event| matches!(event, Event::Faulted { quarantined: true, .. });
    for arming in &input.honest {
        let events = events_of(indexed, arming.binding);
        let others: Vec<_> = others.iter().map(|history| events_of(history, arming.binding)).collect();
        let is_free = others.iter().chain([&events]).flatten().all(|(_, event)| !is_quarantine(event));
        COMPARED.count(is_free);
        if is_free {
            others.iter().for_each(|other| assert_eq!(events, *other, "{:?}", input.plan));
        }
    }
}
