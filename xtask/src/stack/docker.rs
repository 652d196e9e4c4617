//! A stack in Docker: docker-compose.yml's services, as a project of its own on ports of its own.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::part::Part;
use super::process::Condition;
use super::state::State;

/// How long the services may take until they are healthy, in seconds, once their images are there.
const READY_BOUND_S: &str = "120";

/// Whether an engine answers, and the client has `compose`.
pub(super) fn answers() -> bool {
    let succeeds = |arguments: &[&str]| {
        let mut docker = Command::new("docker");
        docker.args(arguments).stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
    };
    succeeds(&["info"]) && succeeds(&["compose", "version"])
}

/// Starts services, and waits until they are healthy.
pub(super) fn start(state: &State, parts: &[Part]) -> Result<()> {
    let is_paused = |(part, condition)| (condition == Condition::Paused && parts.contains(&part)).then_some(part);
    let paused: Vec<Part> = conditions(state)?.into_iter().filter_map(is_paused).collect();
    if !paused.is_empty() {
        run(state, &["unpause"], &paused)?;
    }
    run(state, &["up", "--detach", "--wait", "--wait-timeout", READY_BOUND_S], parts)
}

/// Ends services in order.
pub(super) fn stop(state: &State, parts: &[Part]) -> Result<()> {
    run(state, &["stop"], parts)
}

/// Ends a service as a crash would.
pub(super) fn kill(state: &State, part: Part) -> Result<()> {
    run(state, &["kill"], &[part])
}

/// Holds a service still.
pub(super) fn pause(state: &State, part: Part) -> Result<()> {
    run(state, &["pause"], &[part])
}

/// Removes the project, with all that it kept.
pub(super) fn wipe(state: &State) -> Result<()> {
    run(state, &["down", "--volumes"], &[])
}

/// Shows a service's log.
pub(super) fn log_command(state: &State, part: Part) -> String {
    format!("docker compose --project-name {} logs {part}", project(state))
}

/// What each part does.
pub(super) fn conditions(state: &State) -> Result<Vec<(Part, Condition)>> {
    let mut ps = compose(state);
    ps.args(["ps", "--all", "--format", "json"]);
    let output = ps.stderr(Stdio::inherit()).output().context("cannot run docker compose")?;
    ensure!(output.status.success(), "docker compose ps failed: see above");
    let services = read_services(&String::from_utf8_lossy(&output.stdout))?;
    let condition = |part: Part| {
        let found = services.iter().find(|(service, _)| *service == part.to_string());
        found.map_or(Condition::Stopped, |(_, condition)| *condition)
    };
    Ok(state.parts().into_iter().map(|part| (part, condition(part))).collect())
}

/// Reads what `docker compose ps` lists: a JSON object on each line, or, before version 2.21, one array.
fn read_services(text: &str) -> Result<Vec<(String, Condition)>> {
    let mut containers = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        match value.context("docker compose ps does not answer in JSON")? {
            Value::Array(list) => containers.extend(list),
            container => containers.push(container),
        }
    }
    let read = |container: &Value| {
        let condition = match container["State"].as_str()? {
            "running" => Condition::Running,
            "paused" => Condition::Paused,
            _ => Condition::Stopped,
        };
        Some((container["Service"].as_str()?.to_owned(), condition))
    };
    containers.iter().map(|container| read(container).with_context(|| format!("{container} is no container"))).collect()
}

fn run(state: &State, arguments: &[&str], parts: &[Part]) -> Result<()> {
    let mut compose = compose(state);
    compose.args(arguments).args(parts.iter().map(Part::to_string));
    // Standard output is for what a task answers.
    let status = compose.stdin(Stdio::null()).stdout(std::io::stderr()).status();
    ensure!(
        status.context("cannot run docker compose")?.success(),
        "docker compose {} failed: see above",
        arguments[0]
    );
    Ok(())
}

/// `docker compose` on this stack's project, with the variables that docker-compose.yml reads.
fn compose(state: &State) -> Command {
    let mut compose = Command::new("docker");
    compose.args(["compose", "--project-name", &project(state), "--file"]);
    // The profile of the second and third broker: else `down` would not see them.
    compose.arg(crate::workspace().join("docker-compose.yml")).args(["--profile", "cluster"]);
    let brokers = state.brokers.len();
    let voters: Vec<String> = (1..=brokers).map(|number| format!("{number}@kafka-{number}:9093")).collect();
    for (number, broker) in (1..).zip(&state.brokers) {
        compose.env(format!("STACK_KAFKA_{number}_PORT"), broker.port.to_string());
    }
    compose
        .env("STACK_KAFKA_VOTERS", voters.join(","))
        .env("STACK_KAFKA_REPLICAS", brokers.to_string())
        .env("STACK_KAFKA_IN_SYNC", super::kafka::in_sync(brokers).to_string())
        .env("STACK_REDIS_PORT", state.redis_port.to_string())
        .env("STACK_POSTGRES_PORT", state.postgres_port.to_string());
    compose
}

/// A project's name has no capitals.
fn project(state: &State) -> String {
    format!("tocsin-{}", state.id.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_read_from_lines_and_from_an_array() {
        let one = r#"{"Service":"redis","State":"running","Publishers":[]}"#;
        let two = r#"{"Service":"kafka-1","State":"exited"}"#;
        let expect = [("redis".to_owned(), Condition::Running), ("kafka-1".to_owned(), Condition::Stopped)];
        for text in [format!("{one}\n{two}\n"), format!("[{one},{two}]")] {
            assert_eq!(read_services(&text).unwrap(), expect, "{text}");
        }
        assert!(read_services("").unwrap().is_empty());
        assert!(read_services("NAME  SERVICE").is_err() && read_services("{}").is_err());
    }
}
