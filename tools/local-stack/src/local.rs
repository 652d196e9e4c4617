//! A stack of local programs: installs, starts and stops them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;

use crate::process::{Condition, Process, last_lines, wait};
use crate::service::Service;
use crate::state::{State, log_file};
use crate::{kafka, ports, postgres, redis};

/// The longest wait until a service is ready: about thirty times what it takes on two idle cores.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// A service that takes longer to stop in order is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Starts the services that are stopped, and waits until all are ready. Chooses other ports if nothing runs and one of
/// them is taken.
pub(crate) fn up(state: &mut State, folder: &Path) -> Result<()> {
    let services = state.services();
    let stopped: Vec<Service> = in_condition(state, &services, Condition::Stopped);
    if stopped == services && !ports::are_free(&state.ports()) {
        state.choose_ports()?;
        state.save(folder)?;
    }
    start(state, folder, &services)
}

/// Starts those of the services that are stopped, resumes those that are paused, and waits until all of them are ready.
pub(crate) fn start(state: &mut State, folder: &Path, services: &[Service]) -> Result<()> {
    in_condition(state, services, Condition::Paused)
        .into_iter()
        .filter_map(|service| state.process(service))
        .for_each(Process::resume);
    let stopped = in_condition(state, services, Condition::Stopped);
    install(&stopped)?;
    let logs = folder.join("logs");
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot make the folder {}", logs.display()))?;
    for (service, command) in stopped.iter().zip(prepare_all(&stopped, state, folder)) {
        let mut command = command.with_context(|| format!("{service} cannot be started"))?;
        let process = Process::spawn(&mut command, &log_file(folder, *service))?;
        state.set_process(*service, process);
        state.save(folder)?;
    }
    services.iter().try_for_each(|service| await_ready(*service, state, folder))
}

/// Stops services in order, all at once, and waits until they have ended.
pub(crate) fn stop(state: &State, services: &[Service]) -> Result<()> {
    let processes = || services.iter().filter_map(|service| Some((*service, state.process(*service)?)));
    for (service, process) in processes() {
        // SIGINT is PostgreSQL's fast shutdown, which does not wait for clients.
        process.terminate(if service == Service::Postgres { Signal::INT } else { Signal::TERM });
    }
    processes().try_for_each(|(service, process)| {
        process.wait_for_end(STOP_TIMEOUT).with_context(|| format!("{service} cannot be stopped"))
    })
}

/// Removes the data and logs of a stopped stack.
pub(crate) fn wipe(state: &State, folder: &Path) -> Result<()> {
    postgres::wipe(state, folder)?;
    let own = state.services().into_iter().map(|service| folder.join(service.to_string())).chain([folder.join("logs")]);
    for own in own.filter(|own| own.is_dir()) {
        std::fs::remove_dir_all(&own).with_context(|| format!("cannot remove {}", own.display()))?;
    }
    Ok(())
}

/// Returns the process of a service that is running or paused.
pub(crate) fn process(state: &State, service: Service) -> Result<Process> {
    let process = state.process(service).filter(|process| process.condition() != Condition::Stopped);
    process.with_context(|| format!("{service} does not run; `cargo xtask stack start {service}` starts it"))
}

/// Returns the services that are in the given condition.
fn in_condition(state: &State, services: &[Service], condition: Condition) -> Vec<Service> {
    services.iter().copied().filter(|service| state.condition(*service) == condition).collect()
}

fn install(services: &[Service]) -> Result<()> {
    let mut missing = services.to_vec();
    // All brokers are the same program.
    missing.dedup_by_key(|service| if let Service::Kafka(_) = service { Service::Kafka(1) } else { *service });
    missing.into_iter().try_for_each(|service| match service {
        Service::Kafka(_) => kafka::install(),
        Service::Redis => redis::install(),
        Service::Postgres => postgres::install(),
    })
}

/// Prepares services concurrently: Kafka and PostgreSQL each take about a second to format their folders.
fn prepare_all(services: &[Service], state: &State, folder: &Path) -> Vec<Result<Command>> {
    let prepare = |service: Service| match service {
        Service::Kafka(number) => kafka::prepare(number, state, folder),
        Service::Redis => redis::prepare(state, folder),
        Service::Postgres => postgres::prepare(state, folder),
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = services.iter().map(|service| scope.spawn(move || prepare(*service))).collect();
        threads.into_iter().map(|thread| thread.join().expect("preparing does not panic")).collect()
    })
}

fn await_ready(service: Service, state: &State, folder: &Path) -> Result<()> {
    let process = process(state, service)?;
    let is_ready = || match service {
        Service::Kafka(number) => kafka::is_ready(number, state),
        Service::Redis => redis::is_ready(process, state),
        Service::Postgres => postgres::is_ready(process, state, folder),
    };
    let mut ended = false;
    let ready = wait(READY_TIMEOUT, || {
        ended = process.condition() == Condition::Stopped;
        ended || is_ready()
    });
    let log = log_file(folder, service);
    if ended {
        bail!("{service} exited before it was ready; {}", last_lines(&log));
    }
    if !ready {
        bail!("{service} is not ready after {} s; {}", READY_TIMEOUT.as_secs(), last_lines(&log));
    }
    Ok(())
}
