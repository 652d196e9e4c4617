//! Another log, the last act of a run: the topic of ticks is deleted and created again, evaluation halts, an operator accepts
//! the new log, and evaluation goes on with it, while evaluators are killed.
//!
//! No reference run can follow that: the old log is gone. So this has a check of its own, which uses nothing of the product:
//! rules that count ticks must go on where they were, with each tick of the new log counted once, and fire at offsets that
//! may have fired before in the old log.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rdkafka::Message as _;
use reqwest::StatusCode;
use reqwest::blocking::Client;
use serde_json::{Value, json};
use tocsin_engine::GroupSnapshot;
use tocsin_proto::stock::StockTick;

use crate::compare::{Findings, keyed};
use crate::db::Db;
use crate::environment::{Environment, alert, await_ready};
use crate::halts::{ADVICE, accept_log};
use crate::load::Load;
use crate::processes::Process;
use crate::run::{PATIENCE, POLL, Progress, evaluated_ticks, is_done};
use crate::topics::{Topic, remake};

/// Runs with so many kills have both ways in which the log is exchanged; others have one, by their seed.
const KILLS_WITH_BOTH: usize = 100;

/// How long ticks come before and after a kill.
const LOAD_TIME: Duration = Duration::from_secs(2);

/// A counting rule fires at each eighth tick.
const TICKS_A_FIRING: f64 = 8.0;

/// One of them is away for a while.
const EVALUATORS: usize = 3;

/// The processes: evaluators first.
const ROLES: [(&str, usize); 3] = [("evaluate", EVALUATORS), ("deliver", 1), ("api", 1)];

/// The live bindings of rules that count.
const COUNTING: &str = r#"SELECT b.id || ' ' || b.symbol FROM bindings b JOIN alerts a ON a.id = b.alert_id
    WHERE a.rule_name IN ('tally', 'walk') AND b.status = 'active' AND b."partition" >= 0"#;

const STATES: &str = "SELECT s.symbol, s.records FROM group_states s
    JOIN rule_versions r ON (r.tenant, r.digest) = (s.tenant, s.rule_digest) WHERE r.name IN ('tally', 'walk')";

/// How the log is exchanged.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    /// While no process runs.
    AllDown,
    /// While all run but one evaluator.
    OneAway,
}

/// What a counting rule remembers of a binding.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
struct Tally {
    count: f64,
    sum: f64,
}

/// Goes on with other logs once everything has ended, and compares.
pub(crate) fn run(environment: &Environment, kills: usize, seed: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let ways = [How::AllDown, How::OneAway];
    let from = if kills < KILLS_WITH_BOTH { (seed % 2) as usize } else { 0 };
    let many = if kills < KILLS_WITH_BOTH { 1 } else { ways.len() };
    for (number, how) in ways.into_iter().skip(from).take(many).enumerate() {
        let seed = seed.wrapping_add(number as u64 + 1);
        let exchanged = Exchange::new(environment, seed)?.run(how, &mut findings);
        exchanged.with_context(|| format!("another log, {how:?}"))?;
    }
    Ok(findings)
}

struct Exchange<'a> {
    environment: &'a Environment,
    db: &'a Db,
    processes: Vec<Process>,
    rng: StdRng,
    seed: u64,
}

impl<'a> Exchange<'a> {
    fn new(environment: &'a Environment, seed: u64) -> anyhow::Result<Self> {
        let mut processes = Vec::new();
        for (role, many) in ROLES {
            for number in 0..many {
                processes.push(Process::new(environment, role, number)?);
            }
        }
        Ok(Self { environment, db: &environment.db, processes, rng: StdRng::seed_from_u64(seed), seed })
    }

