//! A run, from the curtain to the verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::another_log;
use crate::clients::{ClientReport, Clients};
use crate::compare::{self, Findings};
use crate::db::Db;
use crate::environment::{Environment, await_ready};
use crate::load::Load;
use crate::plan::{Action, ROLES, failpoints_of, plan, promotions_of};
use crate::processes::Process;
use crate::reference;
use crate::stack::Stack;
use crate::topics::Topic;

/// How long a process is held still: longer than a session, a lease and a lock, the longest of which is 10 s.
const PAUSE: Duration = Duration::from_secs(13);

/// How long a part of the stack is away.
const PART_AWAY: Duration = Duration::from_secs(3);

/// After so many steps evaluation must have come as far as the topic was: kills must meet work, not ruins.
const STEPS_BETWEEN_WAITS: usize = 32;

/// How long anything that must happen may take, and a number that must move may stand still.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// How long a process waits for its failpoint before the others of its role make room for it.
pub(crate) const FAILPOINT_PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const POLL: Duration = Duration::from_millis(100);

/// Runs with so many kills; whether nothing was lost, doubled or different.
pub(crate) fn run(kills: usize, seed: u64) -> anyhow::Result<bool> {
    let stack = Stack::find()?;
    let steps = plan(kills, seed, cfg!(feature = "failpoints"), stack.own_brokers());
    let environment = Environment::make(stack, promotions_of(&steps))?;
    environment.set_up()?;
    let mut run = Run::begin(&environment, seed)?;
    let load = Load::start(&environment, seed)?;
    let api = run.processes.iter().find(|process| process.role == "api").context("there is an API")?;
    let clients = Clients::start(&environment, &api.log(), seed, &load)?;
    for (step, (action, wait_ms)) in steps.iter().enumerate() {
        run.act(action, &clients).with_context(|| format!("{action:?}"))?;
        run.wait(Duration::from_millis(*wait_ms))?;
        if (step + 1) % STEPS_BETWEEN_WAITS == 0 {
            run.await_evaluation()?;
            run.report()?;
        }
    }
    run.await_failpoints()?;
    run.report()?;
    let report = clients.stop()?;
    let mut findings = run.end(load)?;
    let missed: Vec<_> = failpoints_of(&steps).into_iter().filter(|name| !run.died_at.contains_key(name)).collect();
    ensure!(missed.is_empty(), "no process died at {missed:?}");
    println!("torture: died at failpoints: {:?}", run.died_at);
    println!(
        "torture: {} promotions were cancelled; partitions that halted and were accepted: {:?}",
        run.cancelled, run.accepted
    );
    compare::accepted(&environment, &run.accepted, &mut findings)?;
    drop(run);
    report_clients(&report);
    compare::created(&environment, &report, &mut findings)?;
    reference::run(&environment)?;
    compare::databases(&environment, &mut findings)?;
    compare::deliveries(&environment, &mut findings)?;
    // The reference has no part in that: if there is a difference already, the old log is left to be looked at.
    if findings.are_none() {
        findings += another_log::run(&environment, kills, seed)?;
        compare::deliveries(&environment, &mut findings)?;
    }
    if findings.are_none() {
        environment.tear_down(report.fresh_symbols)?;
    } else {
        println!("torture: the logs are in {}", environment.folder.display());
    }
    Ok(findings.are_none())
}

pub(crate) struct Run<'a> {
    pub(crate) environment: &'a Environment,
    pub(crate) processes: Vec<Process>,
    ticks: Topic,
    /// For what depends on how things went.
    rng: StdRng,
    killed: usize,
    died_at: BTreeMap<&'static str, usize>,
    others: usize,
    /// Promotions that were cancelled.
    pub(crate) cancelled: usize,
    /// Partitions that halted and were accepted.
    pub(crate) accepted: BTreeSet<String>,
    begun: Instant,
}

impl<'a> Run<'a> {
    fn begin(environment: &'a Environment, seed: u64) -> anyhow::Result<Self> {
        let ticks = Topic::new(&environment.stack.brokers, environment.ticks_topic())?;
        let mut processes = Vec::new();
        for (role, many) in ROLES {
            for number in 0..many {
                let mut process = Process::new(environment, role, number)?;
                process.start(environment, None)?;
                processes.push(process);
            }
        }
        processes.iter().try_for_each(|process| await_ready(process).map(drop))?;
        let rng = StdRng::seed_from_u64(!seed);
        let begun = Instant::now();
        Ok(Self {
            environment,
            processes,
            ticks,
            rng,
            killed: 0,
            died_at: BTreeMap::new(),
            others: 0,
            cancelled: 0,
            accepted: BTreeSet::new(),
            begun,
        })
    }

