//! Evaluating a group: which of its bindings a tick concerns, the calls into the sandbox, and what the answers mean.
//!
//! Bindings are evaluated together, many in a call. Those that faulted of late, and those of a call that faulted, are
//! evaluated [apart](crate::apart). The work on one tick is done in steps, each a few milliseconds at most, so that others
//! can have a turn.

use tocsin_rules_sdk::abi;

use crate::apart::{ApartError, Place, Records};
use crate::domain::{Evidence, Repeat, Tick};
use crate::fault::Fault;
use crate::group::Group;
use crate::inject::MAX_LISTED;
use crate::instance::{Answer, Answered, CallEnd, Instance, MemoryError};
use crate::limits::{FUEL_PER_CALL, MAX_CALL_STATE_BYTES};
use crate::pace::Pace;
use crate::purity::{self, Audit};
use crate::runtime::Rule;
use crate::wake::Band;

/// Which bindings are evaluated on a tick.
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
    /// It fired more often than a binding may: nothing is recorded.
    Suppressed,
    Faulted {
        fault: Fault,
        quarantined: bool,
        /// What it was evaluated with, and left with.
        params: Vec<u8>,
        state: Vec<u8>,
    },
    Recovered,
}

/// The engine itself could not evaluate.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// No instance of a rule could be made.
    #[error("no instance of a rule could be made: {0}")]
    Memory(String),
    /// Calls that fuel bounds to milliseconds took seconds, again and again.
    #[error("this machine is too slow to evaluate: {0}")]
    Deadline(String),
    /// The caller did not want to go on in the middle of a tick. The states of its bindings are those of no offset.
    #[error("evaluation was interrupted in the middle of a tick")]
    Interrupted,
}

impl From<MemoryError> for EvaluateError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error.to_string())
    }
}

impl From<ApartError> for EvaluateError {
    fn from(error: ApartError) -> Self {
        match error {
            ApartError::Memory(error) => error.into(),
            ApartError::Deadline => Self::Deadline(error.to_string()),
        }
    }
}

/// Memory that evaluating needs again and again.
#[derive(Default)]
pub(crate) struct Scratch {
    /// Evaluations, counted up.
    pub(crate) evaluations: u64,
    /// Fuel, counted up.
    pub(crate) fuel: u64,
    slots: Vec<u32>,
    outcomes: Vec<(usize, Outcome)>,
    fired: Vec<Fired>,
    bands: Vec<(usize, Band)>,
    /// The states of a call's bindings before it.
    before: Vec<u8>,
    /// The records of one binding.
    params: Vec<u8>,
    after: Vec<u8>,
    addresses: Vec<(u32, u32)>,
}

/// A binding that fired in a call.
struct Fired {
    /// Its place in the call.
    at: usize,
    answer: Answer,
    evidence: Evidence,
}

/// One tick, and how it is evaluated.
pub(crate) struct Round<'a> {
    pub(crate) tick: &'a Tick,
    pub(crate) waking: Waking,
    pub(crate) firings_at_once: u32,
    pub(crate) audit: &'a mut Audit,
    pub(crate) scratch: &'a mut Scratch,
}

/// A group's work on one tick, as far as it is done.
pub(crate) struct Work {
    /// In the order of slots.
    pub(crate) outcomes: Vec<(usize, Outcome)>,
    /// The slots; None for all of them.
    listed: Option<Vec<u32>>,
    count: usize,
    next: usize,
    /// Up to here, bindings are evaluated apart: their call faulted.
    apart_until: usize,
}

impl Work {
    pub(crate) fn is_done(&self) -> bool {
        self.next == self.count
    }

    /// How many bindings were evaluated so far.
    pub(crate) fn evaluated(&self) -> u64 {
        self.next as u64
    }

    /// Gives its memory back.
    pub(crate) fn end(self, scratch: &mut Scratch) {
        scratch.outcomes = self.outcomes;
        scratch.slots = self.listed.unwrap_or(std::mem::take(&mut scratch.slots));
    }

    fn slot(&self, at: usize) -> usize {
        self.listed.as_ref().map_or(at, |slots| slots[at] as usize)
    }
}

