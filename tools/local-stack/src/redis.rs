//! Redis with an append-only file that is synced before each write is acknowledged, so that no write is lost when Redis is
//! killed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::apt;
use crate::process::Process;
use crate::service::Service;
use crate::state::State;

/// A server that takes longer to respond counts as not ready.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The lines of the response that are read: the process id is among the first twenty.
const MAX_LINES: usize = 40;

/// Installs it where it is missing.
pub(crate) fn install() -> Result<()> {
    let is_installed =
        || Command::new("redis-server").arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_installed() {
        apt::install(&["redis-server"]);
    }
    ensure!(is_installed(), "there is no redis-server; on Debian: apt-get install redis-server");
    Ok(())
}

/// Returns the command that starts the server.
pub(crate) fn prepare(state: &State, folder: &Path) -> Result<Command> {
    let own = folder.join(Service::Redis.to_string());
    std::fs::create_dir_all(&own).with_context(|| format!("cannot make the folder {}", own.display()))?;
    let mut start = Command::new("redis-server");
    start.args(["--port", &state.redis_port.to_string(), "--bind", "127.0.0.1"]);
    start.args(["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--dir"]).arg(own);
    Ok(start)
}

/// Returns whether the server answers and is this process.
pub(crate) fn is_ready(process: Process, state: &State) -> bool {
    answering_pid(&state.address(Service::Redis)).is_ok_and(|pid| pid == Some(process.pid))
}

fn answering_pid(address: &str) -> std::io::Result<Option<i32>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
    stream.write_all(b"INFO server\r\n")?;
    for line in BufReader::new(stream).lines().take(MAX_LINES) {
        if let Some(pid) = line?.strip_prefix("process_id:") {
            return Ok(pid.parse().ok());
        }
    }
    Ok(None)
}
