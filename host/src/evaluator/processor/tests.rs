//! A processor alone, without bus, store, clock or channel: random histories against a naive oracle.
//!
//! `log` and `store` are what is outside of an evaluator, `evaluator` feeds a processor as its worker does, and `oracle`
//! says what each binding must do. `impure` has the cases of rules that are found impure.

mod evaluator;
mod impure;
mod log;
mod oracle;
mod store;

use std::sync::OnceLock;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};
use tocsin_engine::domain::Symbol;
use tocsin_engine::{Engine, Rule};
use tocsin_store::HandoffState;

use self::evaluator::Evaluator;
use self::log::{Log, PARTITIONS};
use self::oracle::{Course, expected};
use self::store::{Binding, Store};
use crate::evaluator::tests::{BAD, COUNTER, GOOD};

const SYMBOLS: u8 = 4;
const EVALUATORS: usize = 2;
const VERSIONS: usize = 3;

/// How many random histories there are, and the most steps of each.
const CASES: u32 = 4_096;
const STEPS: usize = 150;

fn load(module: &str) -> Rule {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new().unwrap()).load(&wat::parse_str(module).unwrap()).unwrap()
}

/// Versions of [`COUNTER`] that do the same.
fn counters() -> &'static [Rule; VERSIONS] {
    static RULES: OnceLock<[Rule; VERSIONS]> = OnceLock::new();
    RULES.get_or_init(|| ["1.0.0", "1.0.1", "1.0.2"].map(|version| load(&COUNTER.replace("1.0.0", version))))
}

fn symbol(number: u8) -> Symbol {
    Symbol::parse(&format!("S{number}")).unwrap()
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    /// Ticks on the symbol's partition, or on another one.
    Publish {
        symbol: u8,
        astray: bool,
        faults: bool,
        ticks: usize,
    },
    PublishNothing(u32),
    Create {
        symbol: u8,
        version: usize,
        fires_once: bool,
    },
    Delete(Index),
    Unquarantine(Index),
    BeginPromotion(Index),
    EndPromotion {
        binding: Index,
        to: Option<usize>,
    },
    TakeOutOfService(usize),
    PassOn(usize),
    Read {
        partition: u32,
        records: usize,
    },
    Checkpoint(usize),
    ApplyPending(usize),
    /// What an evaluator has returned is written, up to a number of outputs.
    Write {
        evaluator: usize,
        outputs: usize,
    },
    /// A partition moves to the other evaluator, with a checkpoint or without.
    Move {
        partition: u32,
        with_checkpoint: bool,
    },
    /// What an evaluator has not written is lost, and it begins again.
    Crash(usize),
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    let (symbol, partition, evaluator) = (0..SYMBOLS, 0..PARTITIONS, 0..EVALUATORS);
    let ticks = (symbol.clone(), prop::bool::weighted(0.05), prop::bool::weighted(0.4), 1..6_usize);
    let create = (symbol, 0..VERSIONS, prop::bool::weighted(0.2));
    prop_oneof![
        12 => ticks.prop_map(|(symbol, astray, faults, ticks)| Publish { symbol, astray, faults, ticks }),
        1 => partition.clone().prop_map(PublishNothing),
        5 => create.prop_map(|(symbol, version, fires_once)| Create { symbol, version, fires_once }),
        1 => any::<Index>().prop_map(Delete),
        4 => any::<Index>().prop_map(Unquarantine),
        3 => any::<Index>().prop_map(BeginPromotion),
        3 => (any::<Index>(), prop::option::weighted(0.7, 0..VERSIONS))
            .prop_map(|(binding, to)| EndPromotion { binding, to }),
        1 => prop::option::weighted(0.2, 0..VERSIONS).prop_map(|version| version.map_or(PassOn(0), TakeOutOfService)),
        8 => evaluator.clone().prop_map(PassOn),
        12 => (partition.clone(), 1..8_usize).prop_map(|(partition, records)| Read { partition, records }),
        3 => evaluator.clone().prop_map(Checkpoint),
        6 => evaluator.clone().prop_map(ApplyPending),
        6 => (evaluator.clone(), 1..30_usize).prop_map(|(evaluator, outputs)| Write { evaluator, outputs }),
        2 => (partition, any::<bool>())
            .prop_map(|(partition, with_checkpoint)| Move { partition, with_checkpoint }),
        2 => evaluator.prop_map(Crash),
    ]
}

