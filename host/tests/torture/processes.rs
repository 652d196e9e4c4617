//! The processes: one for each place, with a data folder that outlives them.

use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::proxy::Proxy;
use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::db::Db;
use crate::environment::Environment;

/// How long a process may take to end when it is asked to: its own bound is 25 s.
const STOP_PATIENCE: Duration = Duration::from_secs(60);

/// The signal of a failpoint's death (SIGABRT).
const ABORTED: i32 = 6;

const POLL: Duration = Duration::from_millis(20);

/// What one place's process does.
enum State {
    Running(Child),
    /// Held still, until then.
    Paused(Child, Instant),
    /// To die at this failpoint.
    AtFailpoint(Child, &'static str),
    Absent,
}

/// A place for a process.
pub(crate) struct Process {
    /// Its role, and a number among those of that role.
    pub(crate) role: &'static str,
    pub(crate) name: String,
    folder: PathBuf,
    state: State,
    /// The network between an evaluator and PostgreSQL.
    proxy: Option<Proxy>,
    /// Where the log of its last process begins.
    log_begin: u64,
}

impl Process {
    pub(crate) fn new(environment: &Environment, role: &'static str, number: usize) -> anyhow::Result<Self> {
        let name = format!("{role}-{number}");
        let folder = environment.folder.join(&name);
        std::fs::create_dir_all(&folder)?;
        let proxy = (role == "evaluate").then(|| Proxy::start(&environment.db.url)).transpose()?;
        Ok(Self { role, name, folder, state: State::Absent, proxy, log_begin: 0 })
    }

    /// Starts its process, to die at a failpoint when it has passed it so many times.
    pub(crate) fn start(
        &mut self,
        environment: &Environment,
        failpoint: Option<(&'static str, u32)>,
    ) -> anyhow::Result<()> {
        let mut command = self.command(environment)?;
        if let Some((name, passes)) = failpoint {
            command.env("TOCSIN_FAILPOINT", format!("{name}:{passes}"));
        }
        let child = command.spawn().context("cannot start a process")?;
        self.state = match failpoint {
            Some((name, _)) => State::AtFailpoint(child, name),
            None => State::Running(child),
        };
        Ok(())
    }

    /// Starts its process on another database.
    pub(crate) fn start_on(&mut self, environment: &Environment, db: &Db) -> anyhow::Result<()> {
        let child =
            self.command(environment)?.env("DATABASE_URL", &db.url).spawn().context("cannot start a process")?;
        self.state = State::Running(child);
        Ok(())
    }

    fn command(&mut self, environment: &Environment) -> anyhow::Result<Command> {
        let log = OpenOptions::new().create(true).append(true).open(self.log())?;
        self.log_begin = log.metadata()?.len();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tocsin"));
        command.args(["serve", "--log-format", "json", "--role", self.role, "--checkpoint-interval-ms", "100"]);
        command.args(["--audit-every", "0", "--feed", "simulated"]).arg("--data-dir").arg(&self.folder);
        command
            .envs(environment.settings())
            .env("PORT", "0")
            .env("GRPC_PORT", "0")
            .env("TOCSIN_FIRINGS_AT_ONCE", "1000000");
        if let Some(proxy) = &self.proxy {
            command.env("DATABASE_URL", &proxy.url);
        }
        command.current_dir(&self.folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    /// Whether it does what it should, and nothing else is planned for it.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    /// Whether it has a process that is not held still.
    pub(crate) fn answers(&self) -> bool {
        matches!(self.state, State::Running(_) | State::AtFailpoint(..))
    }

    pub(crate) fn is_absent(&self) -> bool {
        matches!(self.state, State::Absent)
    }

    /// The failpoint at which it is to die.
    pub(crate) fn failpoint(&self) -> Option<&'static str> {
        if let State::AtFailpoint(_, name) = self.state { Some(name) } else { None }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGSTOP, and SIGCONT after a while.
    pub(crate) fn pause(&mut self, duration: Duration) -> anyhow::Result<()> {
        if let Some(child) = self.take() {
            signal(&child, Signal::STOP)?;
            self.state = State::Paused(child, Instant::now() + duration);
        }
        Ok(())
    }

    /// Holds back what PostgreSQL notifies an evaluator of, also one that takes its place meanwhile.
    pub(crate) fn hold_notifications(&self, duration: Duration) {
        if let Some(proxy) = &self.proxy {
            proxy.hold(duration);
        }
    }

    /// SIGTERM, and an end in order, or in time.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.take() else { return Ok(()) };
        signal(&child, Signal::CONT)?;
        signal(&child, Signal::TERM)?;
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if begun.elapsed() > STOP_PATIENCE {
                child.kill()?;
                child.wait()?;
                bail!("{} does not end within {} s; {}", self.name, STOP_PATIENCE.as_secs(), self.last_log_lines());
            }
            std::thread::sleep(POLL);
        };
        if !status.success() && !self.was_stopped_at_start(status) && !self.was_cut_off(status) {
            bail!("{} was asked to stop and ended with {status}; {}", self.name, self.last_log_lines());
        }
        Ok(())
    }

    /// Lets it go on if it was held for long enough, and sees whether it has died. The failpoint at which it did; an error
    /// if it was not to.
    pub(crate) fn poll(&mut self) -> anyhow::Result<Option<&'static str>> {
        self.state = match std::mem::replace(&mut self.state, State::Absent) {
            State::Paused(child, until) if Instant::now() >= until => {
                signal(&child, Signal::CONT)?;
                State::Running(child)
            }
            State::Running(mut child) => match child.try_wait()? {
                None => State::Running(child),
                Some(status) => bail!("{} ended by itself with {status}; {}", self.name, self.last_log_lines()),
            },
            State::AtFailpoint(mut child, name) => match child.try_wait()? {
                None => State::AtFailpoint(child, name),
                Some(status) if is_abort(status) => return Ok(Some(name)),
                Some(status) => bail!("{} ended with {status} before {name}; {}", self.name, self.last_log_lines()),
            },
            other => other,
        };
        Ok(None)
    }

