//! Judging a group: which of its bindings a tick concerns, the calls into the sandbox, and what the answers mean.

use tocsin_rules_sdk::abi;

use crate::domain::{Evidence, Tick};
use crate::fault::Fault;
use crate::group::Group;
use crate::inject::MAX_LISTED;
use crate::instance::{Answer, CallEnd, Instance, MemoryError};
use crate::limits::{MAX_BINDINGS_PER_CALL, MAX_CALL_STATE_BYTES};
use crate::purity::{self, Audit, Impurity};
use crate::runtime::Rule;
use crate::wake::Band;

/// How often a call that the host was too slow for is tried again before the engine gives up.
const DEADLINE_RETRIES: u32 = 10;

/// Whom a tick is put before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Waking {
    /// Those that it wakes.
    #[default]
    Indexed,
    /// All; and a binding that was to sleep on, but would have answered otherwise or changed its state, faults. Finds
    /// rules that break their promise, and fires exactly as `Indexed` does.
    Checked,
    /// All; wake bands are not looked at. The oracle of the other two.
    Naive,
}

/// What became of one binding on one tick.
pub(crate) enum Outcome {
    Fired(Evidence),
    Faulted {
        fault: Fault,
        quarantined: bool,
        /// What it was judged with, and left with.
        params: Vec<u8>,
        state: Vec<u8>,
    },
    Recovered,
}

/// The engine itself could not judge.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// No instance of a rule could be made.
    #[error("a rule's instance could not be replaced after a fault: {0}")]
    Memory(String),
    /// Calls that fuel bounds to milliseconds took seconds, again and again.
    #[error("this machine is too slow to judge: {DEADLINE_RETRIES} calls in a row passed their deadline")]
    Deadline,
}

impl From<MemoryError> for JudgeError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error.to_string())
    }
}

/// Room that judging needs again and again, and what came of it.
#[derive(Default)]
pub(crate) struct Bench {
    /// In the order of slots within each call.
    pub(crate) outcomes: Vec<(usize, Outcome)>,
    /// What an audit found.
    pub(crate) impurity: Option<Impurity>,
    /// Evaluations, counted up.
    pub(crate) evaluations: u64,
    slots: Vec<u32>,
    bands: Vec<(usize, Band)>,
    before: Vec<u8>,
    addresses: Vec<(u32, u32)>,
}

impl Bench {
    /// Whether something came of judging that the shard must act on.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        !self.outcomes.is_empty() || self.impurity.is_some()
    }
}

/// Which slots one call judges.
#[derive(Clone, Copy)]
enum Chunk<'a> {
    /// So many from the first on.
    Range(usize, usize),
    Listed(&'a [u32]),
}

impl Chunk<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Range(_, count) => *count,
            Self::Listed(slots) => slots.len(),
        }
    }

    fn slot(&self, at: usize) -> usize {
        match self {
            Self::Range(first, _) => first + at,
            Self::Listed(slots) => slots[at] as usize,
        }
    }

    fn from(&self, at: usize) -> Self {
        match *self {
            Self::Range(first, count) => Self::Range(first + at, count - at),
            Self::Listed(slots) => Self::Listed(&slots[at..]),
        }
    }

    fn up_to(&self, count: usize) -> Self {
        match *self {
            Self::Range(first, all) => Self::Range(first, count.min(all)),
            Self::Listed(slots) => Self::Listed(&slots[..count.min(slots.len())]),
        }
    }
}

/// A good verdict.
#[derive(Default)]
struct Verdict {
    /// It fires.
    evidence: Option<Evidence>,
    /// It may sleep.
    band: Option<Band>,
}

impl Group {
    /// Judges a tick. A binding without an outcome held, or was not concerned.
    pub(crate) fn judge(
        &mut self,
        instance: &mut Instance,
        tick: &Tick,
        waking: Waking,
        audit: &mut Audit,
        bench: &mut Bench,
    ) -> Result<(), JudgeError> {
        if let Some(sleepers) = self.sleepers.as_mut().filter(|_| waking != Waking::Naive) {
            sleepers.wake(tick.price, tick.time_ms);
            if waking == Waking::Indexed && sleepers.awake().len() < self.members.len() {
                if sleepers.awake().is_empty() {
                    return Ok(());
                }
                let mut slots = std::mem::take(&mut bench.slots);
                slots.clear();
                slots.extend_from_slice(sleepers.awake());
                // Neighbours lie in one cache line.
                slots.sort_unstable();
                let judged = self.judge_all(instance, tick, waking, audit, Chunk::Listed(&slots), bench);
                bench.slots = slots;
                return judged;
            }
        }
        self.judge_all(instance, tick, waking, audit, Chunk::Range(0, self.members.len()), bench)
    }