    fn run(mut self, how: How, findings: &mut Findings) -> anyhow::Result<()> {
        let begun = Instant::now();
        let before = tallies(self.db)?;
        let recorded = self.db.number("SELECT coalesce(max(seq), 0) FROM firings")?;
        let away = self.rng.random_range(0..EVALUATORS);
        let brokers = &self.environment.stack.brokers;
        match how {
            How::AllDown => remake(brokers, &self.environment.ticks_topic())?,
            How::OneAway => {
                self.start_absent()?;
                self.processes.iter().try_for_each(|process| await_ready(process).map(drop))?;
                self.processes[away].stop()?;
                remake(brokers, &self.environment.ticks_topic())?;
            }
        }
        self.start_absent()?;
        self.await_halt()?;
        let load = Load::start(self.environment, self.seed)?;
        self.wait(LOAD_TIME)?;
        let api = self.processes.iter().find(|process| process.role == "api").context("there is an API")?;
        let url = await_ready(api)?;
        let symbol = self.environment.loaded().swap_remove(0);
        let request = alert("tally", &[symbol], &json!({}), "every");
        let refused = Client::new().post(format!("{url}/api/v1/alerts")).json(&request).send()?.status();
        ensure!(
            refused == StatusCode::SERVICE_UNAVAILABLE,
            "an alert was created on a log that is not accepted: {refused}"
        );
        let early = self.db.number(&format!("SELECT count(*) FROM firings WHERE seq > {recorded}"))?;
        ensure!(early == 0, "{early} firings were recorded on a log that is not accepted");
        let refused = accept_log(&url)?;
        ensure!(refused.is_none(), "`tocsin log accept` failed: {}", refused.unwrap_or_default());
        // Some have claimed their partitions in the new log by now, some have not.
        let wait_ms = self.rng.random_range(0..1000);
        self.wait(Duration::from_millis(wait_ms))?;
        let killed = (away + 1) % EVALUATORS;
        self.processes[killed].kill()?;
        self.processes[killed].start(self.environment, None)?;
        self.wait(LOAD_TIME)?;
        let ticks = load.stop()?;
        self.await_evaluation()?;
        self.processes.iter().try_for_each(|process| await_ready(process).map(drop))?;
        self.processes.iter_mut().try_for_each(Process::stop)?;
        println!("torture: another log, {how:?}: {ticks} ticks, {} s", begun.elapsed().as_secs());
        compare(self.environment, before, recorded, findings)
    }

    fn start_absent(&mut self) -> anyhow::Result<()> {
        let environment = self.environment;
        let mut absent = self.processes.iter_mut().filter(|process| process.is_absent());
        absent.try_for_each(|process| process.start(environment, None))
    }

    fn wait(&mut self, duration: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + duration;
        loop {
            for process in &mut self.processes {
                process.poll()?;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(POLL));
        }
    }

    /// Waits until each evaluator reports that it has halted, and what to do.
    fn await_halt(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let client = Client::new();
        let has_halted = |process: &Process| {
            let answer = process.url().and_then(|url| client.get(format!("{url}/health")).send().ok());
            answer.is_some_and(|answer| {
                answer.status() == StatusCode::SERVICE_UNAVAILABLE
                    && answer.text().is_ok_and(|text| text.contains(ADVICE))
            })
        };
        loop {
            let evaluators = self.processes.iter().filter(|process| process.role == "evaluate");
            let going_on: Vec<_> = evaluators.filter(|process| !has_halted(process)).map(|it| &it.name).collect();
            if going_on.is_empty() {
                return Ok(());
            }
            let logs = self.environment.folder.display();
            ensure!(begun.elapsed() < PATIENCE, "{going_on:?} do not report that the log is another one; see {logs}");
            self.wait(POLL)?;
        }
    }

    /// Waits until all of the new log is evaluated, and all that fired is published.
    fn await_evaluation(&mut self) -> anyhow::Result<()> {
        let ends = Topic::new(&self.environment.stack.brokers, self.environment.ticks_topic())?.ends()?;
        let (mut evaluation, mut delivery) = (Progress::default(), Progress::default());
        let logs = self.environment.folder.display();
        while !is_done(self.db, &ends)? {
            let moves = evaluation.is_made(evaluated_ticks(self.db)?);
            ensure!(moves, "evaluation of another log does not come to {ends:?}; see {logs}");
            self.wait(POLL)?;
        }
        loop {
            let undelivered = self.db.number("SELECT count(*) FROM outbox")?;
            if undelivered == 0 {
                return Ok(());
            }
            ensure!(delivery.is_made(undelivered), "{undelivered} firings are not published; see {logs}");
            self.wait(POLL)?;
        }
    }
}