    fn act(&mut self, action: &Action, clients: &Clients) -> anyhow::Result<()> {
        match action {
            Action::Kill(chosen) => {
                let chosen = self.nearest(*chosen, |process| !process.is_absent() && process.failpoint().is_none());
                self.processes[chosen].kill()?;
                self.processes[chosen].start(self.environment, None)?;
                self.killed += 1;
            }
            Action::FailAt(role, name, passes) => {
                let first =
                    self.processes.iter().position(|process| process.role == *role).context("a role has processes")?;
                let many = self.processes.iter().filter(|process| process.role == *role).count();
                let is_free = |process: &Process| process.role == *role && process.failpoint().is_none();
                self.await_process(is_free).with_context(|| format!("all {many} of {role} wait to die"))?;
                let chosen = first + self.rng.random_range(0..many);
                let chosen = self.nearest(chosen, is_free);
                self.processes[chosen].stop()?;
                self.processes[chosen].start(self.environment, Some((name, *passes)))?;
            }
            Action::Pause(chosen) => {
                let chosen = self.nearest(*chosen, Process::is_running);
                self.processes[chosen].pause(PAUSE)?;
            }
            Action::Stop(chosen) => {
                let chosen = self.nearest(*chosen, Process::is_running);
                self.processes[chosen].stop()?;
                self.processes[chosen].start(self.environment, None)?;
            }
            Action::JoinOrLeave => {
                let guest =
                    self.processes.iter().rposition(|process| process.role == "evaluate").context("evaluators")?;
                if self.processes[guest].is_running() {
                    self.processes[guest].stop()?;
                } else if self.processes[guest].is_absent() {
                    self.processes[guest].start(self.environment, None)?;
                }
            }
            Action::Part(action, part) => {
                self.environment.stack.change(action, part)?;
                self.wait(PART_AWAY)?;
                self.environment.stack.change("start", part)?;
            }
            Action::FirstTicks(script) => clients.play_first_ticks(*script),
            Action::Promote => clients.promote(),
            Action::HoldNotifications(chosen, duration_ms) => {
                self.processes[*chosen].hold_notifications(Duration::from_millis(*duration_ms));
            }
            Action::CancelPromotion => self.cancel_promotion(clients.requested_version())?,
            Action::HaltPartition(chosen) => self.halt_partition(*chosen)?,
        }
        self.others += usize::from(!matches!(action, Action::Kill(_) | Action::FailAt(..)));
        Ok(())
    }

    /// Waits until there is a process that will do.
    fn await_process(&mut self, will_do: impl Fn(&Process) -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !self.processes.iter().any(&will_do) {
            ensure!(begun.elapsed() < FAILPOINT_PATIENCE + PATIENCE, "no process became free");
            self.wait(POLL)?;
        }
        Ok(())
    }

    /// The chosen process, or the next one that will do, or else the chosen.
    fn nearest(&self, chosen: usize, will_do: impl Fn(&Process) -> bool) -> usize {
        let round = (0..self.processes.len()).map(|i| (chosen + i) % self.processes.len());
        round.into_iter().find(|i| will_do(&self.processes[*i])).unwrap_or(chosen)
    }

    /// Waits, and looks after everybody meanwhile.
    pub(crate) fn wait(&mut self, duration: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + duration;
        while Instant::now() < until {
            self.poll_all()?;
            std::thread::sleep(until.saturating_duration_since(Instant::now()).min(POLL));
        }
        Ok(())
    }

    fn poll_all(&mut self) -> anyhow::Result<()> {
        for process in &mut self.processes {
            if let Some(name) = process.poll()? {
                *self.died_at.entry(name).or_default() += 1;
                process.start(self.environment, None)?;
            }
        }
        Ok(())
    }

    /// Waits until evaluation has come to where the topic ends now.
    fn await_evaluation(&mut self) -> anyhow::Result<()> {
        self.wait_for(is_at)
    }

    fn wait_for(&mut self, is_there: fn(&Db, &[i64]) -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let ends = self.ticks.ends()?;
        let mut progress = Progress::default();
        while !is_there(&self.environment.db, &ends)? {
            let moves = progress.is_made(evaluated_ticks(&self.environment.db)?);
            ensure!(moves, "evaluation does not come to {ends:?}; see {}", self.logs());
            self.wait(POLL)?;
        }
        Ok(())
    }