    fn judge_all(
        &mut self,
        instance: &mut Instance,
        tick: &Tick,
        waking: Waking,
        audit: &mut Audit,
        mut left: Chunk<'_>,
        bench: &mut Bench,
    ) -> Result<(), JudgeError> {
        let state_bytes = self.table.state_bytes;
        self.changed |= state_bytes > 0;
        bench.evaluations += left.len() as u64;
        instance.set_tick(tick);
        let fitting = MAX_CALL_STATE_BYTES.checked_div(state_bytes).unwrap_or(usize::MAX).max(1);
        let most = match left {
            Chunk::Range(..) => fitting.min(MAX_BINDINGS_PER_CALL as usize),
            Chunk::Listed(_) => fitting.min(MAX_LISTED),
        };
        while left.len() > 0 {
            let mut chunk = left.up_to(most);
            self.copy_states(instance, chunk, &mut bench.before);
            let mut answered = 0;
            let good = match self.call(instance, chunk, &mut bench.addresses) {
                CallEnd::Judged { bindings, answers } => {
                    chunk = chunk.up_to(bindings as usize);
                    answered = answers;
                    self.take_answers(instance, chunk, answers, tick, waking, bench)
                }
                CallEnd::Fault(_) | CallEnd::Deadline => {
                    instance.replace()?;
                    false
                }
            };
            if good {
                self.count_good(chunk, bench);
                if let Some(at) = audit.pick(chunk.len()) {
                    let before = bench.before.get(at * state_bytes..(at + 1) * state_bytes).unwrap_or_default();
                    let impurity = purity::check(instance, &self.table, chunk.slot(at), at, tick, before, answered)?;
                    bench.impurity = bench.impurity.take().or(impurity);
                }
            } else {
                // Somebody is at fault: put the states back and judge one by one, so that the others get the very
                // answers that they would have had.
                for (at, state) in bench.before.chunks(state_bytes.max(1)).enumerate().take(chunk.len()) {
                    self.table.set_state(instance, chunk.slot(at), state);
                }
                let before = std::mem::take(&mut bench.before);
                let judged = self.judge_singly(instance, chunk, tick, waking, &before, bench);
                bench.before = before;
                judged?;
            }
            left = left.from(chunk.len());
        }
        Ok(())
    }

    fn copy_states(&self, instance: &Instance, chunk: Chunk<'_>, before: &mut Vec<u8>) {
        let (table, bytes) = (self.table, self.table.state_bytes);
        before.clear();
        match chunk {
            _ if bytes == 0 => {}
            Chunk::Range(first, count) => {
                before.extend_from_slice(instance.bytes(table.state_at(first), count * bytes))
            }
            Chunk::Listed(slots) => {
                for slot in slots {
                    before.extend_from_slice(table.state(instance, *slot as usize));
                }
            }
        }
    }
    fn call(&self, instance: &mut Instance, chunk: Chunk<'_>, addresses: &mut Vec<(u32, u32)>) -> CallEnd {
        match chunk {
            Chunk::Range(first, count) => {
                instance.call(self.table.params_at(first), self.table.state_at(first), count as u32)
            }
            Chunk::Listed(slots) => {
                addresses.clear();
                addresses.extend(slots.iter().map(|slot| {
                    let slot = *slot as usize;
                    (self.table.params_at(slot) as u32, self.table.state_at(slot) as u32)
                }));
                instance.call_listed(addresses)
            }
        }
    }

    /// Collects the answers of one call; false, and nothing collected, if one of them is no valid verdict, or breaks a
    /// promise to sleep on.
    fn take_answers(
        &mut self,
        instance: &Instance,
        chunk: Chunk<'_>,
        answers: u32,
        tick: &Tick,
        waking: Waking,
        bench: &mut Bench,
    ) -> bool {
        let outcomes_before = bench.outcomes.len();
        bench.bands.clear();
        for answer in instance.answers(answers) {
            let slot = chunk.slot(answer.slot as usize);
            match verdict(instance.rule(), &answer) {
                Ok(verdict) => {
                    bench.outcomes.extend(verdict.evidence.map(|evidence| (slot, Outcome::Fired(evidence))));
                    bench.bands.extend(verdict.band.map(|band| (slot, band)));
                }
                Err(_) => {
                    bench.outcomes.truncate(outcomes_before);
                    return false;
                }
            }
        }
        if waking == Waking::Checked {
            let fired = |slot| bench.outcomes[outcomes_before..].iter().any(|(other, _)| *other == slot);
            let state_bytes = self.table.state_bytes;
            let overslept = (0..chunk.len()).any(|at| {
                let (slot, before) = (chunk.slot(at), &bench.before[at * state_bytes..][..state_bytes]);
                self.sleeps(slot) && (fired(slot) || self.table.state(instance, slot) != before)
            });
            if overslept {
                bench.outcomes.truncate(outcomes_before);
                return false;
            }
        }
        for at in 0..bench.bands.len() {
            let (slot, band) = bench.bands[at];
            self.put_to_sleep(slot, band, tick, waking);
        }
        true
    }

