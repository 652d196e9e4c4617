//! Three rules on one symbol, judged over ticks: one that a stranger generated, one by a grammar that is pure and keeps
//! its promises, and the built-in `above`. Whatever the first does, the others answer as if they were alone.

#![no_main]

use arbitrary::{Result, Unstructured};
use libfuzzer_sys::{Corpus, fuzz_target};
use tocsin_engine::domain::{BindingId, Repeat, Tick};
use tocsin_engine::{Arming, EvaluationOptions, Event, Rule, Waking, builtin};
use tocsin_engine_fuzz::plan::Plan;
use tocsin_engine_fuzz::rate::Rate;
use tocsin_engine_fuzz::scene::{Number, Story, arming, play, ticks, told_of};
use tocsin_engine_fuzz::{engine, plan, smith};

static PLANS: Rate = Rate::of("rules by the grammar");
static GENERATED: Rate = Rate::of("generated rules");
/// Where a quarantine decides, wakings may differ: see [`check_wakings`].
static COMPARED: Rate = Rate::of("scenes compared between wakings");

/// Where the numbers of each rule's bindings begin.
const ABOVE: i64 = 100;
const GENERATED_FROM: i64 = 200;

/// All that one input stands for.
struct Scene {
    ticks: Vec<Tick>,
    restart_at: usize,
    plan: Plan,
    /// Of the plan's rule and of `above`.
    honest: Vec<Arming>,
    hostile: Vec<Arming>,
}

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Ok(scene) = scene(&mut Unstructured::new(bytes)) else { return Corpus::Reject };
    let all: Vec<Arming> = scene.honest.iter().chain(&scene.hostile).cloned().collect();
    let options =
        |waking, audit_every_calls| EvaluationOptions { waking, audit_every_calls, ..EvaluationOptions::default() };
    let indexed = play(options(Waking::Indexed, 1), &all, &scene.ticks, None);
    let others = [
        play(options(Waking::Naive, 0), &all, &scene.ticks, None),
        play(options(Waking::Checked, 2), &all, &scene.ticks, None),
        play(options(Waking::Indexed, 0), &all, &scene.ticks, Some(scene.restart_at)),
    ];
    for arming in &scene.honest {
        let alone = play(options(Waking::Indexed, 0), std::slice::from_ref(arming), &scene.ticks, None);
        assert_eq!(told_of(&indexed, arming.binding), told_of(&alone, arming.binding), "beside others, and alone");
    }
    for story in others.iter().chain([&indexed]) {
        check_honest(&scene, story);
    }
    check_wakings(&scene, &indexed, &others);
    Corpus::Keep
});

fn scene(u: &mut Unstructured<'_>) -> Result<Scene> {
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
    Ok(Scene { ticks, restart_at, plan, honest, hostile })
}

/// A wake band, usually in order and of small numbers.
fn params(u: &mut Unstructured<'_>) -> Result<(Vec<u8>, Repeat)> {
    let (low, high): (Number, Number) = u.arbitrary()?;
    let until_ms = if u.ratio(3, 4)? { u.int_in_range(0..=255)? } else { u.arbitrary::<i64>()? };
    let mut params = Vec::with_capacity(plan::RECORDS.params);
    params.extend_from_slice(&low.value().to_le_bytes());
    params.extend_from_slice(&high.value().to_le_bytes());
    params.extend_from_slice(&until_ms.to_le_bytes());
    Ok((params, if u.ratio(1, 4)? { Repeat::Once } else { Repeat::Every }))
}

/// A stranger's rule, from the rest of the input; none if there is no rest or it is no rule.
fn hostile(u: &mut Unstructured<'_>) -> Option<(Rule, smith::Records)> {
    let (module, records) = smith::module(u).ok()?;
    let loaded = engine().load(&module);
    GENERATED.count(loaded.is_ok());
    Some((loaded.ok()?, records))
}

/// The honest are not called impure or oversleeping, and `above` fires as it must.
fn check_honest(scene: &Scene, story: &Story) {
    let digest_of_plan = scene.honest[0].rule.reference().digest;
    for (_, event) in story.iter().flatten() {
        if let Event::Impure { rule, impurity } = event {
            assert_ne!(rule.digest, digest_of_plan, "{impurity}: {:?}", scene.plan);
            assert_ne!(rule.name.as_str(), "above", "{impurity}");
        }
        if let Event::Faulted { binding, fault, .. } = event {
            assert!(
                !matches!(fault, tocsin_engine::Fault::Overslept(_)) || binding.0 >= GENERATED_FROM,
                "{:?}",
                scene.plan
            );
        }
    }
    for (id, target) in (ABOVE..).zip([0.0, 7.0]) {
        let fired: Vec<usize> = told_of(story, BindingId(id)).iter().map(|(at, _)| *at).collect();
        let prices = scene.ticks.iter().enumerate().filter(|(_, tick)| tick.price >= target);
        assert_eq!(fired, prices.map(|(at, _)| at).collect::<Vec<_>>(), "above {target}");
    }
}

/// However it is woken and wherever it goes on, an honest binding tells the same. But a quarantine is decided by the
/// last evaluations, and who sleeps has fewer of them.
fn check_wakings(scene: &Scene, indexed: &Story, others: &[Story]) {
    let is_quarantine = |event: &Event| matches!(event, Event::Faulted { quarantined: true, .. });
    for arming in &scene.honest {
        let told = told_of(indexed, arming.binding);
        let others: Vec<_> = others.iter().map(|story| told_of(story, arming.binding)).collect();
        let is_free = others.iter().chain([&told]).flatten().all(|(_, event)| !is_quarantine(event));
        COMPARED.count(is_free);
        if is_free {
            others.iter().for_each(|other| assert_eq!(told, *other, "{:?}", scene.plan));
        }
    }
}
