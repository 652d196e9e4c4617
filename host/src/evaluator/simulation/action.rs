//! What can happen, and which of it does.

use rand::RngExt as _;
use rand::rngs::StdRng;
use tocsin_bus::simulated::Outcome;

use super::world::World;

/// One step of a run.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// The oldest call of that name happens, or what its outcome is instead.
    Release {
        slot: usize,
        call: &'static str,
        outcome: Outcome,
    },
    /// A worker goes once through its loop: it reads at most so many records, and evaluates them or one.
    Turn {
        slot: usize,
        worker: usize,
        records: usize,
        one: bool,
        checkpoint: bool,
    },
    /// Ticks are published; the false ones are those on which the rule traps.
    Append {
        symbol: usize,
        partition: u32,
        ticks: Vec<bool>,
    },
    /// The log gets offsets without ticks.
    Gap {
        partition: u32,
    },
    /// A client asks for an alert.
    Create {
        slot: usize,
        symbols: Vec<usize>,
        once: bool,
    },
    /// A client sends an earlier request again.
    Repeat {
        slot: usize,
        request: usize,
    },
    Delete {
        slot: usize,
        alert: i64,
    },
    Unquarantine {
        slot: usize,
        alert: i64,
    },
    Promote {
        slot: usize,
    },
    Cancel {
        slot: usize,
    },
    /// A process looks for a promotion that no process lives to end.
    RollBack {
        slot: usize,
    },
    /// Leases run out.
    ExpireLease,
    /// A process is notified of all that is new.
    Notify {
        slot: usize,
    },
    /// A process hears the next that the group has decided.
    Mail {
        slot: usize,
    },
    /// The group moves a partition; where it is lost, its owner is not waited for.
    Move {
        partition: u32,
        to: usize,
        lost: bool,
    },
    /// The group waits no longer for the handover of a partition.
    Evict {
        partition: u32,
    },
    Crash {
        slot: usize,
    },
    Stop {
        slot: usize,
    },
    Start {
        slot: usize,
    },
    /// Time passes.
    Wait {
        ms: u64,
    },
}

/// Chooses what happens next, of what can.
pub(super) fn choose(random: &mut StdRng, world: &World) -> Action {
    let slot = random.random_range(0..world.slots.len());
    let Some(process) = &world.slots[slot] else {
        return match random.random_range(0..4) {
            0..2 => Action::Start { slot },
            2 => append(random, world),
            _ => elsewhere(random, world),
        };
    };
    match random.random_range(0..100) {
        0..50 => release(random, world),
        50..68 => turn(random, world),
        68..79 => append(random, world),
        79..84 => Action::Notify { slot },
        84..88 if !process.mail.is_empty() => Action::Mail { slot },
        84..95 => api(random, world, slot),
        _ => elsewhere(random, world),
    }
}

fn release(random: &mut StdRng, world: &World) -> Action {
    let waiting = world.gates.waiting();
    if waiting.is_empty() {
        return match random.random_range(0..3) {
            0 => Action::Wait { ms: [30, 1_100, 6_000][random.random_range(0..3)] },
            _ => turn(random, world),
        };
    }
    let (process, call) = waiting[random.random_range(0..waiting.len())];
    let slot = (0..world.slots.len()).find(|slot| world.number(*slot) == Some(process));
    let outcome = match random.random_range(0..100) {
        0..92 => Outcome::Done,
        92..95 => Outcome::Refused,
        95..99 => Outcome::Lost,
        _ => Outcome::Unanswered,
    };
    Action::Release { slot: slot.expect("calls of the dead are forgotten"), call, outcome }
}

fn turn(random: &mut StdRng, world: &World) -> Action {
    Action::Turn {
        slot: random.random_range(0..world.slots.len()),
        worker: random.random_range(0..world.shape.workers),
        records: random.random_range(0..6),
        one: random.random_range(0..3) == 0,
        checkpoint: random.random_range(0..4) == 0,
    }
}

fn append(random: &mut StdRng, world: &World) -> Action {
    let partitions = world.shape.partitions;
    if random.random_range(0..20) == 0 {
        return Action::Gap { partition: random.random_range(0..partitions) };
    }
    let symbol = random.random_range(0..world.shape.symbols);
    // Each symbol has a partition, but for some producers.
    let own = symbol as u32 % partitions;
    let partition = if random.random_range(0..8) == 0 { random.random_range(0..partitions) } else { own };
    let burst_of_bad = random.random_range(0..10) == 0;
    let count = if burst_of_bad { 6 } else { random.random_range(1..4) };
    let ticks = (0..count).map(|_| !burst_of_bad && random.random_range(0..12) > 0).collect();
    Action::Append { symbol, partition, ticks }
}

fn api(random: &mut StdRng, world: &World, slot: usize) -> Action {
    let created: Vec<i64> = world.history.created.keys().copied().collect();
    let alert = created.get(random.random_range(0..created.len().max(1))).copied();
    match (random.random_range(0..20), alert) {
        (0..3, Some(alert)) => Action::Delete { slot, alert },
        (3..6, Some(alert)) => Action::Unquarantine { slot, alert },
        (6, _) if !world.history.requests.is_empty() => {
            Action::Repeat { slot, request: random.random_range(0..world.history.requests.len()) }
        }
        (7..11, Some(_)) if world.shape.promotes => promotion(random, slot),
        _ => {
            let first = random.random_range(0..world.shape.symbols);
            let second = random.random_range(0..world.shape.symbols);
            let symbols = if first == second { vec![first] } else { vec![first, second] };
            Action::Create { slot, symbols, once: random.random_range(0..4) == 0 }
        }
    }
}

fn promotion(random: &mut StdRng, slot: usize) -> Action {
    match random.random_range(0..6) {
        0..3 => Action::Promote { slot },
        3 => Action::Cancel { slot },
        4 => Action::RollBack { slot },
        _ => Action::ExpireLease,
    }
}

/// What happens to processes and partitions.
fn elsewhere(random: &mut StdRng, world: &World) -> Action {
    let slot = random.random_range(0..world.slots.len());
    let partition = random.random_range(0..world.shape.partitions);
    match random.random_range(0..12) {
        0..6 => Action::Move { partition, to: slot, lost: random.random_range(0..3) == 0 },
        6 => Action::Evict { partition },
        7 => Action::Crash { slot },
        8 => Action::Stop { slot },
        9..11 => Action::Start { slot },
        _ => Action::Wait { ms: [30, 1_100, 6_000, 40_000][random.random_range(0..4)] },
    }
}
