//! The purity audit: a sample of evaluations is done again on a fresh instance, from the same bytes. A rule that reads
//! anything but its tick, params and state answers differently sooner or later.

use std::fmt;

use tocsin_rules_sdk::abi;

use crate::domain::Tick;
use crate::instance::{Answer, CallEnd, Instance, MemoryError};
use crate::runtime::Rule;
use crate::table::Table;

/// How often evaluations are done again: at random, since anything regular would meet the same groups again and again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Audit {
    /// One call of so many on average; never if 0.
    every_calls: u32,
    /// Calls until the next audit.
    left: u64,
    random: SplitMix,
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
        let mut audit = Self { every_calls, ..Self::default() };
        audit.left = audit.gap();
        audit
    }

    /// Whether a call of `count` bindings is audited, and which of them.
    #[inline]
    pub(crate) fn pick(&mut self, count: usize) -> Option<usize> {
        if self.every_calls == 0 {
            return None;
        }
        self.left -= 1;
        if self.left > 0 {
            return None;
        }
        self.left = self.gap();
        Some((self.random.next() % count as u64) as usize)
    }

    /// Calls up to an audit, that one included: from 1 to twice the average.
    fn gap(&mut self) -> u64 {
        1 + self.random.next() % (2 * u64::from(self.every_calls)).saturating_sub(1).max(1)
    }
}

/// Numbers that are random enough to sample by: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
#[derive(Clone, Copy, Debug, Default)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_in_so_many_is_audited_and_every_group_of_a_cycle_gets_its_turn() {
        assert!((0..100).all(|_| Audit::every(1).pick(1) == Some(0)));
        assert!((0..100).all(|_| Audit::every(0).pick(1).is_none()));
        // Calls of a thousand groups, again and again: a fixed stride would meet ten of them.
        let (mut audit, mut audits, mut met) = (Audit::every(100), 0, [false; 1_000]);
        for call in 0..1_000_000 {
            if let Some(at) = audit.pick(7) {
                assert!(at < 7);
                audits += 1;
                met[call % 1_000] = true;
            }
        }
        assert!((9_000..11_000).contains(&audits), "{audits} audits");
        assert!(met.iter().filter(|met| **met).count() > 990);
    }
}
