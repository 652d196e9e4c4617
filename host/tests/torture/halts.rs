//! Partitions that halt until an operator acts, and promotions that are cancelled.
//!
//! A partition halts where its log ends before an offset that the store refers to. No record of the log may be lost, which
//! the reference needs, so the store is made to refer to an offset far ahead. Whoever claims the partition next finds that.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use reqwest::StatusCode;
use reqwest::blocking::Client;
use serde_json::{Value, json};

use crate::run::{FAILPOINT_PATIENCE, PATIENCE, POLL, Run};

/// What an operator reads where evaluation has halted.
pub(crate) const ADVICE: &str = "tocsin log accept";

/// Records that the log seems to have lost: more than a run has.
const LOST_RECORDS: i64 = 1_000_000_000;

/// Partitions that a promotion needs.
const PROMOTED: &str = r#"SELECT DISTINCT b."partition"::text FROM bindings b JOIN alerts a ON a.id = b.alert_id
    WHERE a.rule_name = 'walk' AND b.status = 'active' AND b."partition" >= 0 AND a.id <= 3 ORDER BY 1"#;

impl Run<'_> {
    /// Cancels the promotion to a version, if it has not ended.
    pub(crate) fn cancel_promotion(&mut self, version: usize) -> anyhow::Result<()> {
        let Some(url) = self.api() else { return Ok(()) };
        let path = format!("{url}/api/v1/rules/walk/versions/{version}.0.0/promote");
        // The API may have been killed just now.
        if let Ok(answer) = Client::new().delete(path).send() {
            let status = answer.status();
            let may_be = status.is_success() || status.is_server_error() || status == StatusCode::NOT_FOUND;
            ensure!(may_be, "a cancellation got {status}: {}", answer.text().unwrap_or_default());
            self.cancelled += usize::from(status.is_success());
        }
        Ok(())
    }

    /// Has a partition halt, in which no promotion may begin, and lets it go on by the documented command.
    pub(crate) fn halt_partition(&mut self, chosen: usize) -> anyhow::Result<()> {
        let partitions = self.environment.db.texts(PROMOTED)?;
        ensure!(!partitions.is_empty(), "no alert that is promoted is on a partition");
        let partition = &partitions[chosen % partitions.len()];
        self.refer_ahead(partition, LOST_RECORDS)?;
        if !self.await_halt(partition)? {
            // It stays with an evaluator that waits for its death.
            return self.refer_ahead(partition, -LOST_RECORDS);
        }
        self.await_refused_promotion()?;
        let ahead = r#"SELECT count(*) FROM (SELECT "partition", "offset" FROM firings UNION ALL
            SELECT "partition", "offset" FROM faults) e JOIN partitions p USING ("partition") WHERE "offset" >= next_offset"#;
        if self.environment.db.number(&format!(r#"{ahead} AND "partition" = {partition}"#))? > 0 {
            // They would be recorded again under other ids. So the records come back, and whoever has halted is restarted.
            self.refer_ahead(partition, -LOST_RECORDS)?;
            return self.restart_halted();
        }
        self.await_accepted(partition)?;
        self.accepted.insert(partition.clone());
        Ok(())
    }

    fn refer_ahead(&self, partition: &str, records: i64) -> anyhow::Result<()> {
        let change = r#"UPDATE partitions SET referenced = referenced"#;
        self.environment.db.execute(&format!(r#"{change} + ({records}) WHERE "partition" = {partition}"#))
    }

    fn is_halted(&self, partition: &str) -> anyhow::Result<bool> {
        let halted = r#"SELECT count(*) FROM partitions WHERE halted IS NOT NULL AND "partition" ="#;
        Ok(self.environment.db.number(&format!("{halted} {partition}"))? > 0)
    }

    /// Restarts evaluators that have a partition until it has halted, and one of them reports it. False where none that may
    /// be restarted has it for a while.
    fn await_halt(&mut self, partition: &str) -> anyhow::Result<bool> {
        let number: u32 = partition.parse()?;
        let (mut begun, mut restarts) = (Instant::now(), 0);
        loop {
            let has_it =
                |health: &Value| health["partitions"].as_array().is_some_and(|all| all.contains(&json!(number)));
            let reports = |health: &Value| {
                let problems = health["problems"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let mut halts = problems.filter(|problem| problem.contains(ADVICE));
                halts.any(|problem| problem.starts_with(&format!("partition {partition} ")))
            };
            let evaluators = (0..self.processes.len()).filter(|at| self.processes[*at].role == "evaluate");
            let found: Vec<(usize, Value)> = evaluators.filter_map(|at| Some((at, self.health(at)?))).collect();
            let is_halted = self.is_halted(partition)?;
            if is_halted && found.iter().any(|(_, health)| reports(health)) {
                return Ok(true);
            }
            let owner =
                found.iter().find(|(at, health)| !is_halted && self.processes[*at].is_running() && has_it(health));
            if let Some((owner, _)) = owner {
                self.processes[*owner].stop()?;
                self.processes[*owner].start(self.environment, None)?;
                (begun, restarts) = (Instant::now(), restarts + 1);
                // The claim comes with the group's next assignment.
                self.wait(POLL * 10)?;
            }
            if !is_halted && begun.elapsed() > FAILPOINT_PATIENCE {
                return Ok(false);
            }
            let logs = self.logs();
            ensure!(
                begun.elapsed() < PATIENCE,
                "no evaluator reports that partition {partition} has halted; see {logs}"
            );
            ensure!(restarts < 20, "partition {partition} does not halt; see {logs}");
            self.wait(POLL)?;
        }
    }

    /// Waits until a promotion is refused because a partition has halted. Another one may be under way until then.
    fn await_refused_promotion(&mut self) -> anyhow::Result<()> {
        let (begun, version) = (Instant::now(), self.environment.walk_versions);
        loop {
            let path = |url| format!("{url}/api/v1/rules/walk/versions/{version}.0.0/promote");
            let answer = self.api().and_then(|url| Client::new().post(path(url)).json(&json!({})).send().ok());
            if let Some(answer) = answer {
                let (status, text) = (answer.status(), answer.text().unwrap_or_default());
                if status == StatusCode::CONFLICT && text.contains("halted") {
                    return Ok(());
                }
                let moved = serde_json::from_str::<Value>(&text).ok().and_then(|moved| moved["bindings"].as_u64());
                ensure!(!status.is_success() || moved == Some(0), "{text} moved although a partition has halted");
                if status.is_success() {
                    // There is no version left to promote to.
                    return Ok(());
                }
            }
            ensure!(begun.elapsed() < PATIENCE, "no promotion is refused because a partition has halted");
            self.wait(POLL)?;
        }
    }

    /// Accepts the log until the partition is evaluated again.
    fn await_accepted(&mut self, partition: &str) -> anyhow::Result<()> {
        let (begun, mut accepted) = (Instant::now(), false);
        while !accepted || self.is_halted(partition)? {
            if !accepted && let Some(url) = self.api() {
                let refused = accept_log(&url)?;
                accepted = refused.is_none();
                // A promotion that began before is rolled back meanwhile, or the API was killed.
                let waits = refused.is_none_or(|why| !why.contains("nothing to accept"));
                ensure!(waits, "`tocsin log accept` finds nothing to accept while partition {partition} has halted");
            }
            let logs = self.logs();
            ensure!(begun.elapsed() < PATIENCE, "partition {partition} is not evaluated again; see {logs}");
            self.wait(POLL)?;
        }
        Ok(())
    }

    fn restart_halted(&mut self) -> anyhow::Result<()> {
        for at in 0..self.processes.len() {
            let halted = |health: Value| health["problems"].to_string().contains(ADVICE);
            let process = &self.processes[at];
            if process.role == "evaluate" && process.is_running() && self.health(at).is_some_and(halted) {
                self.processes[at].stop()?;
                self.processes[at].start(self.environment, None)?;
            }
        }
        Ok(())
    }

    /// What a process reports, if it answers.
    fn health(&self, at: usize) -> Option<Value> {
        let process = self.processes.get(at).filter(|process| process.answers())?;
        Client::new().get(format!("{}/health", process.url()?)).send().ok()?.json().ok()
    }

    /// Where the API is served, if it may answer.
    fn api(&self) -> Option<String> {
        let api = self.processes.iter().find(|process| process.role == "api")?;
        api.answers().then(|| api.url()).flatten()
    }
}

/// Runs `tocsin log accept`; why it is refused.
pub(crate) fn accept_log(url: &str) -> anyhow::Result<Option<String>> {
    let mut tocsin = Command::new(env!("CARGO_BIN_EXE_tocsin"));
    let answer = tocsin.args(["log", "accept", "--from", "earliest", "--server", url]).output();
    let answer = answer.context("cannot start tocsin")?;
    Ok((!answer.status.success()).then(|| String::from_utf8_lossy(&answer.stderr).into_owned()))
}
