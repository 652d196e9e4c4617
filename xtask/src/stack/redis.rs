//! Redis, with a log of its own that each write is in before it is answered: who kills it must find all of it again.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::part::Part;
use super::process::Process;
use super::state::State;
use crate::apt;

/// How long it may think before it counts as not ready.
const ANSWER_BOUND: Duration = Duration::from_secs(2);

/// The lines of its answer that are looked at: the process id is among the first twenty.
const MAX_LINES: usize = 40;

/// Installs it where it is missing.
pub(super) fn install() -> Result<()> {
    let answers = || Command::new("redis-server").arg("--version").output().is_ok_and(|output| output.status.success());
    if !answers() {
        apt::install(&["redis-server"]);
    }
    ensure!(answers(), "there is no redis-server; on Debian: apt-get install redis-server");
    Ok(())
}

/// How to start it.
pub(super) fn prepare(state: &State, folder: &Path) -> Result<Command> {
    let own = folder.join(Part::Redis.to_string());
    std::fs::create_dir_all(&own).with_context(|| format!("cannot make the folder {}", own.display()))?;
    let mut start = Command::new("redis-server");
    start.args(["--port", &state.redis_port.to_string(), "--bind", "127.0.0.1"]);
    start.args(["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--dir"]).arg(own);
    Ok(start)
}

/// Whether this very process answers.
pub(super) fn is_ready(process: Process, state: &State) -> bool {
    answering_pid(&state.address(Part::Redis)).is_ok_and(|pid| pid == Some(process.pid))
}

fn answering_pid(address: &str) -> std::io::Result<Option<i32>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_BOUND))?;
    stream.write_all(b"INFO server\r\n")?;
    for line in BufReader::new(stream).lines().take(MAX_LINES) {
        if let Some(pid) = line?.strip_prefix("process_id:") {
            return Ok(pid.parse().ok());
        }
    }
    Ok(None)
}
