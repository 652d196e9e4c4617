//! Purity: each firing, before it is recorded, and a sample of all other evaluations are done again in isolation, from the
//! same bytes. A rule that reads anything but its tick, params and state answers differently sooner or later.

use std::fmt;

use tocsin_rules_sdk::abi;

use crate::domain::Tick;
use crate::instance::Answer;
use crate::isolation::{IsolatedInstance, IsolationError, Records};
use crate::runtime::Rule;

/// Chooses the calls that are audited: at random, since a fixed stride could meet the same groups again and again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Audit {
    /// Calls of which one is audited, on average; 0 for none.
    every_calls: u32,
    /// Calls up to the next audit, that one included.
    left: u64,
    random: SplitMix,
}

/// A rule, evaluated twice from the same bytes, did not do the same: it reads something beside its tick, params and state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impurity {
    /// What differed, with both values: the code, a number or a byte of the state.
    pub differed: String,
}

impl fmt::Display for Impurity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "evaluated again on a fresh instance from the same bytes it differed: {}", self.differed)
    }
}

impl Audit {
    /// Creates an audit of one call of `every_calls`, on average; 0 for none.
    pub(crate) fn every(every_calls: u32) -> Self {
        let mut audit = Self { every_calls, ..Self::default() };
        audit.left = audit.gap();
        audit
    }

    /// Returns the index of the binding that is audited of a call of `count` bindings, `None` for most calls.
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

    /// Returns the calls up to the next audit, that one included: from 1 to twice the average.
    fn gap(&mut self) -> u64 {
        1 + self.random.next() % (2 * u64::from(self.every_calls)).saturating_sub(1).max(1)
    }
}

/// A pseudo-random generator, good enough for sampling: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
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

/// An evaluation that is to be done again.
pub(crate) struct FirstEvaluation<'a> {
    /// The records before it.
    pub(crate) records: Records<'a>,
    /// Its answer, `None` for hold.
    pub(crate) answer: Option<Answer>,
    pub(crate) state_after: &'a [u8],
}

/// The result of evaluating again.
pub(crate) struct Checked {
    /// How the two evaluations differ, if they do.
    pub(crate) impurity: Option<Impurity>,
    /// An upper bound of the fuel that was burnt.
    pub(crate) fuel: u64,
}

/// Does an evaluation again, and compares the results.
///
/// # Errors
/// Where the machine is too slow.
pub(crate) fn check(
    isolated: &mut IsolatedInstance,
    tick: &Tick,
    first: FirstEvaluation<'_>,
) -> Result<Checked, IsolationError> {
    let again = isolated.evaluate(tick, first.records)?;
    let differed = match again.answer {
        Ok(answer) => difference(isolated.rule(), first.answer, answer)
            .or_else(|| state_difference(first.state_after, isolated.state())),
        Err(fault) => Some(format!("it answered, and then did not: {fault}")),
    };
    Ok(Checked { impurity: differed.map(|differed| Impurity { differed }), fuel: again.fuel })
}

/// Describes the first difference between two answers. Numbers that their codes do not use are not compared.
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

/// Describes the difference between two states.
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