    fn sleeps(&self, slot: usize) -> bool {
        self.sleepers.as_ref().is_some_and(|sleepers| sleepers.sleeps(slot))
    }

    fn put_to_sleep(&mut self, slot: usize, band: Band, tick: &Tick, waking: Waking) {
        if let Some(sleepers) = &mut self.sleepers
            && waking != Waking::Naive
            && !sleepers.sleeps(slot)
            && band.holds(tick.price, tick.time_ms)
        {
            sleepers.sleep(slot, band);
        }
    }

    /// Whoever answered well gets a step away from quarantine.
    fn count_good(&mut self, chunk: Chunk<'_>, bench: &mut Bench) {
        if self.suspects.is_empty() {
            return;
        }
        for slot in (0..chunk.len()).map(|at| chunk.slot(at)) {
            self.count_one_good(slot, bench);
        }
    }

    fn count_one_good(&mut self, slot: usize, bench: &mut Bench) {
        let Some(mut health) = self.suspects.get(&slot).copied() else { return };
        if health.succeeded() {
            bench.outcomes.push((slot, Outcome::Recovered));
        }
        self.set_health(slot, health);
    }

    fn judge_singly(
        &mut self,
        instance: &mut Instance,
        chunk: Chunk<'_>,
        tick: &Tick,
        waking: Waking,
        before: &[u8],
        bench: &mut Bench,
    ) -> Result<(), JudgeError> {
        let state_bytes = self.table.state_bytes;
        for at in 0..chunk.len() {
            let (slot, before) = (chunk.slot(at), &before[at * state_bytes..][..state_bytes]);
            let mut judged = self.judge_one(instance, slot, before)?;
            if waking == Waking::Checked
                && let Some(band) = self.sleepers.as_ref().and_then(|sleepers| sleepers.band(slot))
            {
                let kept = |verdict: &Verdict| verdict.evidence.is_none() && self.table.state(instance, slot) == before;
                judged = judged.ok().filter(kept).ok_or(Fault::Overslept(band));
            }
            match judged {
                Ok(verdict) => {
                    self.count_one_good(slot, bench);
                    bench.outcomes.extend(verdict.evidence.map(|evidence| (slot, Outcome::Fired(evidence))));
                    if let Some(band) = verdict.band {
                        self.put_to_sleep(slot, band, tick, waking);
                    }
                }
                Err(fault) => {
                    self.table.set_state(instance, slot, before);
                    let mut health = self.health(slot);
                    let quarantined = health.faulted();
                    self.set_health(slot, health);
                    let (params, state) = (self.table.params(instance, slot).to_vec(), before.to_vec());
                    bench.outcomes.push((slot, Outcome::Faulted { fault, quarantined, params, state }));
                }
            }
        }
        Ok(())
    }

    /// Judges one slot by a call of its own. The outer result is the engine's, the inner one the rule's.
    fn judge_one(
        &self,
        instance: &mut Instance,
        slot: usize,
        before: &[u8],
    ) -> Result<Result<Verdict, Fault>, JudgeError> {
        let table = &self.table;
        for _ in 0..DEADLINE_RETRIES {
            match instance.call(table.params_at(slot), table.state_at(slot), 1) {
                CallEnd::Judged { answers, .. } => {
                    let answer = instance.answers(answers).next();
                    return Ok(answer.map_or(Ok(Verdict::default()), |answer| verdict(instance.rule(), &answer)));
                }
                CallEnd::Fault(fault) => {
                    instance.replace()?;
                    return Ok(Err(fault));
                }
                CallEnd::Deadline => {
                    instance.replace()?;
                    table.set_state(instance, slot, before);
                }
            }
        }
        Err(JudgeError::Deadline)
    }
}

/// What an answer means.
fn verdict(rule: &Rule, answer: &Answer) -> Result<Verdict, Fault> {
    let manifest = rule.manifest();
    let known = if manifest.sleeps { abi::FIRE | abi::ASLEEP } else { abi::FIRE };
    if answer.code & !known != 0 {
        return Err(Fault::BadCode(answer.code));
    }
    let mut verdict = Verdict::default();
    if answer.code & abi::ASLEEP != 0 {
        verdict.band = Some(answer.band);
    }
    if answer.code & abi::FIRE != 0 {
        let numbers = answer.evidence.iter().take(manifest.evidence.len());
        if let Some(at) = numbers.clone().position(|number| !number.is_finite()) {
            return Err(Fault::BadEvidence(at));
        }
        verdict.evidence = Some(manifest.evidence.iter().cloned().zip(numbers.copied()).collect());
    }
    Ok(verdict)
}
