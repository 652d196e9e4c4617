//! All of a run: processes, the group that divides partitions among them, the log and the database, and what is known of when
//! what became durable.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use tocsin_bus::Assignment;
use tocsin_bus::simulated::{Gates, Outcome};
use tocsin_bus::simulated::{Poll, SimulatedLog, handover};
use tocsin_engine::domain::{Conditions, Symbol, Tick};
use tocsin_store::simulated::{Recorded, SimulatedDatabase, at_once};

use super::action::Action;
use super::process::{Answer, Process};
use super::rules::rules;
use crate::control::ControlError;
use crate::evaluator::tests::{BAD, GOOD, NOW_MS};

/// The sizes of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) partitions: u32,
    pub(super) symbols: usize,
    /// How many processes may run at once.
    pub(super) slots: usize,
    pub(super) workers: usize,
    /// Whether the first process is at work before anything else happens.
    pub(super) calm_start: bool,
    /// Whether alerts are promoted.
    pub(super) promotes: bool,
}

impl Shape {
    pub(super) fn of(random: &mut StdRng) -> Self {
        Self {
            partitions: random.random_range(1..=3),
            symbols: random.random_range(1..=3),
            slots: random.random_range(1..=2),
            workers: random.random_range(1..=2),
            calm_start: random.random_range(0..4) > 0,
            promotes: random.random_range(0..2) == 0,
        }
    }
}

/// The process to which the group assigns a partition.
#[derive(Debug)]
enum Owner {
    None,
    Process(u32),
    /// The process in this slot gets it once the handover is done.
    Moving(usize, Receiver<()>),
}

/// A client's request for an alert.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) symbols: Vec<usize>,
    pub(super) once: bool,
    /// Where partitions ended when it was first sent.
    pub(super) ends: Vec<u64>,
    /// The alert that a client was answered.
    pub(super) answered: Option<i64>,
}

/// When what became durable.
#[derive(Default)]
pub(super) struct History {
    pub(super) requests: Vec<Request>,
    /// Where partitions ended when alerts were stored.
    pub(super) created: BTreeMap<i64, Vec<u64>>,
    /// The newest firing when alerts were deleted.
    pub(super) deleted: BTreeMap<i64, u64>,
    /// Where partitions ended when alerts were on version 2.0.0 for the first time.
    pub(super) promoted: BTreeMap<i64, Vec<u64>>,
    /// Bindings that left quarantine by hand, each with the offset before which that took effect.
    pub(super) unquarantined: Vec<(i64, u64)>,
}

pub(super) struct World {
    pub(super) shape: Shape,
    pub(super) log: SimulatedLog,
    pub(super) database: SimulatedDatabase,
    pub(super) gates: Gates,
    pub(super) slots: Vec<Option<Process>>,
    owners: Vec<Owner>,
    next_process: u32,
    ticks: i64,
    /// What happened, in order.
    pub(super) trace: Vec<String>,
    pub(super) history: History,
}

pub(super) fn symbol(number: usize) -> Symbol {
    Symbol::parse(["A", "B", "C", "D"][number]).expect("it is a symbol")
}

impl World {
    pub(super) async fn new(shape: Shape) -> Self {
        let mut world = Self {
            shape,
            log: SimulatedLog::new("log-0", shape.partitions),
            database: SimulatedDatabase::new(&rules().versions),
            gates: Gates::default(),
            slots: (0..shape.slots).map(|_| None).collect(),
            owners: (0..shape.partitions).map(|_| Owner::None).collect(),
            next_process: 0,
            ticks: 0,
            trace: Vec::new(),
            history: History::default(),
        };
        world.start(0).await;
        if shape.calm_start {
            world.come_to_rest().await.expect("an evaluator starts");
        }
        world
    }

    /// Does what can be done of an action, and waits until nothing moves by itself.
    pub(super) async fn act(&mut self, action: &Action) -> Result<(), String> {
        self.trace.push(format!("{action:?}"));
        match action {
            Action::Release { slot, call, outcome } => self.release(*slot, call, *outcome),
            Action::Turn { slot, worker, records, one, checkpoint } => {
                self.turn(*slot, *worker, *records, *one, *checkpoint)?;
            }
            Action::Append { symbol, partition, ticks } => {
                ticks.iter().for_each(|good| self.append(*symbol, *partition, *good));
            }
            Action::Gap { partition } => self.log.skip(*partition, 2),
            Action::Create { slot, symbols, once } => self.create(*slot, symbols, *once),
            Action::Repeat { slot, request } => self.send_request(*slot, *request),
            Action::Delete { slot, alert } => self.with_api(*slot, |process| process.delete(*alert)),
            Action::Unquarantine { slot, alert } => self.with_api(*slot, |process| process.unquarantine(*alert)),
            Action::Promote { slot } => self.with_api(*slot, Process::promote),
            Action::Cancel { slot } => self.with_api(*slot, Process::cancel),
            Action::RollBack { slot } => self.with_api(*slot, Process::roll_back_abandoned),
            Action::ExpireLease => self.database.expire_leases(),
            Action::Notify { slot } => self.slots[*slot].iter().for_each(|process| process.store.notify()),
            Action::Mail { slot } => self.slots[*slot].iter_mut().for_each(|process| _ = process.deliver_mail()),
            Action::Move { partition, to, lost } => self.move_partition(*partition, *to, *lost),
            Action::Evict { partition } => self.evict(*partition),
            Action::Crash { slot } => self.crash(*slot),
            Action::Stop { slot } => self.stop(*slot)?,
            Action::Start { slot } => self.start(*slot).await,
            Action::Wait { ms } => tokio::time::sleep(Duration::from_millis(*ms)).await,
        }
        self.settle().await
    }