    /// Where it serves REST, as its log says.
    pub(crate) fn url(&self) -> Option<String> {
        url_in(&self.log())
    }

    /// Whether the signal came before the process had done or said anything: it did not listen yet.
    fn was_stopped_at_start(&self, status: ExitStatus) -> bool {
        let log_end = std::fs::metadata(self.log()).map_or(0, |log| log.len());
        status.signal() == Some(Signal::TERM.as_raw()) && log_end == self.log_begin
    }

    /// Whether it did not come to its end in the time that it gives itself, and ended as a kill would have it.
    fn was_cut_off(&self, status: ExitStatus) -> bool {
        status.code() == Some(1) && self.last_log_lines().contains("error: stopping the ")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn take(&mut self) -> Option<Child> {
        match std::mem::replace(&mut self.state, State::Absent) {
            State::Running(child) | State::Paused(child, _) | State::AtFailpoint(child, _) => Some(child),
            State::Absent => None,
        }
    }

    fn last_log_lines(&self) -> String {
        let text = File::open(self.log()).and_then(std::io::read_to_string).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("its last lines:\n  {}", lines[lines.len().saturating_sub(12)..].join("\n  "))
    }
}

/// Where the last process serves REST that wrote to a log.
pub(crate) fn url_in(log: &Path) -> Option<String> {
    let log = std::fs::read_to_string(log).ok()?;
    let rest = |line: &str| serde_json::from_str::<Value>(line).ok()?["rest"].as_str().map(str::to_owned);
    log.lines().rev().find_map(rest)
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn is_abort(status: ExitStatus) -> bool {
    status.signal() == Some(ABORTED)
}

fn signal(child: &Child, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(child.id().cast_signed()).context("a child has an id")?;
    Ok(kill_process(pid, signal)?)
}