    /// Waits until everybody has died who is to die, for which others of their role may have to make room.
    fn await_failpoints(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        while let Some(waiting) = self.processes.iter().find(|process| process.failpoint().is_some()) {
            let (role, name) = (waiting.role, waiting.failpoint());
            self.wait(POLL)?;
            if begun.elapsed() > FAILPOINT_PATIENCE {
                let mut others =
                    self.processes.iter_mut().filter(|process| process.role == role && process.failpoint().is_none());
                others.try_for_each(Process::stop)?;
            }
            ensure!(begun.elapsed() < FAILPOINT_PATIENCE + PATIENCE, "no process came to {name:?}");
        }
        for process in self.processes.iter_mut().filter(|process| process.is_absent()) {
            process.start(self.environment, None)?;
        }
        Ok(())
    }

    fn report(&self) -> anyhow::Result<()> {
        let firings = self.environment.db.number("SELECT count(*) FROM firings")?;
        let undelivered = self.environment.db.number("SELECT count(*) FROM outbox")?;
        let epochs = self.environment.db.number("SELECT sum(epoch)::bigint FROM partitions")?;
        println!(
            "torture: {} s: {} killed, {} died at failpoints, {} other acts; {} ticks, {firings} firings, {undelivered} to be \
             published, {epochs} claims",
            self.begun.elapsed().as_secs(),
            self.killed,
            self.died_at.values().sum::<usize>(),
            self.others,
            self.ticks.ends()?.iter().sum::<i64>()
        );
        Ok(())
    }

    /// No more ticks; everything is evaluated, published and projected; everybody ends in order.
    fn end(&mut self, load: Load) -> anyhow::Result<Findings> {
        for process in self.processes.iter_mut().filter(|process| process.role == "ingest") {
            process.stop()?;
        }
        load.stop()?;
        self.wait_for(is_done)?;
        let mut progress = Progress::default();
        loop {
            let undelivered = self.environment.db.number("SELECT count(*) FROM outbox")?;
            if undelivered == 0 {
                break;
            }
            ensure!(progress.is_made(undelivered), "{undelivered} firings are not published; see {}", self.logs());
            self.wait(POLL)?;
        }
        let api = self.processes.iter().find(|process| process.role == "api").context("there is an API")?;
        let url = await_ready(api)?;
        let begun = Instant::now();
        let findings = loop {
            let findings = compare::prices(self.environment, &url)?;
            if findings.are_none() || begun.elapsed() > PATIENCE {
                break findings;
            }
            self.wait(Duration::from_secs(2))?;
        };
        for process in &mut self.processes {
            process.stop()?;
        }
        Ok(findings)
    }

    pub(crate) fn logs(&self) -> String {
        self.environment.folder.display().to_string()
    }
}

fn report_clients(report: &ClientReport) {
    let ClientReport { created, deleted, version, again, fresh_symbols } = report;
    println!(
        "torture: meanwhile {} alerts were created, {deleted} of them deleted, on {fresh_symbols} fresh symbols among \
         others, and a rule promoted {} times; {again} requests were made again",
        created.len(),
        version - 1
    );
}

/// How many ticks are evaluated in checkpoints.
pub(crate) fn evaluated_ticks(db: &Db) -> anyhow::Result<i64> {
    db.number("SELECT coalesce(sum(next_offset), 0)::bigint FROM partitions")
}

/// Whether a number moves: a busy machine is slow, and only what stands still is stuck.
#[derive(Default)]
pub(crate) struct Progress(Option<(i64, Instant)>);

impl Progress {
    /// False once the number is what it was [`PATIENCE`] ago.
    pub(crate) fn is_made(&mut self, number: i64) -> bool {
        match self.0 {
            Some((before, since)) if before == number => since.elapsed() < PATIENCE,
            _ => {
                self.0 = Some((number, Instant::now()));
                true
            }
        }
    }
}

/// Whether checkpoints have come to these ends.
pub(crate) fn is_at(db: &Db, ends: &[i64]) -> anyhow::Result<bool> {
    let rows = db.texts(r#"SELECT "partition" || ' ' || next_offset FROM partitions"#)?;
    let mut at = BTreeMap::new();
    for row in &rows {
        let (partition, offset) = row.split_once(' ').context("a row has two numbers")?;
        at.insert(partition.parse::<usize>()?, offset.parse::<i64>()?);
    }
    Ok(ends.iter().enumerate().all(|(partition, end)| at.get(&partition).is_some_and(|offset| offset >= end)))
}

/// Whether they know of every change as well: an alert that was heard of behind its first tick has caught up. Where symbols
/// are at home is known by the time that checkpoints have come to the ends, and not before.
pub(crate) fn is_done(db: &Db, ends: &[i64]) -> anyhow::Result<bool> {
    let behind = "SELECT count(*) FROM partitions WHERE revision < (SELECT newest FROM revisions)";
    Ok(is_at(db, ends)? && db.number(behind)? == 0)
}
