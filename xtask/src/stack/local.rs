//! A stack of local programs: what is missing is installed, what does not run is started, what was started is ended.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use super::part::Part;
use super::process::{Condition, Process, last_lines, wait};
use super::state::{State, log_file};
use super::{kafka, ports, postgres, redis};

/// How long a part may take until it answers: some thirty times what it takes on two idle cores.
const READY_BOUND: Duration = Duration::from_secs(120);

/// How long a part may take to end in order, before it is killed.
const END_BOUND: Duration = Duration::from_secs(15);

/// Starts what does not run, and waits until everything answers.
pub(super) fn up(state: &mut State, folder: &Path) -> Result<()> {
    let parts = state.parts();
    let stopped: Vec<Part> = with(state, &parts, Condition::Stopped);
    if stopped == parts && !ports::are_free(&state.ports()) {
        state.choose_ports()?;
        state.save(folder)?;
    }
    start(state, folder, &parts)
}

/// Starts those of the parts that do not run, lets paused ones go on, and waits until all of them answer.
pub(super) fn start(state: &mut State, folder: &Path, parts: &[Part]) -> Result<()> {
    with(state, parts, Condition::Paused).into_iter().filter_map(|part| state.process(part)).for_each(Process::resume);
    let stopped = with(state, parts, Condition::Stopped);
    install(&stopped)?;
    let logs = folder.join("logs");
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot make the folder {}", logs.display()))?;
    for (part, command) in stopped.iter().zip(prepare_all(&stopped, state, folder)) {
        let mut command = command.with_context(|| format!("{part} cannot be started"))?;
        let process = Process::spawn(&mut command, &log_file(folder, *part))?;
        state.set_process(*part, process);
        state.save(folder)?;
    }
    parts.iter().try_for_each(|part| await_ready(*part, state, folder))
}

/// Ends parts in order, all at once, and waits for their end.
pub(super) fn stop(state: &State, parts: &[Part]) -> Result<()> {
    let processes = || parts.iter().filter_map(|part| Some((*part, state.process(*part)?)));
    for (part, process) in processes() {
        // PostgreSQL's fast shutdown does not wait for its clients.
        process.ask_to_end(if part == Part::Postgres { Signal::INT } else { Signal::TERM });
    }
    processes()
        .try_for_each(|(part, process)| process.wait_for_end(END_BOUND).with_context(|| format!("{part} does not end")))
}

/// Removes what the stack keeps, of which nothing runs.
pub(super) fn wipe(state: &State, folder: &Path) -> Result<()> {
    postgres::wipe(state, folder)?;
    let own = state.parts().into_iter().map(|part| folder.join(part.to_string())).chain([folder.join("logs")]);
    for own in own.filter(|own| own.is_dir()) {
        std::fs::remove_dir_all(&own).with_context(|| format!("cannot remove {}", own.display()))?;
    }
    Ok(())
}

/// A part's process, if it runs or is paused.
pub(super) fn process(state: &State, part: Part) -> Result<Process> {
    let process = state.process(part).filter(|process| process.condition() != Condition::Stopped);
    process.with_context(|| format!("{part} does not run; `cargo xtask stack start {part}` starts it"))
}

/// Those of the parts in this condition.
fn with(state: &State, parts: &[Part], condition: Condition) -> Vec<Part> {
    parts.iter().copied().filter(|part| state.condition(*part) == condition).collect()
}

fn install(parts: &[Part]) -> Result<()> {
    let mut missing = parts.to_vec();
    // The brokers are one program.
    missing.dedup_by_key(|part| if let Part::Kafka(_) = part { Part::Kafka(1) } else { *part });
    missing.into_iter().try_for_each(|part| match part {
        Part::Kafka(_) => kafka::install(),
        Part::Redis => redis::install(),
        Part::Postgres => postgres::install(),
    })
}

/// Prepares parts beside each other: Kafka and PostgreSQL each format their folders for a second.
fn prepare_all(parts: &[Part], state: &State, folder: &Path) -> Vec<Result<Command>> {
    let prepare = |part: Part| match part {
        Part::Kafka(number) => kafka::prepare(number, state, folder),
        Part::Redis => redis::prepare(state, folder),
        Part::Postgres => postgres::prepare(state, folder),
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = parts.iter().map(|part| scope.spawn(move || prepare(*part))).collect();
        threads.into_iter().map(|thread| thread.join().expect("preparing does not panic")).collect()
    })
}

fn await_ready(part: Part, state: &State, folder: &Path) -> Result<()> {
    let process = process(state, part)?;
    let is_ready = || match part {
        Part::Kafka(number) => kafka::is_ready(number, state),
        Part::Redis => redis::is_ready(process, state),
        Part::Postgres => postgres::is_ready(process, state, folder),
    };
    let mut ended = false;
    let ready = wait(READY_BOUND, || {
        ended = process.condition() == Condition::Stopped;
        ended || is_ready()
    });
    let log = log_file(folder, part);
    if ended {
        bail!("{part} ended before it answered; {}", last_lines(&log));
    }
    if !ready {
        bail!("{part} does not answer after {} s; {}", READY_BOUND.as_secs(), last_lines(&log));
    }
    Ok(())
}
