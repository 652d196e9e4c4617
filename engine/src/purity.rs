//! Purity: each firing before it is recorded, and a sample of all other evaluations, is evaluated again apart, from the same
//! bytes. A rule that reads anything but its tick, params and state answers differently sooner or later.

use std::fmt;

use tocsin_rules_sdk::abi;

use crate::apart::{Apart, ApartError, Records};
use crate::domain::Tick;
use crate::instance::Answer;
use crate::runtime::Rule;

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

/// Evaluates again what an instance has evaluated from `records`, with the answer `first` and the state `state_after`. How
/// the two differ, if they do; and the fuel that it burnt.
pub(crate) fn check(
    apart: &mut Apart,
    rule: &Rule,
    tick: &Tick,
    records: Records<'_>,
    first: Option<Answer>,
    state_after: &[u8],
) -> Result<(Option<Impurity>, u64), ApartError> {
    let again = apart.evaluate(tick, records)?;
    let differed = match again.answer {
        Ok(answer) => difference(rule, first, answer).or_else(|| state_difference(state_after, apart.state())),
        Err(fault) => Some(format!("it answered, and then did not: {fault}")),
    };
    Ok((differed.map(|differed| Impurity { differed }), again.fuel))
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
