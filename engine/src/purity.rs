//! The purity audit: a sample of evaluations is done again on a fresh instance, from the same bytes. A rule that reads
//! anything but its tick, params and state answers differently sooner or later.

use std::fmt;

use tocsin_rules_sdk::abi;

use crate::domain::Tick;
use crate::instance::{Answer, CallEnd, Instance, MemoryError};
use crate::runtime::Rule;
use crate::table::Table;

/// How often evaluations are done again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Audit {
    /// One call of so many; never if 0.
    every_calls: u32,
    calls: u32,
    /// Which of a call's bindings is taken: they take turns.
    turn: usize,
}

/// A rule gave two answers to the same question: it keeps or reads something beside tick, params and state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impurity {
    /// What differed: the code, a number or a byte of the state, with both values.
    pub differed: String,
}

impl fmt::Display for Impurity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "evaluated again on a fresh instance from the same bytes it differed: {}", self.differed)
    }
}

impl Audit {
    /// Audits one call of `every_calls`; none if that is 0.
    pub(crate) fn every(every_calls: u32) -> Self {
        Self { every_calls, calls: 0, turn: 0 }
    }

    /// Whether a call of `count` bindings is audited, and which of them.
    #[inline]
    pub(crate) fn pick(&mut self, count: usize) -> Option<usize> {
        self.calls = self.calls.wrapping_add(1);
        if self.every_calls == 0 || !self.calls.is_multiple_of(self.every_calls) {
            return None;
        }
        self.turn = self.turn.wrapping_add(1);
        Some(self.turn % count)
    }
}

/// Does an evaluation again that the instance has just done as number `at` of a call. `before` is the state that it
/// began with.
pub(crate) fn check(
    instance: &Instance,
    table: &Table,
    slot: usize,
    at: usize,
    tick: &Tick,
    before: &[u8],
    answers: u32,
) -> Result<Option<Impurity>, MemoryError> {
    let rule = instance.rule();
    let mut fresh = Instance::new(rule)?;
    let params_at = allocate_elsewhere(&mut fresh, table.params_bytes, table.params_at(slot))?;
    let state_at = allocate_elsewhere(&mut fresh, table.state_bytes, table.state_at(slot))?;
    fresh.bytes_mut(params_at, table.params_bytes).copy_from_slice(table.params(instance, slot));
    fresh.bytes_mut(state_at, table.state_bytes).copy_from_slice(before);
    fresh.set_tick(tick);
    let again = match fresh.call(params_at, state_at, 1) {
        CallEnd::Judged { answers, .. } => fresh.answers(answers).next(),
        CallEnd::Fault(fault) => {
            return Ok(Some(Impurity { differed: format!("it answered, and then did not: {fault}") }));
        }
        // The machine is too slow to say.
        CallEnd::Deadline => return Ok(None),
    };
    let first = instance.answers(answers).find(|answer| answer.slot as usize == at);
    let states = (table.state(instance, slot), fresh.bytes(state_at, table.state_bytes));
    Ok(difference(rule, first, again)
        .or_else(|| state_difference(states.0, states.1))
        .map(|differed| Impurity { differed }))
}

/// A block at another address than the first time: a rule that looks at addresses is impure too.
fn allocate_elsewhere(fresh: &mut Instance, bytes: usize, first: usize) -> Result<usize, MemoryError> {
    let at = fresh.allocate(bytes)?;
    if at == first { fresh.allocate(bytes) } else { Ok(at) }
}

fn difference(rule: &Rule, first: Option<Answer>, again: Option<Answer>) -> Option<String> {
    let code = |answer: Option<Answer>| answer.map_or(abi::HOLD, |answer| answer.code);
    if code(first) != code(again) {
        return Some(format!("code {}, then {}", code(first), code(again)));
    }
    let (first, again) = first.zip(again)?;
    let differ = |name: &str, one: f64, other: f64| {
        (one.to_bits() != other.to_bits()).then(|| format!("{name} {one:?}, then {other:?}"))
    };
    let evidence = rule.manifest().evidence.iter().zip(first.evidence.iter().zip(again.evidence));
    let fires = first.code & abi::FIRE != 0;
    let evidence = evidence.filter(|_| fires).find_map(|(name, (one, other))| differ(name, *one, other));
    let asleep = first.code & abi::ASLEEP != 0;
    evidence.or_else(|| {
        let (one, other) = (first.band, again.band);
        let until = (one.until_ms != other.until_ms)
            .then(|| format!("wake_until_ms {}, then {}", one.until_ms, other.until_ms));
        let band = differ("wake_low", one.low, other.low).or_else(|| differ("wake_high", one.high, other.high));
        band.or(until).filter(|_| asleep)
    })
}

fn state_difference(one: &[u8], other: &[u8]) -> Option<String> {
    let at = one.iter().zip(other).position(|(one, other)| one != other)?;
    let bytes = one.iter().zip(other).filter(|(one, other)| one != other).count();
    Some(format!("{bytes} bytes of the state, the first of them byte {at}: {:#04x}, then {:#04x}", one[at], other[at]))
}