    /// Waits until nothing moves by itself, and takes up what has ended.
    pub(super) async fn settle(&mut self) -> Result<(), String> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.take_recorded();
        for slot in 0..self.slots.len() {
            self.take_answers(slot)?;
            self.take_ended(slot)?;
        }
        self.hand_over();
        Ok(())
    }

    fn take_answers(&mut self, slot: usize) -> Result<(), String> {
        while let Some(process) = &mut self.slots[slot]
            && let Some(answer) = process.calls.try_join_next()
        {
            match answer.map_err(|error| format!("an API call died: {error}"))? {
                Answer::Created { request, answer: Ok(alert) } => {
                    let before = self.history.requests[request].answered.replace(alert);
                    if before.is_some_and(|before| before != alert) {
                        return Err(format!("request {request} was answered {before:?} and {alert}"));
                    }
                }
                Answer::Deleted { alert, answer: Ok(()) } if !self.history.deleted.contains_key(&alert) => {
                    return Err(format!("the deletion of {alert} was answered and is not stored"));
                }
                Answer::Created { answer: Err(ControlError::Internal(why)), .. }
                | Answer::Deleted { answer: Err(ControlError::Internal(why)), .. }
                | Answer::Promoted(Err(ControlError::Internal(why))) => {
                    return Err(format!("an API call failed: {why}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A part of an evaluator that ended is an error, unless the process is stopping.
    fn take_ended(&mut self, slot: usize) -> Result<(), String> {
        while let Some(process) = &mut self.slots[slot]
            && let Some(ended) = process.tasks.try_join_next()
        {
            let ended = ended.map_err(|error| format!("a part of an evaluator died: {error}"))?;
            match ended {
                Err(error) if error.is_transient() && !process.has_begun() => {
                    self.crash(slot);
                    return Ok(());
                }
                ended => ended.map_err(|error| format!("a part of an evaluator failed: {error}"))?,
            }
            if !process.is_stopping() {
                return Err("a part of an evaluator ended early".into());
            }
        }
        if let Some(process) = &self.slots[slot]
            && process.is_stopping()
            && process.tasks.is_empty()
        {
            self.crash(slot);
        }
        Ok(())
    }

    fn take_recorded(&mut self) {
        let recorded = self.database.take_recorded();
        self.trace.extend(recorded.iter().map(|recorded| format!("    {recorded:?}")));
        if recorded.is_empty() {
            return;
        }
        let history = &mut self.history;
        for recorded in recorded {
            match recorded {
                Recorded::Created(alert) => _ = history.created.insert(alert.0, self.log.ends()),
                Recorded::Deleted(alert) => _ = history.deleted.insert(alert.0, self.database.newest_firing()),
                Recorded::Promoted => {
                    let bindings = self.database.bindings().into_iter();
                    for binding in bindings.filter(|binding| binding.rule_version == "2.0.0") {
                        history.promoted.entry(binding.alert).or_insert_with(|| self.log.ends());
                    }
                }
                Recorded::Checkpoint { next_offset, unquarantined, .. } => {
                    history.unquarantined.extend(unquarantined.iter().map(|binding| (binding.0, next_offset)));
                }
            }
        }
    }

    pub(super) fn number(&self, slot: usize) -> Option<u32> {
        self.slots[slot].as_ref().map(|process| process.number)
    }

    fn release(&mut self, slot: usize, call: &str, outcome: Outcome) {
        let Some(process) = &mut self.slots[slot] else { return };
        if self.gates.release(process.number, call, outcome) && outcome == Outcome::Unanswered {
            process.hangs = true;
        }
    }

    pub(super) fn turn(
        &mut self,
        slot: usize,
        worker: usize,
        records: usize,
        one: bool,
        checkpoint: bool,
    ) -> Result<(), String> {
        self.log.set_poll(Poll { records, turn: records + worker });
        let Some(process) = &mut self.slots[slot] else { return Ok(()) };
        let Some(worker) = process.workers.get_mut(worker) else { return Ok(()) };
        let time = if one { Duration::ZERO } else { Duration::from_secs(1_000) };
        worker.simulated_turn(time, checkpoint).map_err(|error| format!("a worker failed: {error}"))
    }

    fn append(&mut self, number: usize, partition: u32, good: bool) {
        // So far apart that no binding fires too often.
        self.ticks += 1;
        let (price, time_ms) = (if good { GOOD } else { BAD }, NOW_MS + self.ticks * 60_000);
        let tick = Tick::new(symbol(number), price, 1.0, time_ms, Conditions::default());
        self.log.append(partition, tick.expect("it is a tick"));
    }

    fn create(&mut self, slot: usize, symbols: &[usize], once: bool) {
        if self.slots[slot].as_ref().is_none_or(Process::is_stopping) {
            return;
        }
        let ends = self.log.ends();
        self.history.requests.push(Request { symbols: symbols.to_vec(), once, ends, answered: None });
        self.send_request(slot, self.history.requests.len() - 1);
    }

    fn send_request(&mut self, slot: usize, number: usize) {
        let Some(request) = self.history.requests.get(number).cloned() else { return };
        self.with_api(slot, |process| process.create(number, &request));
    }

    fn with_api(&mut self, slot: usize, call: impl FnOnce(&mut Process)) {
        if let Some(process) = self.slots[slot].as_mut().filter(|process| !process.is_stopping()) {
            call(process);
        }
    }

    pub(super) async fn start(&mut self, slot: usize) {
        if self.slots[slot].is_some() {
            return;
        }
        let number = self.next_process;
        self.next_process += 1;
        let (log, workers) = (self.log.clone(), self.shape.workers);
        let mut process = Process::start(number, workers, log, &self.database, &self.gates).await;
        let mut free = Vec::new();
        for (partition, owner) in (0..).zip(&mut self.owners) {
            if matches!(owner, Owner::None) {
                *owner = Owner::Process(number);
                free.push(partition);
            }
        }
        process.mail.push_back(Assignment::Assigned(free));
        self.slots[slot] = Some(process);
    }

    /// The process is gone: nothing of it happens any more.
    pub(super) fn crash(&mut self, slot: usize) {
        let Some(process) = self.slots[slot].take() else { return };
        self.gates.forget(process.number);
        for owner in &mut self.owners {
            if matches!(owner, Owner::Process(number) if *number == process.number) {
                *owner = Owner::None;
            }
        }
    }

    fn stop(&mut self, slot: usize) -> Result<(), String> {
        let Some(process) = self.slots[slot].as_mut().filter(|process| !process.is_stopping()) else { return Ok(()) };
        process.stop().map_err(|error| format!("a worker failed at its end: {error}"))
    }

    fn process(&mut self, number: u32) -> Option<&mut Process> {
        self.slots.iter_mut().flatten().find(|process| process.number == number)
    }

    /// The group gives a partition to another process.
    pub(super) fn move_partition(&mut self, partition: u32, to: usize, lost: bool) {
        let Some(next) = self.slots[to].as_ref().filter(|process| !process.is_stopping()) else { return };
        let next = next.number;
        match self.owners[partition as usize] {
            Owner::Process(owner) if owner == next => return,
            Owner::Process(owner) => {
                let (handover, done) = handover();
                let revoked = if lost {
                    Assignment::Lost(vec![partition])
                } else {
                    self.owners[partition as usize] = Owner::Moving(to, done);
                    Assignment::Revoked(vec![partition], handover)
                };
                self.process(owner).expect("an owner lives").mail.push_back(revoked);
                if !lost {
                    return;
                }
            }
            Owner::Moving(..) => return,
            Owner::None => {}
        }
        self.assign(partition, to);
    }

    fn assign(&mut self, partition: u32, to: usize) {
        let next = self.slots[to].as_mut().filter(|process| !process.is_stopping());
        self.owners[partition as usize] = match next {
            Some(process) => {
                process.mail.push_back(Assignment::Assigned(vec![partition]));
                Owner::Process(process.number)
            }
            None => Owner::None,
        };
    }

    /// The group waits no longer for a handover.
    fn evict(&mut self, partition: u32) {
        if let Owner::Moving(to, _) = self.owners[partition as usize] {
            self.assign(partition, to);
        }
    }

    /// Gives partitions on whose handover is done.
    fn hand_over(&mut self) {
        for partition in 0..self.shape.partitions {
            if let Owner::Moving(_, done) = &self.owners[partition as usize]
                && done.try_recv() == Err(TryRecvError::Disconnected)
            {
                self.evict(partition);
            }
        }
    }

    pub(super) fn free_partitions(&self) -> Vec<u32> {
        (0..).zip(&self.owners).filter(|(_, owner)| matches!(owner, Owner::None)).map(|(number, _)| number).collect()
    }

    /// All firings, with their sequence numbers.
    pub(super) fn firings(&self) -> Vec<(u64, tocsin_engine::domain::Firing)> {
        at_once(self.database.direct().firings_of_all(0, 1_000_000)).expect("the database is there")
    }
}
