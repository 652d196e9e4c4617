//! What must have come of a run: each binding, tick by tick, without processes, checkpoints or time.

use std::collections::{BTreeMap, HashMap};

use tocsin_bus::Record;
use tocsin_engine::domain::{AlertId, Digest, Firing, Tenant};
use tocsin_store::simulated::{StoredBinding, at_once};

use super::rules::{ADDED, rules};
use super::world::World;
use crate::evaluator::tests::BAD;

/// Evaluations of which a binding remembers the faults, and how many of these quarantine it.
const WINDOW: u32 = 32;
const FAULTS: u32 = 5;

/// Faults that are kept of one binding.
const KEPT_FAULTS: usize = 16;

/// The counts that checkpoints have, by rule version and binding.
type States = HashMap<(Digest, i64), f64>;

/// A binding as the oracle evaluates it.
#[derive(Default)]
struct Expected {
    count: f64,
    faults: Vec<u64>,
    history: u32,
    on_probe: bool,
    is_quarantined: bool,
    has_ended: bool,
    is_promoted: bool,
    /// Whether it has fired on the newer version.
    is_newer: bool,
    firings: Vec<(u64, f64)>,
}

impl Expected {
    fn unquarantine(&mut self) {
        if self.is_quarantined {
            (self.is_quarantined, self.on_probe, self.history) = (false, true, 0);
        }
    }

    fn promote(&mut self) {
        if !std::mem::replace(&mut self.is_promoted, true) {
            self.count += ADDED;
        }
    }

    fn evaluate(&mut self, record: &Record, once: bool) {
        if self.is_quarantined || self.has_ended {
            return;
        }
        let offset = record.position.offset;
        if record.tick.price == BAD {
            self.faults.push(offset);
            self.history = self.history << 1 | 1;
            self.is_quarantined = self.on_probe || self.history.count_ones() >= FAULTS;
            return;
        }
        self.history = if std::mem::take(&mut self.on_probe) { 0 } else { self.history << 1 };
        self.count += 1.0;
        self.firings.push((offset, self.count));
        self.has_ended = once;
    }
}

const _: () = assert!(WINDOW == u32::BITS);

/// Compares what is stored with what must be.
pub(super) fn compare(world: &World) -> Result<(), String> {
    let bindings = world.database.bindings();
    check_requests(world, &bindings)?;
    let mut firings: BTreeMap<i64, Vec<(u64, Firing)>> = BTreeMap::new();
    for (seq, firing) in world.firings() {
        firings.entry(firing.binding.0).or_default().push((seq, firing));
    }
    let states = states(world);
    for binding in &bindings {
        let of_binding = firings.remove(&binding.id).unwrap_or_default();
        check_binding(world, binding, &of_binding, &states)
            .map_err(|difference| format!("{difference}\nof {binding:?}"))?;
    }
    if firings.is_empty() { Ok(()) } else { Err(format!("firings of bindings that are not stored: {firings:?}")) }
}

/// A request makes one alert at most, and what a client was answered is stored.
fn check_requests(world: &World, bindings: &[StoredBinding]) -> Result<(), String> {
    for (number, request) in world.history.requests.iter().enumerate() {
        let mut alerts: Vec<i64> =
            bindings.iter().filter(|binding| binding.user == number as i64 + 1).map(|binding| binding.alert).collect();
        alerts.dedup();
        if alerts.len() > 1 {
            return Err(format!("request {number} made the alerts {alerts:?}"));
        }
        if request.answered.is_some() && request.answered != alerts.first().copied() {
            return Err(format!("request {number} was answered {:?}, and {alerts:?} is stored", request.answered));
        }
    }
    Ok(())
}

/// What bindings remember, by the partitions' checkpoints.
fn states(world: &World) -> States {
    let mut states = States::new();
    let store = world.database.direct();
    for partition in 0..world.shape.partitions {
        for (rule, saved) in at_once(store.saved_states(partition)).expect("the database is there") {
            let state = f64::from_le_bytes(saved.state.try_into().expect("a count"));
            states.insert((rule, saved.binding.0), state);
        }
    }
    states
}

fn check_binding(
    world: &World,
    binding: &StoredBinding,
    firings: &[(u64, Firing)],
    states: &States,
) -> Result<(), String> {
    let request = &world.history.requests[binding.user as usize - 1];
    let last = world.history.created.get(&binding.alert).ok_or("an alert is stored that no request created")?;
    if firings.windows(2).any(|two| two[0].1.position.offset >= two[1].1.position.offset) {
        return Err(format!("firings are out of order: {firings:?}"));
    }
    if binding.handoff != "none" {
        return Err("it is not given back".into());
    }
    if binding.partition < 0 {
        return check_unassigned(world, binding, last);
    }
    let partition = binding.partition as usize;
    if !(request.ends[partition]..=last[partition]).contains(&binding.counts_from) {
        let (first, last) = (request.ends[partition], last[partition]);
        return Err(format!("it counts from {}, and was created between {first} and {last}", binding.counts_from));
    }
    check_versions(world, binding, firings)?;
    let expected = expect(world, binding, firings, request.once);
    let fired: Vec<(u64, f64)> =
        firings.iter().map(|(_, firing)| (firing.position.offset, firing.evidence[0].1)).collect();
    if let Some(newest) = world.history.deleted.get(&binding.alert) {
        if firings.iter().any(|(seq, _)| seq > newest) {
            return Err("it fired after its deletion".into());
        }
        let is_prefix = expected.firings.starts_with(&fired);
        return if is_prefix { Ok(()) } else { Err(differs(&expected, &fired)) };
    }
    if fired != expected.firings {
        return Err(differs(&expected, &fired));
    }
    let status = match (expected.has_ended, expected.is_quarantined) {
        (true, _) => "triggered",
        (_, true) => "quarantined",
        _ => "active",
    };
    if binding.status != status {
        return Err(format!("its status must be {status}"));
    }
    check_faults(world, binding, &expected)?;
    check_state(binding, &expected, states)
}

