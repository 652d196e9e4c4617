//! Alerts around the first ticks of fresh symbols: a symbol is assigned to a partition when its first tick turns up while an
//! alert waits for it, so creations, deletions and ticks come in every order, close to each other.

use std::sync::mpsc::Sender;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::clients::ApiClient;
use crate::load::FreshTicks;

/// Symbols of one script.
const SYMBOLS: usize = 2;

/// Further steps behind a script's first ones.
const MAX_FURTHER: usize = 6;

/// Ticks at once: fewer than it takes for a counting rule to fire, up to more.
const MAX_TICKS: usize = 12;

/// Ticks of each symbol at the end: counting rules fire for every alert that is still there.
const LAST_TICKS: usize = 24;

/// Waits between two steps, milliseconds: none, less than a notification takes, and longer than all that follows one.
const WAITS_MS: [u64; 5] = [0, 0, 30, 150, 400];

/// Orders that have lost firings once, or could.
const OPENINGS: [&[Step]; 6] = [
    &[Step::Create, Step::Delete, Step::Ticks, Step::Create],
    &[Step::Create, Step::Ticks, Step::Delete, Step::Create],
    &[Step::Ticks, Step::Create, Step::Delete, Step::Create],
    &[Step::Ticks, Step::Create, Step::Ticks],
    &[Step::Create, Step::Create, Step::Ticks, Step::Delete, Step::Delete, Step::Create],
    &[Step::Create, Step::Delete, Step::Create, Step::Ticks],
];

#[derive(Clone, Copy)]
enum Step {
    Create,
    /// Of one of the script's alerts, if one is left.
    Delete,
    Ticks,
}

/// Plays a script on symbols that nothing else has.
pub(crate) fn play(
    client: &mut ApiClient,
    symbols: [String; SYMBOLS],
    ticks: &Sender<FreshTicks>,
    script: u64,
) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(script);
    let mut steps = OPENINGS.choose(&mut rng).copied().unwrap_or_default().to_vec();
    let further = [Step::Create, Step::Delete, Step::Ticks];
    steps.extend((0..rng.random_range(0..=MAX_FURTHER)).filter_map(|_| further.choose(&mut rng).copied()));
    let publish = |symbol: &String, count| {
        // The load ends after all clients.
        let _ = ticks.send(FreshTicks { symbol: symbol.clone(), count });
    };
    let mut live = Vec::new();
    for step in steps {
        match step {
            Step::Create => {
                // The first one in half of the cases, so that its alerts come and go on one symbol.
                let (from, until) = [(0, 1), (0, 1), (1, 2), (0, 2)].choose(&mut rng).copied().unwrap_or((0, SYMBOLS));
                live.push(client.create(&symbols[from..until])?);
            }
            Step::Delete if live.is_empty() => {}
            Step::Delete => client.delete(live.swap_remove(rng.random_range(0..live.len())))?,
            Step::Ticks => {
                let chosen = usize::from(rng.random_ratio(1, 3));
                publish(&symbols[chosen], rng.random_range(1..=MAX_TICKS));
            }
        }
        let wait_ms = WAITS_MS.choose(&mut rng).copied().unwrap_or_default();
        std::thread::sleep(Duration::from_millis(wait_ms));
    }
    symbols.iter().for_each(|symbol| publish(symbol, LAST_TICKS));
    Ok(())
}
