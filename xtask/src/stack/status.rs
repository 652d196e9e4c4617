//! What `cargo xtask stack status` tells.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::docker;
use super::part::Part;
use super::process::{Condition, Process};
use super::state::{Engine, State, log_file};

/// A part, as it is now.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// `running`, `paused` or `stopped`
    state: &'static str,
    address: String,
    /// Of a local program that is not stopped
    pid: Option<i32>,
    /// The log's file; with Docker the command that shows it
    log: String,
}

/// The status as JSON, for programs.
pub(super) fn json(state: &State, folder: &Path) -> Result<String> {
    let environment: serde_json::Map<_, _> =
        state.environment().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    let parts = serde_json::to_value(rows(state, folder)?)?;
    let status = serde_json::json!({ "engine": state.engine, "environment": environment, "parts": parts });
    Ok(format!("{status:#}"))
}

/// The status as a table, for people.
pub(super) fn table(state: &State, folder: &Path) -> Result<String> {
    let lines = rows(state, folder)?.into_iter().map(|Row { name, state, address, pid, log }| {
        let pid = pid.map_or("-".to_owned(), |pid| pid.to_string());
        format!("{name:<9} {state:<8} {address:<16} {pid:>8}  {log}")
    });
    let head = format!("{:<9} {:<8} {:<16} {:>8}  {}", "PART", "STATE", "ADDRESS", "PID", "LOG");
    Ok(std::iter::once(head).chain(lines).collect::<Vec<_>>().join("\n"))
}

fn rows(state: &State, folder: &Path) -> Result<Vec<Row>> {
    let row = |(part, condition): (Part, Condition)| Row {
        name: part.to_string(),
        state: condition.name(),
        address: state.address(part),
        pid: state.process(part).filter(|_| condition != Condition::Stopped).map(|Process { pid, .. }| pid),
        log: match state.engine {
            Engine::Local => log_file(folder, part).display().to_string(),
            Engine::Docker => docker::log_command(state, part),
        },
    };
    let conditions = match state.engine {
        Engine::Local => state.parts().into_iter().map(|part| (part, state.condition(part))).collect(),
        Engine::Docker => docker::conditions(state)?,
    };
    Ok(conditions.into_iter().map(row).collect())
}