struct World {
    store: Store,
    evaluators: [Evaluator; EVALUATORS],
    /// The evaluator of each partition.
    owners: [usize; PARTITIONS as usize],
}

impl World {
    fn new() -> Self {
        let store = Store::new();
        let mut evaluators = [(); EVALUATORS].map(|()| Evaluator::new(&store));
        let owners = [0, 1, 0];
        for (partition, owner) in (0..).zip(owners) {
            evaluators[owner].take(&store, partition);
        }
        Self { store, evaluators, owners }
    }

    fn apply(&mut self, step: &Step) {
        let Self { store, evaluators, owners } = self;
        match *step {
            Step::Publish { symbol: number, astray, faults, ticks } => {
                let partition = (u32::from(number) + u32::from(astray)) % PARTITIONS;
                let price = if faults { BAD } else { GOOD };
                (0..ticks).for_each(|_| store.log.publish(partition, &symbol(number), price));
            }
            Step::PublishNothing(partition) => store.log.publish_nothing(partition),
            Step::PassOn(evaluator) => evaluators[evaluator].pass_on(store),
            Step::Read { partition, records } => evaluators[owners[partition as usize]].read(store, partition, records),
            Step::Checkpoint(evaluator) => evaluators[evaluator].checkpoint(),
            Step::ApplyPending(evaluator) => evaluators[evaluator].apply_pending(),
            Step::Write { evaluator, outputs } => evaluators[evaluator].write(store, outputs),
            Step::Move { partition, with_checkpoint } => {
                let owner = &mut owners[partition as usize];
                let from = &mut evaluators[*owner];
                if with_checkpoint {
                    from.checkpoint();
                    from.write_all(store);
                    from.give_up(partition);
                } else {
                    from.lose(partition);
                }
                *owner = (*owner + 1) % EVALUATORS;
                evaluators[*owner].take(store, partition);
            }
            Step::Crash(evaluator) => {
                evaluators[evaluator] = Evaluator::new(store);
                for (partition, owner) in (0..).zip(owners) {
                    if *owner == evaluator {
                        evaluators[evaluator].take(store, partition);
                    }
                }
            }
            ref request => apply_request(store, request),
        }
    }

    /// Reads, applies and writes all that there is.
    fn finish(&mut self) {
        let Self { store, evaluators, .. } = self;
        for _ in 0..10 {
            let before = store.newest;
            for evaluator in evaluators.iter_mut() {
                evaluator.pass_on(store);
                (0..PARTITIONS).for_each(|partition| evaluator.read(store, partition, usize::MAX));
                evaluator.apply_pending();
                evaluator.checkpoint();
                evaluator.write_all(store);
            }
            if store.newest == before {
                return;
            }
        }
        panic!("changes never end");
    }

    fn check(&self) {
        let Self { store, evaluators, .. } = self;
        let waits = evaluators.iter().flat_map(|evaluator| &evaluator.waits);
        assert!(waits.clone().all(|(_, bindings)| *bindings == 0), "{:?}", waits.collect::<Vec<_>>());
        let in_service = store.bindings.iter().filter(|binding| binding.is_live() && store.is_in_service(binding));
        let in_service: Vec<&Binding> = in_service.filter(|binding| binding.goes_on_from.is_some()).collect();
        assert!(
            !in_service.iter().any(|binding| binding.unquarantine_due || binding.handoff == HandoffState::Requested)
        );
        let not_held = in_service.iter().filter(|binding| binding.handoff != HandoffState::Held).count();
        assert_eq!(evaluators.iter().map(Evaluator::bindings).sum::<usize>(), not_held, "armed bindings");
        (0..).zip(&store.bindings).for_each(|(id, binding)| check_binding(&store.log, id, binding));
    }
}

