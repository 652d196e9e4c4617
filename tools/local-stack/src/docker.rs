//! A stack in Docker: the services of docker-compose.yml as a Compose project of its own, on ports of its own.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::process::Condition;
use crate::service::Service;
use crate::state::State;

/// The longest wait until the services are healthy, in seconds, once their images are downloaded.
const READY_BOUND_S: &str = "120";

/// Returns whether Docker's engine is running and its client has `compose`.
pub(crate) fn is_available() -> bool {
    let succeeds = |arguments: &[&str]| {
        let mut docker = Command::new("docker");
        docker.args(arguments).stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
    };
    succeeds(&["info"]) && succeeds(&["compose", "version"])
}

/// Starts services, and waits until they are healthy.
pub(crate) fn start(state: &State, services: &[Service]) -> Result<()> {
    let is_paused =
        |(service, condition)| (condition == Condition::Paused && services.contains(&service)).then_some(service);
    let paused: Vec<Service> = conditions(state)?.into_iter().filter_map(is_paused).collect();
    if !paused.is_empty() {
        run(state, &["unpause"], &paused)?;
    }
    run(state, &["up", "--detach", "--wait", "--wait-timeout", READY_BOUND_S], services)
}

/// Stops services in order.
pub(crate) fn stop(state: &State, services: &[Service]) -> Result<()> {
    run(state, &["stop"], services)
}

/// Kills a service, as a crash would.
pub(crate) fn kill(state: &State, service: Service) -> Result<()> {
    run(state, &["kill"], &[service])
}

/// Pauses a service.
pub(crate) fn pause(state: &State, service: Service) -> Result<()> {
    run(state, &["pause"], &[service])
}

/// Removes the project with its data.
pub(crate) fn wipe(state: &State) -> Result<()> {
    run(state, &["down", "--volumes"], &[])
}

/// Returns the command that shows a service's log.
pub(crate) fn log_command(state: &State, service: Service) -> String {
    format!("docker compose --project-name {} logs {service}", project(state))
}

/// Returns the condition of each service.
pub(crate) fn conditions(state: &State) -> Result<Vec<(Service, Condition)>> {
    let mut ps = compose(state);
    ps.args(["ps", "--all", "--format", "json"]);
    let output = ps.stderr(Stdio::inherit()).output().context("cannot run docker compose")?;
    ensure!(output.status.success(), "docker compose ps failed: see above");
    let containers = read_containers(&String::from_utf8_lossy(&output.stdout))?;
    let condition = |service: Service| {
        let name = service.to_string();
        let found = containers.iter().find(|(service, _)| *service == name);
        found.map_or(Condition::Stopped, |(_, condition)| *condition)
    };
    Ok(state.services().into_iter().map(|service| (service, condition(service))).collect())
}

/// Parses the output of `docker compose ps` to service names with their conditions. It is one JSON object per line, or,
/// before version 2.21, one array.
fn read_containers(text: &str) -> Result<Vec<(String, Condition)>> {
    let mut containers = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        match value.context("the output of docker compose ps is not JSON")? {
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
    containers
        .iter()
        .map(|container| {
            read(container).with_context(|| format!("docker compose ps printed {container}, which is not a container"))
        })
        .collect()
}

fn run(state: &State, arguments: &[&str], services: &[Service]) -> Result<()> {
    let mut compose = compose(state);
    compose.args(arguments).args(services.iter().map(Service::to_string));
    // Standard output is reserved for the command's own result.
    let status = compose.stdin(Stdio::null()).stdout(std::io::stderr()).status();
    ensure!(
        status.context("cannot run docker compose")?.success(),
        "docker compose {} failed: see above",
        arguments[0]
    );
    Ok(())
}

/// Returns `docker compose` for the stack's project, with the variables that docker-compose.yml reads.
fn compose(state: &State) -> Command {
    let mut compose = Command::new("docker");
    compose.args(["compose", "--project-name", &project(state), "--file"]);
    // The second and third broker have this profile; without it `down` would ignore them.
    compose.arg(crate::workspace().join("docker-compose.yml")).args(["--profile", "cluster"]);
    let brokers = state.brokers.len();
    let voters: Vec<String> = (1..=brokers).map(|number| format!("{number}@kafka-{number}:9093")).collect();
    for (number, broker) in (1..).zip(&state.brokers) {
        compose.env(format!("STACK_KAFKA_{number}_PORT"), broker.port.to_string());
    }
    compose
        .env("STACK_KAFKA_VOTERS", voters.join(","))
        .env("STACK_KAFKA_REPLICAS", brokers.to_string())
        .env("STACK_KAFKA_IN_SYNC", crate::kafka::in_sync(brokers).to_string())
        .env("STACK_REDIS_PORT", state.redis_port.to_string())
        .env("STACK_POSTGRES_PORT", state.postgres_port.to_string());
    compose
}

/// Returns the project's name, in lower case as Compose requires.
fn project(state: &State) -> String {
    format!("tocsin-{}", state.id.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_read_from_lines_and_from_an_array() {
        let one = r#"{"Service":"redis","State":"running","Publishers":[]}"#;
        let two = r#"{"Service":"kafka-1","State":"exited"}"#;
        let expect = [("redis".to_owned(), Condition::Running), ("kafka-1".to_owned(), Condition::Stopped)];
        for text in [format!("{one}\n{two}\n"), format!("[{one},{two}]")] {
            assert_eq!(read_containers(&text).unwrap(), expect, "{text}");
        }
        assert!(read_containers("").unwrap().is_empty());
        assert!(read_containers("NAME  SERVICE").is_err() && read_containers("{}").is_err());
    }
}
