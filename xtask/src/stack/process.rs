//! Processes that outlive the task that started them. Another run of the task finds one by its id and the moment of its
//! start, as `/proc` tells them: an id alone may belong to a stranger by then.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// How often something is looked at that is waited for.
const POLL: Duration = Duration::from_millis(20);

/// How long a process that was killed may still be seen.
const KILL_BOUND: Duration = Duration::from_secs(10);

/// The lines of a log that a failure tells, and the part of the file they are looked for in.
const TOLD_LINES: usize = 20;

/// A process, running or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// When it started, in clock ticks since the machine did.
    started_ticks: u64,
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Running,
    Paused,
    Stopped,
}

impl Condition {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// What `/proc` tells of a process.
struct Stat {
    process: Process,
    parent: i32,
    state: char,
    threads: u32,
}

impl Process {
    /// Starts a program whose output is added to a log. It has a process group of its own: an interrupt at the terminal
    /// does not reach it.
    pub(super) fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let open = || OpenOptions::new().create(true).append(true).open(log);
        let output = open().with_context(|| format!("cannot write {}", log.display()))?;
        let errors = output.try_clone().context("cannot open a log twice")?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let program = command.get_program().to_owned();
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let stat = stat(child.id() as i32).context("a process that was just started is not in /proc")?;
        Ok(stat.process)
    }

    pub(super) fn condition(self) -> Condition {
        match stat(self.pid) {
            None => Condition::Stopped,
            // One that has ended may wait for a parent that never asks for it. With threads left it has not quite ended,
            // and holds its ports still.
            Some(Stat { state: 'Z' | 'X', threads: 0 | 1, .. }) => Condition::Stopped,
            Some(Stat { process, .. }) if process != self => Condition::Stopped,
            Some(Stat { state: 'T', .. }) => Condition::Paused,
            Some(_) => Condition::Running,
        }
    }

    /// Holds it still, with its children, and waits until they are: the signal comes to a process when it next runs.
    pub(super) fn pause(self) -> Result<()> {
        let family = self.family();
        family.iter().for_each(|process| process.signal(Signal::STOP));
        if !wait(KILL_BOUND, || family.iter().all(|process| process.condition() != Condition::Running)) {
            bail!("the process {} was told to stop and still runs after {} s", self.pid, KILL_BOUND.as_secs());
        }
        Ok(())
    }

    /// Lets it go on, with its children.
    pub(super) fn resume(self) {
        self.family().into_iter().for_each(|process| process.signal(Signal::CONT));
    }

    /// Ends it as a crash would, with its children, and waits for their end.
    pub(super) fn kill(self) -> Result<()> {
        let family = self.family();
        family.iter().for_each(|process| process.signal(Signal::KILL));
        let all_ended = || family.iter().all(|process| process.condition() == Condition::Stopped);
        if !wait(KILL_BOUND, all_ended) {
            bail!("the process {} was killed and is still there after {} s", self.pid, KILL_BOUND.as_secs());
        }
        Ok(())
    }

    /// Asks it to end, also if it is paused. [`Process::wait_for_end`] waits for it.
    pub(super) fn ask_to_end(self, signal: Signal) {
        self.signal(signal);
        self.resume();
    }

    /// Waits for its end, and kills it if it does not come.
    pub(super) fn wait_for_end(self, bound: Duration) -> Result<()> {
        if wait(bound, || self.condition() == Condition::Stopped) { Ok(()) } else { self.kill() }
    }

    /// It and its children, as long as it runs.
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
            // It may have ended just now.
            let _ = Pid::from_raw(self.pid).map(|pid| kill_process(pid, signal));
        }
    }
}

/// The running programs of this name that work in a folder.
pub(super) fn working_in(folder: &Path, program: &str) -> Vec<Process> {
    let works_there = |pid: &i32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let works_in = std::fs::read_link(format!("/proc/{pid}/cwd"));
        name.trim() == program && works_in.is_ok_and(|works_in| works_in == folder)
    };
    ids().filter(works_there).filter_map(stat).map(|stat| stat.process).collect()
}

/// Waits until something holds; false if it does not in time.
pub(super) fn wait(bound: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + bound;
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

/// The end of a log, for the message of a failure.
pub(super) fn last_lines(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(TOLD_LINES)..].join("\n  ");
    format!("the last lines of {}:\n  {last}", log.display())
}

/// Runs a program that ends by itself, within a bound; its output goes to the log.
pub(super) fn run(command: &mut Command, log: &Path) -> Result<()> {
    let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let errors = output.try_clone().context("cannot open a log twice")?;
    let status = command.stdout(output).stderr(errors).status();
    let status = status.with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{} failed ({status}); {}", command.get_program().display(), last_lines(log));
    }
    Ok(())
}

/// The ids of all processes of the machine.
fn ids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Reads `/proc/PID/stat`: <https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>.
fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses, which may itself have some.
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
    fn a_process_is_paused_and_goes_on_and_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let process = sleeper(folder.path());
        assert!(wait(KILL_BOUND, || process.family().len() == 2), "the shell starts a child");
        let family = process.family();
        process.pause().unwrap();
        assert!(family.iter().all(|process| process.condition() == Condition::Paused));
        process.resume();
        assert!(wait(KILL_BOUND, || family.iter().all(|process| process.condition() == Condition::Running)));
        process.kill().unwrap();
        assert!(family.iter().all(|process| process.condition() == Condition::Stopped));
        process.kill().unwrap();
        assert!(last_lines(&folder.path().join("log")).ends_with("started"));
    }

    #[test]
    fn one_that_is_paused_ends_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::spawn(Command::new("sleep").arg("600"), &folder.path().join("log")).unwrap();
        process.pause().unwrap();
        process.ask_to_end(Signal::TERM);
        process.wait_for_end(KILL_BOUND).unwrap();
        assert_eq!(process.condition(), Condition::Stopped);
    }

    #[test]
    fn a_stranger_with_the_same_id_is_let_alone() {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::spawn(Command::new("sleep").arg("600"), &folder.path().join("log")).unwrap();
        let earlier = Process { started_ticks: process.started_ticks - 1, ..process };
        assert_eq!(earlier.condition(), Condition::Stopped);
        earlier.kill().unwrap();
        assert_eq!(process.condition(), Condition::Running);
        process.kill().unwrap();
    }
}
