//! Modules that attack the memory layout, each next to a twin of the same module with a guard on every store, proven or not.
//! After each tick the memory and the events of both must be equal: so no store that was proven safe wrote where a guard
//! would have prevented it. What no rule may change must be unchanged.

#![no_main]

use arbitrary::{Arbitrary as _, Result, Unstructured};
use libfuzzer_sys::{Corpus, fuzz_target};
use tocsin_engine::domain::{BindingId, Position, Repeat, Tick, Version};
use tocsin_engine::{Arming, EvaluationOptions, Event, Fault, Migration, Rule, Shard, Waking, builtin};
use tocsin_engine_fuzz::attack::{self, Attack};
use tocsin_engine_fuzz::engine;
use tocsin_engine_fuzz::rate::Rate;
use tocsin_engine_fuzz::replay::{arming, ticks};

static ACCEPTED: Rate = Rate::of("attacks");
/// If no module reaches a guard, the target tests nothing.
static STRAYED: Rate = Rate::of("inputs with a stray write");

/// Bindings of the attacker, and of a bystander that fires on every tick.
const ATTACKERS: std::ops::Range<i64> = 1..6;
const BYSTANDER: i64 = 100;

struct Input {
    attack: Attack,
    rule: Rule,
    twin: Rule,
    ticks: Vec<Tick>,
}

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Ok(input) = input(&mut Unstructured::new(bytes)) else { return Corpus::Reject };
    let (mut shard, mut twin) = (armed(&input.rule), armed(&input.twin));
    let mut strayed = false;
    for (offset, tick) in input.ticks.iter().enumerate() {
        let events = evaluate(&mut shard, tick, offset);
        assert_eq!(events, evaluate(&mut twin, tick, offset), "{:?}", input.attack);
        assert!(shard.memories().eq(twin.memories()), "memory differs from the guarded twin's: {:?}", input.attack);
        for binding in ATTACKERS {
            if let Some(params) = shard.params(BindingId(binding)) {
                assert_eq!(params, params_of(binding), "params were written to: {:?}", input.attack);
            }
        }
        let fires = |event: &Event| matches!(event, Event::Fired { firing, .. } if firing.binding.0 == BYSTANDER);
        assert_eq!(events.iter().filter(|event| fires(event)).count(), usize::from(tick.price >= 2.0));
        strayed |= events.iter().any(|event| matches!(event, Event::Faulted { fault: Fault::StrayWrite, .. }));
        let forged = |event: &&Event| matches!(event, Event::Faulted { fault: Fault::Forged, .. });
        assert!(events.iter().find(forged).is_none(), "the host's records were written to: {:?}", input.attack);
    }
    STRAYED.count(strayed);
    if input.attack.migrates() {
        migrate(&input);
    }
    Corpus::Keep
});

fn input(u: &mut Unstructured<'_>) -> Result<Input> {
    let ticks = ticks(u)?;
    let attack = Attack::arbitrary(u)?;
    let module = attack.module();
    let rules = engine().load(&module).and_then(|rule| Ok((rule, engine().load_guarded(&module)?)));
    ACCEPTED.count(rules.is_ok());
    let Ok((rule, twin)) = rules else { return Err(arbitrary::Error::IncorrectFormat) };
    Ok(Input { attack, rule, twin, ticks })
}

fn params_of(binding: i64) -> Vec<u8> {
    [binding as f64, -1.5].map(f64::to_le_bytes).concat()
}

fn armed(rule: &Rule) -> Shard {
    let mut shard =
        Shard::new(EvaluationOptions { waking: Waking::Indexed, audit_every_calls: 2, ..EvaluationOptions::default() });
    let mut arm = |arming: Arming| shard.arm(arming).expect("room for a few bindings");
    for binding in ATTACKERS {
        arm(arming(binding, rule, params_of(binding), Repeat::Every));
    }
    let above = engine().load(builtin::ABOVE).expect("built in");
    arm(arming(BYSTANDER, &above, 2.0_f64.to_le_bytes().into(), Repeat::Every));
    debug_assert_eq!(params_of(1).len(), attack::RECORDS.params);
    shard
}

fn evaluate(shard: &mut Shard, tick: &Tick, offset: usize) -> Vec<Event> {
    let mut events = Vec::new();
    let position = Position { partition: 0, offset: offset as u64 };
    shard.evaluate(tick, position, &mut events).expect("the engine does not fail");
    // The events do not say which of the two it is, since both are the same rule.
    events
}

/// Checks that a migration has the same result with and without proofs.
fn migrate(input: &Input) {
    let mut old = input.rule.manifest().clone();
    old.version = Version::parse("0.9.0").expect("a version");
    let state = |rule: &Rule| {
        let migration = Migration::new(rule, &old).expect("the manifest says that it migrates");
        migration.state(&params_of(1), &[7; attack::RECORDS.state]).map_err(|error| error.to_string())
    };
    assert_eq!(state(&input.rule), state(&input.twin), "{:?}", input.attack);
}