fn differs(expected: &Expected, fired: &[(u64, f64)]) -> String {
    format!("fired {fired:?}\n where {:?} is right", expected.firings)
}

/// No tick came that would have assigned its symbol.
fn check_unassigned(world: &World, binding: &StoredBinding, ends: &[u64]) -> Result<(), String> {
    if world.history.deleted.contains_key(&binding.alert) {
        return Ok(());
    }
    for partition in 0..world.shape.partitions {
        let records = world.log.records(partition);
        let tick = records.iter().find(|record| {
            record.tick.symbol.as_str() == binding.symbol && record.position.offset >= ends[partition as usize]
        });
        if let Some(tick) = tick {
            return Err(format!("its symbol is not assigned, although there is a tick at {:?}", tick.position));
        }
    }
    Ok(())
}

/// Evaluates all ticks that count. Where a promotion took effect is read off the firings: what it changed is not.
fn expect(world: &World, binding: &StoredBinding, firings: &[(u64, Firing)], once: bool) -> Expected {
    let mut expected = Expected::default();
    let unquarantined: Vec<u64> =
        world.history.unquarantined.iter().filter(|(id, _)| *id == binding.id).map(|(_, offset)| *offset).collect();
    let promoted = firings.iter().find(|(_, firing)| is_newer(firing));
    expected.is_newer = promoted.is_some();
    let promoted = promoted.map(|(_, firing)| firing.position.offset);
    let mut left = unquarantined.iter().peekable();
    for record in world.log.records(binding.partition as u32) {
        let offset = record.position.offset;
        while left.next_if(|from| **from <= offset).is_some() {
            expected.unquarantine();
        }
        if offset < binding.counts_from || record.tick.symbol.as_str() != binding.symbol {
            continue;
        }
        if promoted == Some(offset) {
            expected.promote();
        }
        expected.evaluate(&record, once);
    }
    left.for_each(|_| expected.unquarantine());
    if binding.rule_version == "2.0.0" && !expected.has_ended {
        expected.promote();
    }
    expected
}

fn is_newer(firing: &Firing) -> bool {
    firing.rule.version.to_string() == "2.0.0"
}

/// Once on the newer version, a binding stays on it; and what was published after that is evaluated on it.
fn check_versions(world: &World, binding: &StoredBinding, firings: &[(u64, Firing)]) -> Result<(), String> {
    let partition = binding.partition as usize;
    let first_newer = world.history.promoted.get(&binding.alert).map_or(u64::MAX, |ends| ends[partition]);
    let is_wrong = |(_, firing): &&(u64, Firing)| !is_newer(firing) && firing.position.offset >= first_newer;
    if let Some((_, firing)) = firings.iter().find(is_wrong) {
        return Err(format!("it was promoted before offset {first_newer}, and fired on the older version: {firing:?}"));
    }
    let versions: Vec<bool> = firings.iter().map(|(_, firing)| is_newer(firing)).collect();
    if !versions.is_sorted() || (first_newer == u64::MAX && versions.contains(&true)) {
        return Err(format!("the versions it fired on are out of order, or it was not promoted: {versions:?}"));
    }
    Ok(())
}

/// A live binding's state is in its partition's checkpoint, on the version that it is on.
fn check_state(binding: &StoredBinding, expected: &Expected, states: &States) -> Result<(), String> {
    if expected.has_ended || (expected.firings.is_empty() && !expected.is_promoted) {
        return Ok(());
    }
    let versions = rules().versions.iter().map(|(rule, _)| &rule.reference);
    let mut versions = versions.filter(|rule| rule.version.to_string() == binding.rule_version);
    let found = versions.next().and_then(|rule| states.get(&(rule.digest, binding.id)));
    // Until it has evaluated a tick on that version, the store may keep it beside the checkpoints.
    let may_wait = expected.is_promoted && !expected.is_newer;
    let remembers = found == Some(&expected.count) || (found.is_none() && may_wait);
    if remembers { Ok(()) } else { Err(format!("it remembers {found:?} in place of {}", expected.count)) }
}

/// The newest faults are stored, and no others.
fn check_faults(world: &World, binding: &StoredBinding, expected: &Expected) -> Result<(), String> {
    let store = world.database.direct();
    let faults = at_once(store.faults(&Tenant::standard(), AlertId(binding.alert), 0, 1_000));
    let faults = faults.expect("the database is there").into_iter().map(|(_, fault)| fault);
    let found: Vec<u64> = faults
        .filter(|fault| fault.tick.symbol.as_str() == binding.symbol)
        .map(|fault| fault.position.offset)
        .collect();
    let newest = &expected.faults[expected.faults.len().saturating_sub(KEPT_FAULTS)..];
    if found == newest { Ok(()) } else { Err(format!("faulted at {found:?}\n    where {newest:?} is right")) }
}