/// Does what a client asks for, to one of the bindings that it can be done to.
fn apply_request(store: &mut Store, request: &Step) {
    let choose = |index: &Index, store: &Store, chosen: &dyn Fn(&Binding) -> bool| {
        let eligible = |binding: &Binding| binding.is_live() && chosen(binding);
        let eligible: Vec<usize> = (0..store.bindings.len()).filter(|at| eligible(&store.bindings[*at])).collect();
        (!eligible.is_empty()).then(|| *index.get(&eligible))
    };
    match request {
        Step::Create { symbol: number, version, fires_once } => {
            let rule = &counters()[*version];
            if !store.out_of_service.contains_key(&rule.reference().digest) {
                store.create(symbol(*number), rule.clone(), *fires_once);
            }
        }
        Step::Delete(index) => {
            choose(index, store, &|_| true).into_iter().for_each(|at| store.delete(at));
        }
        Step::Unquarantine(index) => {
            let chosen = choose(index, store, &|binding| {
                binding.is_quarantined && binding.handoff == HandoffState::None && store.is_in_service(binding)
            });
            chosen.into_iter().for_each(|at| store.unquarantine(at));
        }
        Step::BeginPromotion(index) => {
            let chosen = choose(index, store, &|binding| {
                !binding.unquarantine_due && binding.handoff == HandoffState::None && store.is_in_service(binding)
            });
            chosen.into_iter().for_each(|at| store.begin_promotion(at));
        }
        Step::EndPromotion { binding, to } => {
            let chosen = choose(binding, store, &|binding| binding.handoff != HandoffState::None);
            chosen.into_iter().for_each(|at| store.end_promotion(at, to.map(|version| counters()[version].clone())));
        }
        Step::TakeOutOfService(version) => {
            let digest = counters()[*version].reference().digest;
            if !store.out_of_service.contains_key(&digest) {
                store.take_out_of_service(digest);
            }
        }
        other => unreachable!("{other:?}"),
    }
}

/// Compares what is recorded of a binding with what it must have done.
fn check_binding(log: &Log, id: i64, binding: &Binding) {
    let Some(from) = binding.goes_on_from else {
        let ends = (0..).zip(&binding.ends).map(|(partition, end)| log.records_from(partition, *end));
        let is_missed = ends.flatten().any(|record| record.tick.symbol == binding.symbol);
        assert!(!binding.is_live() || !is_missed, "the first tick of {} assigns it", binding.symbol);
        assert!(binding.recorded.is_empty());
        return;
    };
    let records = log.records_from(from.partition, binding.counts_from);
    let ticks = records.filter(|record| record.tick.symbol == binding.symbol);
    let mut expected = expected(&binding.past, ticks.map(|record| (record.position.offset, record.tick.price)));
    if let Some(complete_until) = binding.complete_until {
        expected.retain(|what, _| what.0 < complete_until || binding.recorded.contains_key(what));
    }
    let differ = |one: &Course, other: &Course| {
        one.iter()
            .find(|(what, happened)| other.get(what) != Some(happened))
            .map(|(what, happened)| (what.0, happened.clone()))
    };
    let (missing, wrong) = (differ(&expected, &binding.recorded), differ(&binding.recorded, &expected));
    assert!(
        missing.is_none() && wrong.is_none(),
        "binding {id} on {}: at the first difference expected {missing:?}, recorded {wrong:?}; {:?}",
        binding.symbol,
        binding.past
    );
}

#[test]
fn no_history_loses_doubles_or_changes_what_a_binding_does() {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(CASES) });
    let ran = runner.run(&prop::collection::vec(step(), 1..STEPS), |steps| {
        let mut world = World::new();
        steps.iter().for_each(|step| world.apply(step));
        world.finish();
        world.check();
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
}