/// Neighbours in the order of a group's work, evaluated by one call.
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
    /// Begins with a tick: which of the bindings it concerns. None if it concerns none of them.
    pub(crate) fn begin(&mut self, instance: &mut Instance, round: &mut Round<'_>) -> Option<Work> {
        let mut listed = None;
        let mut count = self.slots.len();
        if let Some(sleepers) = self.sleepers.as_mut().filter(|_| round.waking != Waking::Naive) {
            sleepers.wake(round.tick.price, round.tick.time_ms);
            if round.waking == Waking::Indexed && sleepers.awake().len() < count {
                count = sleepers.awake().len();
                if count > 0 {
                    let mut slots = std::mem::take(&mut round.scratch.slots);
                    slots.clear();
                    slots.extend_from_slice(sleepers.awake());
                    // Neighbours lie in one cache line.
                    slots.sort_unstable();
                    listed = Some(slots);
                }
            }
        }
        if count == 0 {
            return None;
        }
        self.changed |= self.table.state_bytes > 0;
        round.scratch.evaluations += count as u64;
        instance.set_tick(round.tick);
        let mut outcomes = std::mem::take(&mut round.scratch.outcomes);
        outcomes.clear();
        Some(Work { outcomes, listed, count, next: 0, apart_until: 0 })
    }

    /// Goes on with a tick, by one call or by some evaluations apart. A binding without an outcome held.
    pub(crate) fn step(
        &mut self,
        instance: &mut Instance,
        round: &mut Round<'_>,
        work: &mut Work,
    ) -> Result<(), EvaluateError> {
        if work.next < work.apart_until || self.suspects.contains_key(&work.slot(work.next)) {
            self.step_apart(instance, round, work)
        } else {
            self.step_together(instance, round, work)
        }
    }

    fn step_together(
        &mut self,
        instance: &mut Instance,
        round: &mut Round<'_>,
        work: &mut Work,
    ) -> Result<(), EvaluateError> {
        let listed = work.listed.take();
        let rest = match &listed {
            Some(slots) => Chunk::Listed(&slots[work.next..]),
            None => Chunk::Range(work.next, work.count - work.next),
        };
        let mut chunk = self.one_call(instance.rule(), rest);
        self.copy_states(instance, chunk, &mut round.scratch.before);
        let good = match self.call(instance, chunk, &mut round.scratch.addresses) {
            CallEnd::Evaluated(Answered { bindings, answers, fuel }) => {
                chunk = chunk.up_to(bindings as usize);
                round.scratch.fuel += instance.rule().fuel_of(bindings.into(), fuel);
                self.take_answers(instance, chunk, answers, round).then_some(answers)
            }
            CallEnd::Fault(_) | CallEnd::Deadline => {
                instance.reset();
                // The guest may not have written to the tick; what the host cannot prove it does again.
                instance.set_tick(round.tick);
                None
            }
        };
        let settled = if let Some(answers) = good {
            self.settle_answers(instance, chunk, answers, round, work).map(|settled| work.next += settled)
        } else {
            // One of them is at fault: put the states back and evaluate each apart, so that the others get the very
            // answers that they would have had.
            let state_bytes = self.table.state_bytes.max(1);
            for (at, state) in round.scratch.before.chunks(state_bytes).enumerate().take(chunk.len()) {
                self.table.set_state(instance, chunk.slot(at), state);
            }
            work.apart_until = work.next + chunk.len();
            Ok(())
        };
        work.listed = listed;
        settled
    }

    /// As many of some bindings as one call takes: side by side, without suspects, and within its bounds.
    fn one_call<'a>(&self, rule: &Rule, rest: Chunk<'a>) -> Chunk<'a> {
        let by_state = MAX_CALL_STATE_BYTES.checked_div(self.table.state_bytes).unwrap_or(usize::MAX).max(1);
        let most = by_state.min(rule.bindings_per_call());
        match rest {
            Chunk::Range(first, _) => {
                let most = most.min(self.table.side_by_side(first));
                let to_suspect = self.suspects.range(first..).next().map_or(usize::MAX, |(slot, _)| slot - first);
                rest.up_to(most.min(to_suspect))
            }
            Chunk::Listed(slots) => {
                let most = most.min(MAX_LISTED);
                let is_suspect = |slot: &u32| self.suspects.contains_key(&(*slot as usize));
                let to_suspect =
                    if self.suspects.is_empty() { None } else { slots.iter().take(most).position(is_suspect) };
                rest.up_to(to_suspect.unwrap_or(most))
            }
        }
    }

    fn copy_states(&self, instance: &Instance, chunk: Chunk<'_>, before: &mut Vec<u8>) {
        let (table, bytes) = (&self.table, self.table.state_bytes);
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

    /// Reads the answers of one call into the scratch memory; false if one of them is no valid verdict, or breaks a promise
    /// to sleep on.
    fn take_answers(&self, instance: &Instance, chunk: Chunk<'_>, answers: u32, round: &mut Round<'_>) -> bool {
        let Scratch { fired, bands, before, .. } = &mut *round.scratch;
        fired.clear();
        bands.clear();
        for answer in instance.answers(answers) {
            let at = answer.slot as usize;
            let Ok(verdict) = verdict(instance.rule(), &answer) else { return false };
            fired.extend(verdict.evidence.map(|evidence| Fired { at, answer, evidence }));
            bands.extend(verdict.band.map(|band| (at, band)));
        }
        round.waking != Waking::Checked || {
            let state_bytes = self.table.state_bytes;
            (0..chunk.len()).all(|at| {
                let (slot, before) = (chunk.slot(at), &before[at * state_bytes..][..state_bytes]);
                let kept = fired.iter().all(|fired| fired.at != at) && self.table.state(instance, slot) == before;
                kept || !self.sleeps(slot)
            })
        }
    }

    /// Makes outcomes of what [`Self::take_answers`] has read: each firing is evaluated again before it counts, and a sample
    /// of the others. Returns for how many of the bindings, from the first on, that was done; the others are as before.
    fn settle_answers(
        &mut self,
        instance: &mut Instance,
        chunk: Chunk<'_>,
        answers: u32,
        round: &mut Round<'_>,
        work: &mut Work,
    ) -> Result<usize, EvaluateError> {
        let (fired, bands) = (std::mem::take(&mut round.scratch.fired), std::mem::take(&mut round.scratch.bands));
        let audited = round.audit.pick(chunk.len()).filter(|at| fired.iter().all(|fired| fired.at != *at));
        let fuel_before = round.scratch.fuel;
        let mut settled = chunk.len();
        for Fired { at, answer, evidence } in &fired {
            // Evaluating again may be dearer than the call was: then those that are left are evaluated in the next step.
            if round.scratch.fuel - fuel_before >= FUEL_PER_CALL {
                settled = *at;
                break;
            }
            let slot = chunk.slot(*at);
            if !self.may_fire(slot, round) {
                work.outcomes.push((slot, Outcome::Suppressed));
            } else if self.check_again(instance, (slot, *at), Some(*answer), round, work)? {
                work.outcomes.push((slot, Outcome::Fired(evidence.clone())));
            }
        }
        if let Some(at) = audited.filter(|at| *at < settled) {
            let first = instance.answers(answers).find(|answer| answer.slot as usize == at);
            self.check_again(instance, (chunk.slot(at), at), first, round, work)?;
        }
        let state_bytes = self.table.state_bytes;
        for at in settled..chunk.len() {
            if let Some(before) = round.scratch.before.get(at * state_bytes..(at + 1) * state_bytes) {
                self.table.set_state(instance, chunk.slot(at), before);
            }
        }
        for (at, band) in bands.iter().filter(|(at, _)| *at < settled) {
            let slot = chunk.slot(*at);
            // One that has just faulted is awake.
            if !self.suspects.contains_key(&slot) {
                self.put_to_sleep(slot, *band, round.tick, round.waking);
            }
        }
        (round.scratch.fired, round.scratch.bands) = (fired, bands);
        Ok(settled)
    }

    /// Evaluates a slot again apart, which a call has evaluated as number `at`. False if it differs: then the binding
    /// faults.
    fn check_again(
        &mut self,
        instance: &mut Instance,
        (slot, at): (usize, usize),
        first: Option<Answer>,
        round: &mut Round<'_>,
        work: &mut Work,
    ) -> Result<bool, EvaluateError> {
        let Scratch { before, params, after, fuel, .. } = &mut *round.scratch;
        let state_bytes = self.table.state_bytes;
        let before = before.get(at * state_bytes..(at + 1) * state_bytes).unwrap_or_default();
        copy(self.table.params(instance, slot), params);
        copy(self.table.state(instance, slot), after);
        let records = Records { params, state: before, place: self.place(slot) };
        let rule = instance.rule().clone();
        let (impurity, burnt) = purity::check(instance.apart()?, &rule, round.tick, records, first, after)?;
        *fuel += burnt;
        if let Some(impurity) = impurity {
            self.fault(instance, slot, Fault::Impure(impurity.differed), before, work);
            return Ok(false);
        }
        Ok(true)
    }

    /// Evaluates one binding after the other on an instance of their own, as many as one step takes.
    fn step_apart(
        &mut self,
        instance: &mut Instance,
        round: &mut Round<'_>,
        work: &mut Work,
    ) -> Result<(), EvaluateError> {
        let (most, mut left) = (instance.rule().bindings_per_call(), FUEL_PER_CALL);
        for _ in 0..most {
            let slot = work.slot(work.next);
            let fuel = self.evaluate_apart(instance, slot, round, work)?;
            round.scratch.fuel += fuel;
            work.next += 1;
            left = left.saturating_sub(fuel);
            let goes_on =
                !work.is_done() && (work.next < work.apart_until || self.suspects.contains_key(&work.slot(work.next)));
            if left == 0 || !goes_on {
                break;
            }
        }
        Ok(())
    }

    /// Evaluates one binding apart, and returns the fuel that it burnt. A firing is evaluated once more: the first time the
    /// rule may have looked at where its records lie.
    fn evaluate_apart(
        &mut self,
        instance: &mut Instance,
        slot: usize,
        round: &mut Round<'_>,
        work: &mut Work,
    ) -> Result<u64, EvaluateError> {
        let Scratch { before, params, .. } = &mut *round.scratch;
        copy(self.table.params(instance, slot), params);
        copy(self.table.state(instance, slot), before);
        let records = Records { params, state: before, place: self.place(slot) };
        let rule = instance.rule().clone();
        let apart = instance.apart()?;
        let evaluated = apart.evaluate(round.tick, records)?;
        let first = evaluated.answer;
        let mut answer = first.clone().and_then(|answer| answer.map_or(Ok(Verdict::default()), |a| verdict(&rule, &a)));
        if round.waking == Waking::Checked
            && let Some(band) = self.sleepers.as_ref().and_then(|sleepers| sleepers.band(slot))
        {
            let kept = |verdict: &Verdict| verdict.evidence.is_none() && apart.state() == before;
            answer = answer.ok().filter(kept).ok_or(Fault::Overslept(band));
        }
        let after = std::mem::take(apart.state_mut());
        let mut fuel = evaluated.fuel;
        if answer.as_ref().is_ok_and(|verdict| verdict.evidence.is_some()) {
            let first = first.ok().flatten();
            let (impurity, burnt) = purity::check(apart, &rule, round.tick, records, first, &after)?;
            fuel += burnt;
            if let Some(impurity) = impurity {
                answer = Err(Fault::Impure(impurity.differed));
            }
        }
        match answer {
            Ok(verdict) => {
                self.table.set_state(instance, slot, &after);
                self.count_good(slot, work);
                if let Some(evidence) = verdict.evidence {
                    let fires = self.may_fire(slot, round);
                    work.outcomes.push((slot, if fires { Outcome::Fired(evidence) } else { Outcome::Suppressed }));
                }
                if let Some(band) = verdict.band {
                    self.put_to_sleep(slot, band, round.tick, round.waking);
                }
            }
            Err(fault) => self.fault(instance, slot, fault, before, work),
        }
        *instance.apart()?.state_mut() = after;
        Ok(fuel)
    }

    fn place(&self, slot: usize) -> Place {
        Place { params_at: self.table.params_at(slot), state_at: self.table.state_at(slot) }
    }

    /// Records a fault: the state is what it was before.
    fn fault(&mut self, instance: &mut Instance, slot: usize, fault: Fault, before: &[u8], work: &mut Work) {
        self.table.set_state(instance, slot, before);
        let mut health = self.health(slot);
        let quarantined = match &fault {
            Fault::Impure(_) => {
                health.condemn();
                true
            }
            _ => health.faulted(),
        };
        self.set_health(slot, health);
        let (params, state) = (self.table.params(instance, slot).to_vec(), before.to_vec());
        work.outcomes.push((slot, Outcome::Faulted { fault, quarantined, params, state }));
    }

    /// A good evaluation gets a binding that faulted a step away from quarantine.
    fn count_good(&mut self, slot: usize, work: &mut Work) {
        let Some(mut health) = self.suspects.get(&slot).copied() else { return };
        if health.succeeded() {
            work.outcomes.push((slot, Outcome::Recovered));
        }
        self.set_health(slot, health);
    }

    /// Whether a firing is recorded, which counts it.
    fn may_fire(&mut self, slot: usize, round: &Round<'_>) -> bool {
        let time_ms = round.tick.time_ms;
        let member = &self.slots[slot];
        if member.repeat == Repeat::Once {
            return true;
        }
        // What is remembered changes even where there is no state.
        self.changed = true;
        let pace = self.paces.entry(member.binding).or_insert(Pace::rested(time_ms));
        pace.fire(time_ms, round.firings_at_once)
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
}

fn copy(from: &[u8], to: &mut Vec<u8>) {
    to.clear();
    to.extend_from_slice(from);
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
