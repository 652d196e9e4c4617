//! A deterministic simulator of the evaluator.
//!
//! Coordinators, workers, committers and API calls of several processes run on one thread, over one database (the store's own
//! SQL, on SQLite in memory) and one log in memory with Kafka's rules. A scheduler with a seed decides what happens next, one
//! step at a time: each call of the store or the bus waits until the scheduler releases it, and so does each turn of a worker;
//! time passes when nothing else does. So it delays and reorders whatever the real system may: it holds notifications back,
//! fails calls before they have happened or loses their answer after, moves partitions with and without a handover, crashes and
//! stops processes between any two steps, and mixes creations, deletions and repeated requests with ticks.
//!
//! After a run everything is released until nothing moves. Then [`oracle`] says, from the log and from when changes became
//! durable, what must have fired with which evidence, in which order, and what bindings must remember.
//!
//! What it does not model: two calls of the store that overlap (each is one step; what PostgreSQL's isolation adves is left to
//! tests on PostgreSQL), stale reads, damaged data, compilation of rules (they are compiled once for all runs), delivery, the
//! projector, and time as the database has it.
//!
//! `TOCSIN_SIM_RUNS` sets the number of runs, `TOCSIN_SIM_SEED` the first seed; alone, it runs that one. A run that fails is
//! shrunk: actions are left out for as long as it still fails.

mod action;
mod end;
mod oracle;
mod process;
mod rules;
mod shrink;
mod world;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tocsin_engine::limits::THREAD_STACK_BYTES;

use self::action::{Action, choose};
use self::world::{Shape, World};

/// Runs where none are asked for: some tens of seconds in an unoptimised build.
const RUNS: u64 = 100;

/// Actions of one run, at least and at most.
const ACTIONS: [usize; 2] = [40, 260];

/// Runs a simulation on a thread whose stack rules may use up.
fn on_its_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().stack_size(4 * THREAD_STACK_BYTES);
    let simulation = move || {
        tocsin_base::simulation::begin();
        work()
    };
    thread.spawn(simulation).unwrap().join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Plays what a seed says. Returns the actions, and what is wrong with what came of them.
fn run_seed(seed: u64) -> (Shape, Vec<Action>, Result<(), Difference>) {
    let mut random = StdRng::seed_from_u64(seed);
    let shape = Shape::of(&mut random);
    let count = random.random_range(ACTIONS[0]..=ACTIONS[1]);
    let mut actions = Vec::with_capacity(count);
    let ended = play(shape, |world| {
        if actions.len() == count {
            return None;
        }
        actions.push(choose(&mut random, world));
        actions.last().cloned()
    });
    (shape, actions, ended)
}

/// Plays actions; those that cannot be done by then are passed over.
fn replay(shape: Shape, actions: &[Action]) -> Result<(), Difference> {
    let mut actions = actions.iter();
    play(shape, |_| actions.next().cloned())
}

/// What is wrong with what came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Difference {
    difference: String,
    /// What happened, in order.
    trace: Vec<String>,
}

async fn play_in(world: &mut World, next: &mut impl FnMut(&World) -> Option<Action>) -> Result<(), String> {
    while let Some(action) = next(world) {
        world.act(&action).await?;
    }
    world.come_to_rest().await?;
    oracle::compare(world)
}

fn play(shape: Shape, mut next: impl FnMut(&World) -> Option<Action>) -> Result<(), Difference> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        runtime.block_on(async {
            let mut world = World::new(shape).await;
            let ended = play_in(&mut world, &mut next).await;
            ended.map_err(|difference| Difference { difference, trace: std::mem::take(&mut world.trace) })
        })
    }));
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(Difference { difference: format!("panicked: {}", text.unwrap_or("no message")), trace: Vec::new() })
    })
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn all_that_may_happen_comes_out_as_the_oracle_says() {
    let first = setting("TOCSIN_SIM_SEED");
    let runs = setting("TOCSIN_SIM_RUNS").unwrap_or(if first.is_some() { 1 } else { RUNS });
    let first = first.unwrap_or(0);
    let next = AtomicU64::new(first);
    let has_failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..setting("TOCSIN_SIM_THREADS").unwrap_or(1) {
            scope.spawn(|| {
                while !has_failed.load(Relaxed) {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= first + runs {
                        return;
                    }
                    if let Err(difference) = check_seed(seed) {
                        has_failed.store(true, Relaxed);
                        panic!("{difference}");
                    }
                }
            });
        }
    });
}

/// Plays a seed. Returns the shortest run that was found to fail, if it does.
fn check_seed(seed: u64) -> Result<(), String> {
    let (shape, actions, ended) = on_its_thread(move || run_seed(seed));
    let Err(difference) = ended else { return Ok(()) };
    let (actions, shrunk) = on_its_thread(move || shrink::shrink(shape, actions, difference));
    let list: Vec<String> = actions.iter().map(|action| format!("    {action:?},")).collect();
    let Difference { difference, trace } = shrunk;
    let (count, list, trace) = (actions.len(), list.join("\n"), trace.join("\n"));
    Err(format!("{trace}\nseed {seed}: {difference}\n{shape:?}\n{count} actions:\n{list}"))
}

#[test]
fn a_seed_plays_the_same_again() {
    for seed in 0..3 {
        let (shape, actions, ended) = on_its_thread(move || run_seed(seed));
        let (_, again, ended_again) = on_its_thread(move || run_seed(seed));
        assert_eq!(format!("{actions:?}"), format!("{again:?}"), "seed {seed}");
        assert_eq!(ended, ended_again);
        assert_eq!(on_its_thread(move || replay(shape, &actions)), ended);
    }
}
