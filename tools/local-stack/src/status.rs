//! The output of `cargo xtask stack status`.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::docker;
use crate::process::{Condition, Process};
use crate::service::Service;
use crate::state::{Engine, State, log_file};

/// The status of one service.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// `running`, `paused` or `stopped`
    state: &'static str,
    address: String,
    /// `None` with Docker, and if it is stopped
    pid: Option<i32>,
    /// The log file; with Docker, the command that shows the log
    log: String,
}

/// Returns the status as JSON.
pub(crate) fn json(state: &State, folder: &Path) -> Result<String> {
    let environment: serde_json::Map<_, _> =
        state.environment().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    let services = serde_json::to_value(rows(state, folder)?)?;
    let status = serde_json::json!({ "engine": state.engine, "environment": environment, "services": services });
    Ok(format!("{status:#}"))
}

/// Returns the status as a table.
pub(crate) fn table(state: &State, folder: &Path) -> Result<String> {
    let lines = rows(state, folder)?.into_iter().map(|Row { name, state, address, pid, log }| {
        let pid = pid.map_or("-".to_owned(), |pid| pid.to_string());
        format!("{name:<9} {state:<8} {address:<16} {pid:>8}  {log}")
    });
    let head = format!("{:<9} {:<8} {:<16} {:>8}  {}", "SERVICE", "STATE", "ADDRESS", "PID", "LOG");
    Ok(std::iter::once(head).chain(lines).collect::<Vec<_>>().join("\n"))
}

fn rows(state: &State, folder: &Path) -> Result<Vec<Row>> {
    let row = |(service, condition): (Service, Condition)| Row {
        name: service.to_string(),
        state: condition.name(),
        address: state.address(service),
        pid: state.process(service).filter(|_| condition != Condition::Stopped).map(|Process { pid, .. }| pid),
        log: match state.engine {
            Engine::Local => log_file(folder, service).display().to_string(),
            Engine::Docker => docker::log_command(state, service),
        },
    };
    let conditions = match state.engine {
        Engine::Local => state.services().into_iter().map(|service| (service, state.condition(service))).collect(),
        Engine::Docker => docker::conditions(state)?,
    };
    Ok(conditions.into_iter().map(row).collect())
}