/// Compares what counting rules fired and remember with the ticks of the new log.
fn compare(
    environment: &Environment,
    mut tallies: BTreeMap<String, Vec<(i64, Tally)>>,
    recorded: i64,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let mut expected = BTreeMap::new();
    Topic::new(&environment.stack.brokers, environment.ticks_topic())?.read(|message| {
        let tick = StockTick::decode(message.payload().unwrap_or_default())?;
        for (binding, tally) in tallies.get_mut(&tick.symbol).into_iter().flatten() {
            tally.count += 1.0;
            tally.sum += tick.price;
            if tally.count % TICKS_A_FIRING == 0.0 {
                expected.insert(format!("{binding}|{}|{}", message.partition(), message.offset()), *tally);
            }
        }
        Ok(())
    })?;
    let db = &environment.db;
    let counted = format!("FROM firings WHERE seq > {recorded} AND rule_name IN ('tally', 'walk')");
    let fired = keyed(
        db,
        &format!(r#"SELECT concat_ws('|', binding_id, "partition", "offset") || ' ' || evidence {counted}"#),
    )?;
    let fired = fired.into_iter().map(|(key, evidence)| Ok((key, evidence_of(&evidence)?)));
    findings.compare("another log: firings", &fired.collect::<anyhow::Result<_>>()?, &expected);
    let by_binding = |tallies: BTreeMap<String, Vec<(i64, Tally)>>| {
        tallies.into_values().flatten().map(|(binding, tally)| (binding.to_string(), tally)).collect()
    };
    findings.compare("another log: states", &by_binding(self::tallies(db)?), &by_binding(tallies));
    let twice = db.number(&format!(r#"SELECT count(*) - count(DISTINCT (binding_id, "offset")) {counted}"#))?;
    let again = db.number(&format!(
        r#"SELECT count(*) {counted} AND EXISTS (SELECT 1 FROM firings f WHERE f.seq <= {recorded}
           AND (f.binding_id, f."offset") = (firings.binding_id, firings."offset"))"#
    ))?;
    println!(
        "torture: another log: {twice} firings of a binding and a tick that has another one; {again} are at offsets at \
         which the binding had fired in the log before, under another id"
    );
    findings.count_doubled(twice as usize);
    Ok(())
}

/// What rules that count remember of their live bindings, by symbol.
fn tallies(db: &Db) -> anyhow::Result<BTreeMap<String, Vec<(i64, Tally)>>> {
    let mut saved = BTreeMap::new();
    for (_, bytes) in db.records(STATES)? {
        for binding in GroupSnapshot::unpack(&bytes)? {
            let number = |at: usize| -> anyhow::Result<f64> {
                let bytes = binding.state.get(at..at + 8).context("a tally has two numbers")?;
                Ok(f64::from_le_bytes(bytes.try_into()?))
            };
            saved.insert(binding.binding.0, Tally { count: number(0)?, sum: number(8)? });
        }
    }
    let mut tallies: BTreeMap<String, Vec<(i64, Tally)>> = BTreeMap::new();
    for row in db.texts(COUNTING)? {
        let (id, symbol) = row.split_once(' ').context("a row has two columns")?;
        let id = id.parse()?;
        tallies.entry(symbol.to_owned()).or_default().push((id, saved.get(&id).copied().unwrap_or_default()));
    }
    Ok(tallies)
}

/// The two numbers that a counting rule gives as evidence.
fn evidence_of(text: &str) -> anyhow::Result<Tally> {
    let evidence: Value = serde_json::from_str(text)?;
    let number = |at: usize| evidence[at][1].as_f64().with_context(|| format!("{text} is no tally"));
    Ok(Tally { count: number(0)?, sum: number(1)? })
}
