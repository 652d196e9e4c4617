//! The command line: what each action does with a stack, on either engine.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Subcommand;
use clap::builder::RangedI64ValueParser;

use crate::service::{MAX_BROKERS, Service};
use crate::state::{self, Engine, State};
use crate::{docker, local, status, tools};

/// The folder of the stack without `--dir`, below the target folder.
const FOLDER: &str = "stack";

/// The arguments of `cargo xtask stack`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The stack's folder [default: target/stack]
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Start the services that are stopped, and print the environment variables of the server
    Up(Up),
    /// Stop all services
    Down {
        /// Remove the data as well
        #[arg(long)]
        wipe: bool,
    },
    /// Show the state, address and log of each service
    Status {
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Start one service, or resume it if it is paused
    Start { service: Service },
    /// Stop one service in order
    Stop { service: Service },
    /// Kill one service, as a crash would
    Kill { service: Service },
    /// Pause one service, as an overloaded machine would
    Pause { service: Service },
    /// As `up`, and remove the stack with its data at the end of standard input
    #[command(hide = true)]
    Hold(Up),
}

/// How a stack is started.
#[derive(Debug, clap::Args)]
struct Up {
    /// Number of Kafka brokers [default: 1, or as many as the stack has]
    #[arg(long, value_name = "N", value_parser = brokers())]
    brokers: Option<u8>,
    /// Use local programs even if Docker is available
    #[arg(long)]
    local: bool,
}

/// Parses a number of brokers that a stack can have.
pub fn brokers() -> RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(1..=i64::from(MAX_BROKERS))
}

/// Carries out a command line.
///
/// # Errors
/// Where the stack does not exist, or a service cannot be installed, started, stopped or found.
pub fn run(args: &Args) -> Result<()> {
    let folder = match &args.dir {
        Some(folder) => std::path::absolute(folder).context("--dir is not a path")?,
        None => tools::target_folder()?.join(FOLDER),
    };
    match &args.action {
        Action::Up(how) => print(&up(&folder, how)?),
        Action::Hold(how) => hold(&folder, how),
        Action::Down { wipe } => down(&folder, *wipe),
        Action::Status { json } => {
            let state = existing(&folder)?;
            print(&if *json { status::json(&state, &folder)? } else { status::table(&state, &folder)? })
        }
        Action::Start { service } => change(&folder, *service, |state, service| match state.engine {
            Engine::Local => local::start(state, &folder, &[service]),
            Engine::Docker => docker::start(state, &[service]),
        }),
        Action::Stop { service } => change(&folder, *service, |state, service| match state.engine {
            Engine::Local => local::stop(state, &[service]),
            Engine::Docker => docker::stop(state, &[service]),
        }),
        Action::Kill { service } => change(&folder, *service, |state, service| match state.engine {
            Engine::Local => local::process(state, service)?.kill(),
            Engine::Docker => docker::kill(state, service),
        }),
        Action::Pause { service } => change(&folder, *service, |state, service| match state.engine {
            Engine::Local => local::process(state, service)?.pause(),
            Engine::Docker => docker::pause(state, service),
        }),
    }
}

/// Starts the stack, and returns the server's environment variables, one a line.
fn up(folder: &Path, how: &Up) -> Result<String> {
    let _lock = state::lock(folder)?;
    let mut state = match State::load(folder)? {
        Some(state) => state,
        None => {
            let engine = if !how.local && docker::is_available() { Engine::Docker } else { Engine::Local };
            let state = State::new(engine, how.brokers.unwrap_or(1))?;
            state.save(folder)?;
            state
        }
    };
    let brokers = state.brokers.len();
    if how.brokers.is_some_and(|wanted| usize::from(wanted) != brokers) {
        bail!("the stack in {} has {brokers} brokers; `cargo xtask stack down --wipe` removes it", folder.display());
    }
    ensure!(
        state.engine == Engine::Docker || Path::new("/proc/self/stat").is_file(),
        "without Docker a stack needs Linux: its processes are found by /proc"
    );
    match state.engine {
        Engine::Local => local::up(&mut state, folder)?,
        Engine::Docker => docker::start(&state, &state.services())?,
    }
    Ok(state.environment().map(|(name, value)| format!("{name}={value}")).join("\n"))
}

fn down(folder: &Path, wipe: bool) -> Result<()> {
    let _lock = state::lock(folder)?;
    let Some(state) = State::load(folder)? else {
        return Ok(());
    };
    match state.engine {
        Engine::Local => local::stop(&state, &state.services())?,
        Engine::Docker => docker::stop(&state, &state.services())?,
    }
    if !wipe {
        return Ok(());
    }
    match state.engine {
        Engine::Local => local::wipe(&state, folder)?,
        Engine::Docker => docker::wipe(&state)?,
    }
    State::remove(folder)
}

/// Keeps a stack up until standard input ends, which it does when the process at its other end ends, however it ends.
/// Then removes the stack.
fn hold(folder: &Path, how: &Up) -> Result<()> {
    let held = up(folder, how).and_then(|environment| {
        // An empty line ends the list.
        print(&format!("{environment}\n"))?;
        std::io::stdin().read_to_end(&mut Vec::new()).context("cannot wait for the end of standard input")
    });
    let ended = down(folder, true);
    // No other process uses the folder of a held stack, so its lock file can be removed. The folder stays if it contains
    // anything else.
    let _ = std::fs::remove_file(folder.join(state::LOCK_FILE)).and_then(|()| std::fs::remove_dir(folder));
    held.and(ended)
}

/// Applies a change to one service of an existing stack, under the stack's lock.
fn change(folder: &Path, service: Service, change: impl FnOnce(&mut State, Service) -> Result<()>) -> Result<()> {
    let _lock = state::lock(folder)?;
    let mut state = existing(folder)?;
    let brokers = state.brokers.len();
    ensure!(
        state.services().contains(&service),
        "there is no {service}: the stack has {brokers} brokers, redis and postgres"
    );
    change(&mut state, service)
}

fn existing(folder: &Path) -> Result<State> {
    let state = State::load(folder)?;
    state.with_context(|| format!("there is no stack in {}; `cargo xtask stack up` starts one", folder.display()))
}

/// Writes to standard output. It may be a closed pipe, where `println!` would panic.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot write to standard output")
}
