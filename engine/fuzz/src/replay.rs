//! Evaluates ticks on bindings and returns the events, after checks that hold for every run.

use std::collections::HashMap;

use arbitrary::{Arbitrary, Result, Unstructured};
use tocsin_engine::domain::{
    AlertId, BindingId, Conditions, Lifecycle, MAX_TIME_MS, Position, Repeat, Symbol, Tenant, Tick,
};
use tocsin_engine::{Arming, EvaluationOptions, Event, GroupSnapshot, Rule, Shard};

/// The events of each tick, by binding; those that concern a whole rule come last.
pub type History = Vec<Vec<(Option<BindingId>, Event)>>;

/// A small number, or any.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Number {
    /// Small, so that equal numbers are frequent.
    Small(i8),
    /// Any float.
    Any(f64),
}

impl Number {
    /// Returns the value.
    pub fn value(self) -> f64 {
        match self {
            Self::Small(number) => number.into(),
            Self::Any(number) => number,
        }
    }
}

/// Returns the one symbol of all runs.
pub fn symbol() -> Symbol {
    Symbol::parse("X").expect("a symbol")
}

/// Returns valid ticks.
pub fn ticks(u: &mut Unstructured<'_>) -> Result<Vec<Tick>> {
    let count = u.int_in_range(1..=24)?;
    let tick = |_| {
        let (price, volume) = (Number::arbitrary(u)?.value(), Number::arbitrary(u)?.value().abs());
        let time_ms = if u.ratio(3, 4)? { u.int_in_range(0..=255)? } else { u.int_in_range(0..=MAX_TIME_MS)? };
        let finite = |number: f64| if number.is_finite() { number + 0.0 } else { 1.0 };
        let tick = Tick::new(symbol(), finite(price), finite(volume), time_ms, Conditions::default());
        Ok(tick.expect("finite, and in range"))
    };
    (0..count).map(tick).collect()
}

/// Returns a binding of a rule.
pub fn arming(id: i64, rule: &Rule, params: Vec<u8>, repeat: Repeat) -> Arming {
    Arming {
        binding: BindingId(id),
        alert: AlertId(id),
        tenant: Tenant::standard(),
        symbol: symbol(),
        rule: rule.clone(),
        params,
        lifecycle: Lifecycle { repeat },
        saved: None,
    }
}

/// Evaluates ticks, and checks that a fault does not change the state. Before the tick with the index `restart_at` the
/// shard is replaced by one that is restored from its snapshots.
pub fn run(options: EvaluationOptions, armings: &[Arming], ticks: &[Tick], restart_at: Option<usize>) -> History {
    let mut shard = shard(options, armings.iter().cloned());
    let mut history = History::new();
    for (at, tick) in ticks.iter().enumerate() {
        if restart_at == Some(at) {
            shard = restarted(options, armings, shard);
        }
        let before: Vec<_> = armings.iter().map(|arming| shard.saved(arming.binding)).collect();
        let mut events = Vec::new();
        let position = Position { partition: 0, offset: at as u64 };
        shard.evaluate(tick, position, &mut events).expect("the engine does not fail");
        for event in &events {
            let Event::Faulted { binding, bundle, .. } = event else { continue };
            let before = before.iter().flatten().find(|saved| saved.binding == *binding).expect("it was armed");
            assert_eq!(bundle.state, before.state, "the state in the bundle");
            // Bindings of a rule that was found impure are removed.
            if let Some(after) = shard.saved(*binding) {
                assert_eq!(after.state, before.state, "the state after a fault");
            }
        }
        let mut events: Vec<_> = events.into_iter().map(|event| (binding_of(&event), event)).collect();
        events.sort_by_key(|(binding, _)| binding.map_or(i64::MAX, |binding| binding.0));
        history.push(events);
    }
    history
}

/// Returns the events of one binding, with the indices of their ticks.
pub fn events_of(history: &History, binding: BindingId) -> Vec<(usize, &Event)> {
    let all = history.iter().enumerate().flat_map(|(at, events)| events.iter().map(move |event| (at, event)));
    all.filter(|(_, (of, _))| *of == Some(binding)).map(|(at, (_, event))| (at, event)).collect()
}

fn shard(options: EvaluationOptions, armings: impl Iterator<Item = Arming>) -> Shard {
    let mut shard = Shard::new(options);
    armings.for_each(|arming| shard.arm(arming).expect("room for a few bindings"));
    shard
}

/// Returns a shard that is restored from the snapshots of another.
fn restarted(options: EvaluationOptions, armings: &[Arming], mut old: Shard) -> Shard {
    let stored = old.take_changed();
    let unpack = |group: &GroupSnapshot| GroupSnapshot::unpack(&group.bytes).expect("the bytes of a snapshot");
    let mut saved: HashMap<_, _> = stored.iter().flat_map(unpack).map(|saved| (saved.binding, saved)).collect();
    let left = armings.iter().filter(|arming| old.holds(arming.binding));
    let armings = left.map(|arming| Arming { saved: saved.remove(&arming.binding), ..arming.clone() });
    shard(options, armings)
}

fn binding_of(event: &Event) -> Option<BindingId> {
    match event {
        Event::Fired { firing, .. } => Some(firing.binding),
        Event::Faulted { binding, .. } | Event::Recovered { binding, .. } => Some(*binding),
        Event::Impure { .. } => None,
    }
}
