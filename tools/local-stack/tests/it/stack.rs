//! Kafka, Redis and PostgreSQL as local programs: started, killed, paused, restarted and removed.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

/// The longest wait for a response of a service.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A stack that is removed when the test ends, however it ends: a process holds it until its standard input ends.
struct Stack {
    folder: PathBuf,
    holder: Child,
    /// Contains the stack's folder.
    _temporary: tempfile::TempDir,
}

impl Stack {
    fn up(brokers: &str) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("stack");
        let mut hold = local_stack(&["hold", "--local", "--brokers", brokers, "--dir"]);
        let mut holder = hold.arg(&folder).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut first_byte = [0; 1];
        holder.stdout.as_mut().unwrap().read_exact(&mut first_byte).expect("the stack did not come up: see above");
        Self { folder, holder, _temporary: temporary }
    }

    /// Returns the output of a command, or its error output if it fails.
    fn run(&self, args: &[&str]) -> Result<String, String> {
        let output = local_stack(args).arg("--dir").arg(&self.folder).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// Returns the state and process id of each service.
    fn status(&self) -> HashMap<String, (String, Option<u64>)> {
        let status: Value = serde_json::from_str(&self.run(&["status", "--json"]).unwrap()).unwrap();
        let services = status["services"].as_array().unwrap();
        let text = |service: &Value, name: &str| service[name].as_str().unwrap().to_owned();
        services
            .iter()
            .map(|service| (text(service, "name"), (text(service, "state"), service["pid"].as_u64())))
            .collect()
    }

    fn state(&self, service: &str) -> String {
        self.status()[service].0.clone()
    }

    fn pids(&self) -> Vec<u64> {
        self.status().into_values().filter_map(|(_, pid)| pid).collect()
    }

    /// Returns the environment variables that the server reads.
    fn environment(&self) -> HashMap<String, String> {
        let lines = self.run(&["up"]).unwrap();
        lines.lines().map(|line| line.split_once('=').unwrap()).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    fn sql(&self, sql: &str) -> String {
        let mut psql = Command::new("psql");
        psql.args([
            "--no-psqlrc",
            "--tuples-only",
            "--no-align",
            "--command",
            sql,
            &self.environment()["DATABASE_URL"],
        ]);
        let output = psql.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // `wait` closes the pipe to the holder's standard input, at whose end it removes the stack.
        let _ = self.holder.wait();
    }
}

fn local_stack(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_local-stack"));
    command.args(args);
    command
}

/// Sends a request and reads the first bytes of the response.
fn request<const BYTES: usize>(address: &str, bytes: &[u8]) -> [u8; BYTES] {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(RESPONSE_TIMEOUT)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut response = [0; BYTES];
    stream.read_exact(&mut response).unwrap();
    response
}

/// Sends ApiVersions, version 0, without a client id. The response begins with the correlation id and error code 0.
#[track_caller]
fn assert_broker_answers(address: &str) {
    let response: [u8; 10] = request(address, b"\0\0\0\x0a\0\x12\0\0\0\0\0\x2a\xff\xff");
    assert_eq!(response[4..], *b"\0\0\0\x2a\0\0", "{address}");
}

#[track_caller]
fn assert_gone(pids: &[u64]) {
    for pid in pids {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A dead process is visible as a zombie until its parent waits for it.
        assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    }
}

#[test]
fn a_stack_is_started_repaired_and_removed() {
    let stack = Stack::up("1");
    let environment = stack.environment();
    assert_broker_answers(&environment["KAFKA_BROKERS"]);
    assert_eq!(request(&environment["REDIS_ADDR"], b"PING\r\n"), *b"+PONG\r\n");
    assert_eq!(stack.sql("SELECT 1"), "1");
    stack.sql("CREATE TABLE kept (); INSERT INTO kept DEFAULT VALUES");

    let before = stack.status();
    for service in ["redis", "postgres"] {
        stack.run(&["kill", service]).unwrap();
        assert_eq!(stack.state(service), "stopped");
    }
    assert_eq!(stack.environment(), environment, "a restarted service keeps its address");
    let after = stack.status();
    assert!(after.values().all(|(state, _)| state == "running"), "{after:?}");
    assert!(after["kafka-1"] == before["kafka-1"] && after["redis"] != before["redis"], "{before:?} {after:?}");
    assert_eq!(stack.sql("SELECT count(*) FROM kept"), "1");

    stack.run(&["pause", "redis"]).unwrap();
    assert_eq!(stack.state("redis"), "paused");
    stack.run(&["start", "redis"]).unwrap();
    assert_eq!(stack.status(), after, "it is the same process");
    stack.run(&["stop", "redis"]).unwrap();
    assert!(stack.run(&["pause", "redis"]).unwrap_err().contains("redis does not run"));

    let pids = after.values().filter_map(|(_, pid)| *pid).collect::<Vec<_>>();
    stack.run(&["pause", "kafka-1"]).unwrap();
    stack.run(&["down"]).unwrap();
    assert_gone(&pids);
    assert!(stack.status().values().all(|(state, pid)| state == "stopped" && pid.is_none()));
    assert_eq!(stack.sql("SELECT count(*) FROM kept"), "1", "data stays");
}

#[test]
fn a_cluster_of_three_brokers_survives_the_loss_of_one() {
    let stack = Stack::up("3");
    let brokers = stack.environment()["KAFKA_BROKERS"].clone();
    let brokers: Vec<&str> = brokers.split(',').collect();
    assert_eq!(brokers.len(), 3);
    brokers.iter().copied().for_each(assert_broker_answers);

    stack.run(&["kill", "kafka-2"]).unwrap();
    assert_eq!(stack.state("kafka-2"), "stopped");
    assert!(TcpStream::connect(brokers[1]).is_err());
    [brokers[0], brokers[2]].into_iter().for_each(assert_broker_answers);
    stack.run(&["start", "kafka-2"]).unwrap();
    brokers.iter().copied().for_each(assert_broker_answers);
    assert!(stack.run(&["up", "--brokers", "1"]).unwrap_err().contains("has 3 brokers"));

    let (pids, folder) = (stack.pids(), stack.folder.clone());
    assert_eq!(pids.len(), 5);
    drop(stack);
    assert_gone(&pids);
    assert!(!folder.exists(), "a held stack leaves nothing");
}

#[test]
fn a_missing_stack_or_service_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let check = |args: &[&str], expect: &str| {
        let output = local_stack(args).arg("--dir").arg(folder.path()).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(expect), "{args:?}: {error}");
    };
    check(&["status"], "cargo xtask stack up");
    check(&["kill", "redis"], "cargo xtask stack up");
    check(&["kill", "kafka-4"], "kafka-1 to kafka-3");
    check(&["up", "--brokers", "4"], "4");
    assert!(local_stack(&["down", "--dir"]).arg(folder.path()).status().unwrap().success());
}
