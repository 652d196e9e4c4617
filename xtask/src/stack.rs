//! `cargo xtask stack`: Kafka, Redis and PostgreSQL to develop and test against, in Docker where an engine answers and as
//! local programs where none does. A stack lives in a folder: its ports, data, logs and processes are its own.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Subcommand;
use clap::builder::RangedI64ValueParser;

use crate::tools;

mod docker;
mod kafka;
mod local;
mod part;
mod ports;
mod postgres;
mod process;
mod redis;
mod state;
mod status;

use part::{MAX_BROKERS, Part};
use state::{Engine, State};

/// Where the stack is without `--dir`, below the target folder.
const FOLDER: &str = "stack";

/// What `cargo xtask stack` takes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The stack's folder [default: target/stack]
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start what does not run, and print the variables that the server reads
    Up(Up),
    /// End everything that `up` started
    Down {
        /// Remove the data, too
        #[arg(long)]
        wipe: bool,
    },
    /// Tell what runs, and where
    Status {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Start one part, or let a paused one go on
    Start { part: Part },
    /// End one part in order
    Stop { part: Part },
    /// End one part as a crash would
    Kill { part: Part },
    /// Hold one part still, as an overloaded machine would
    Pause { part: Part },
    /// As `up`, but when standard input ends, so does the stack, with its data
    #[command(hide = true)]
    Hold(Up),
}

/// How a stack comes up.
#[derive(clap::Args)]
struct Up {
    /// Brokers of the Kafka cluster [default: 1, or those that the stack has]
    #[arg(long, value_name = "N", value_parser = brokers())]
    brokers: Option<u8>,
    /// Use local programs although Docker answers
    #[arg(long)]
    local: bool,
}

/// How many brokers a stack can have.
pub(crate) fn brokers() -> RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(1..=i64::from(MAX_BROKERS))
}

/// Does what was typed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let folder = match &args.dir {
        Some(folder) => std::path::absolute(folder).context("--dir is no path")?,
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
        Action::Start { part } => change(&folder, *part, |state, part| match state.engine {
            Engine::Local => local::start(state, &folder, &[part]),
            Engine::Docker => docker::start(state, &[part]),
        }),
        Action::Stop { part } => change(&folder, *part, |state, part| match state.engine {
            Engine::Local => local::stop(state, &[part]),
            Engine::Docker => docker::stop(state, &[part]),
        }),
        Action::Kill { part } => change(&folder, *part, |state, part| match state.engine {
            Engine::Local => local::process(state, part)?.kill(),
            Engine::Docker => docker::kill(state, part),
        }),
        Action::Pause { part } => change(&folder, *part, |state, part| match state.engine {
            Engine::Local => local::process(state, part)?.pause(),
            Engine::Docker => docker::pause(state, part),
        }),
    }
}

/// Brings the stack up, and returns the lines that tell the server of it.
fn up(folder: &Path, how: &Up) -> Result<String> {
    let _lock = state::lock(folder)?;
    let mut state = match State::load(folder)? {
        Some(state) => state,
        None => {
            let engine = if !how.local && docker::answers() { Engine::Docker } else { Engine::Local };
            let state = State::new(engine, how.brokers.unwrap_or(1))?;
            state.save(folder)?;
            state
        }
    };
    let brokers = state.brokers.len();
    if how.brokers.is_some_and(|asked| usize::from(asked) != brokers) {
        bail!("the stack in {} has {brokers} brokers; `cargo xtask stack down --wipe` removes it", folder.display());
    }
    ensure!(
        state.engine == Engine::Docker || Path::new("/proc/self/stat").is_file(),
        "without Docker a stack needs Linux: its processes are found by /proc"
    );
    match state.engine {
        Engine::Local => local::up(&mut state, folder)?,
        Engine::Docker => docker::start(&state, &state.parts())?,
    }
    Ok(state.environment().map(|(name, value)| format!("{name}={value}")).join("\n"))
}

fn down(folder: &Path, wipe: bool) -> Result<()> {
    let _lock = state::lock(folder)?;
    let Some(state) = State::load(folder)? else {
        return Ok(());
    };
    match state.engine {
        Engine::Local => local::stop(&state, &state.parts())?,
        Engine::Docker => docker::stop(&state, &state.parts())?,
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

/// Holds a stack up for the process at the other end of standard input. However that one ends, the stack ends, too.
fn hold(folder: &Path, how: &Up) -> Result<()> {
    let held = up(folder, how).and_then(|environment| {
        // An empty line: that is all.
        print(&format!("{environment}\n"))?;
        std::io::stdin().read_to_end(&mut Vec::new()).context("cannot wait for the end of standard input")
    });
    let ended = down(folder, true);
    // Nobody else uses a folder that is held, so its lock may go. What a stranger put there stays, and so does the folder.
    let _ = std::fs::remove_file(folder.join(state::LOCK_FILE)).and_then(|()| std::fs::remove_dir(folder));
    held.and(ended)
}

/// Does something to one part of a stack that is there.
fn change(folder: &Path, part: Part, change: impl FnOnce(&mut State, Part) -> Result<()>) -> Result<()> {
    let _lock = state::lock(folder)?;
    let mut state = existing(folder)?;
    let brokers = state.brokers.len();
    ensure!(state.parts().contains(&part), "there is no {part}: the stack has {brokers} brokers, redis and postgres");
    change(&mut state, part)
}

fn existing(folder: &Path) -> Result<State> {
    let state = State::load(folder)?;
    state.with_context(|| format!("there is no stack in {}; `cargo xtask stack up` makes one", folder.display()))
}

/// Writes to standard output, which may be a pipe that nobody reads any more.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot write the answer")
}

/// Bits without a pattern.
fn random() -> Result<u128> {
    let mut bytes = [0; 16];
    let source = std::fs::File::open("/dev/urandom");
    source.and_then(|mut source| source.read_exact(&mut bytes)).context("cannot read /dev/urandom")?;
    Ok(u128::from_ne_bytes(bytes))
}
