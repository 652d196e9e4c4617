//! Processes that outlive the command that started them. A later command finds one by its id and its start time, both from
//! `/proc`: an id alone may have been reused.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// How often a condition is checked while waiting for it.
const POLL: Duration = Duration::from_millis(20);

/// The longest wait for a signal that cannot be handled to take effect.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// The last lines of a log that the message of a failure shows.
const SHOWN_LINES: usize = 20;

/// A process, running or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Start time, in clock ticks since boot.
    started_ticks: u64,
}

/// Whether a process or service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Running,
    Paused,
    Stopped,
}

impl Condition {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// A process, as `/proc` describes it.
struct Stat {
    process: Process,
    parent: i32,
    state: char,
    threads: u32,
}

impl Process {
    /// Starts a program and appends its output to a log. It gets a process group of its own, so that an interrupt at the
    /// terminal does not reach it.
    pub(crate) fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let open = || OpenOptions::new().create(true).append(true).open(log);
        let output = open().with_context(|| format!("cannot write {}", log.display()))?;
        let errors = output.try_clone().context("cannot duplicate the handle of a log")?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let program = command.get_program().to_owned();
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let stat = stat(child.id() as i32).context("a process that was just started is not in /proc")?;
        Ok(stat.process)
    }

    pub(crate) fn condition(self) -> Condition {
        match stat(self.pid) {
            None => Condition::Stopped,
            // A zombie whose parent never waits for it has ended. With threads left it has not, and still holds its
            // ports.
            Some(Stat { state: 'Z' | 'X', threads: 0 | 1, .. }) => Condition::Stopped,
            Some(Stat { process, .. }) if process != self => Condition::Stopped,
            Some(Stat { state: 'T', .. }) => Condition::Paused,
            Some(_) => Condition::Running,
        }
    }

    /// Pauses the process and its children, and waits until they are paused: a signal reaches a process when it next runs.
    pub(crate) fn pause(self) -> Result<()> {
        let family = self.family();
        family.iter().for_each(|process| process.signal(Signal::STOP));
        if !wait(KILL_TIMEOUT, || family.iter().all(|process| process.condition() != Condition::Running)) {
            bail!("process {} was sent SIGSTOP and still runs after {} s", self.pid, KILL_TIMEOUT.as_secs());
        }
        Ok(())
    }

    /// Resumes the process and its children.
    pub(crate) fn resume(self) {
        self.family().into_iter().for_each(|process| process.signal(Signal::CONT));
    }

    /// Kills the process and its children, as a crash would, and waits until they have ended.
    pub(crate) fn kill(self) -> Result<()> {
        let family = self.family();
        family.iter().for_each(|process| process.signal(Signal::KILL));
        let all_ended = || family.iter().all(|process| process.condition() == Condition::Stopped);
        if !wait(KILL_TIMEOUT, all_ended) {
            bail!("process {} was sent SIGKILL and is still there after {} s", self.pid, KILL_TIMEOUT.as_secs());
        }
        Ok(())
    }

    /// Sends a signal that ends the process, and resumes it if it is paused. Does not wait: see
    /// [`Process::wait_for_end`].
    pub(crate) fn terminate(self, signal: Signal) {
        self.signal(signal);
        self.resume();
    }

    /// Waits until the process has ended, and kills it after the timeout.
    pub(crate) fn wait_for_end(self, timeout: Duration) -> Result<()> {
        if wait(timeout, || self.condition() == Condition::Stopped) { Ok(()) } else { self.kill() }
    }

    /// Returns the process and its children, or nothing if it has ended.
    fn family(self) -> Vec<Self> {
        if self.condition() == Condition::Stopped {
            return Vec::new();
        }
        let mut family = vec![self];
        family.extend(ids().filter_map(stat).filter(|stat| stat.parent == self.pid).map(|stat| stat.process));
        family
    }

    fn signal(self, signal: Signal) {
        if self.condition() != Condition::Stopped {
            // The process may have ended meanwhile.
            let _ = Pid::from_raw(self.pid).map(|pid| kill_process(pid, signal));
        }
    }
}

/// Returns the running programs of the given name whose working directory is the given folder.
pub(crate) fn working_in(folder: &Path, program: &str) -> Vec<Process> {
    let works_there = |pid: &i32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let works_in = std::fs::read_link(format!("/proc/{pid}/cwd"));
        name.trim() == program && works_in.is_ok_and(|works_in| works_in == folder)
    };
    ids().filter(works_there).filter_map(stat).map(|stat| stat.process).collect()
}

/// Waits until a condition holds. Returns false if it does not within the timeout.
pub(crate) fn wait(timeout: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
}

/// Returns the end of a log, for the message of a failure.
pub(crate) fn last_lines(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n  ");
    format!("the last lines of {}:\n  {last}", log.display())
}

/// Runs a program to its end and writes its output to a log.
pub(crate) fn run(command: &mut Command, log: &Path) -> Result<()> {
    let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let errors = output.try_clone().context("cannot duplicate the handle of a log")?;
    let status = command.stdout(output).stderr(errors).status();
    let status = status.with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{} failed ({status}); {}", command.get_program().display(), last_lines(log));
    }
    Ok(())
}

/// Returns the ids of all processes of the machine.
fn ids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Parses `/proc/PID/stat`: <https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>.
fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses, and the name may contain parentheses.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let process = Process { pid, started_ticks: fields.get(19)?.parse().ok()? };
    let state = fields.first()?.chars().next()?;
    Some(Stat { process, parent: fields.get(1)?.parse().ok()?, state, threads: fields.get(17)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &Path) -> Process {
        Process::spawn(Command::new("sh").args(["-c", "echo started; sleep 600 & wait"]), &folder.join("log")).unwrap()
    }

    #[test]
    fn a_process_is_paused_resumed_and_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let process = sleeper(folder.path());
        assert!(wait(KILL_TIMEOUT, || process.family().len() == 2), "the shell starts a child");
        let family = process.family();
        process.pause().unwrap();
        assert!(family.iter().all(|process| process.condition() == Condition::Paused));
        process.resume();
        assert!(wait(KILL_TIMEOUT, || family.iter().all(|process| process.condition() == Condition::Running)));
        process.kill().unwrap();
        assert!(family.iter().all(|process| process.condition() == Condition::Stopped));
        process.kill().unwrap();
        assert!(last_lines(&folder.path().join("log")).ends_with("started"));
    }

    #[test]
    fn a_paused_process_can_be_terminated() {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::spawn(Command::new("sleep").arg("600"), &folder.path().join("log")).unwrap();
        process.pause().unwrap();
        process.terminate(Signal::TERM);
        process.wait_for_end(KILL_TIMEOUT).unwrap();
        assert_eq!(process.condition(), Condition::Stopped);
    }

    #[test]
    fn a_process_that_reuses_the_id_is_not_killed() {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::spawn(Command::new("sleep").arg("600"), &folder.path().join("log")).unwrap();
        let earlier = Process { started_ticks: process.started_ticks - 1, ..process };
        assert_eq!(earlier.condition(), Condition::Stopped);
        earlier.kill().unwrap();
        assert_eq!(process.condition(), Condition::Running);
        process.kill().unwrap();
    }
}
