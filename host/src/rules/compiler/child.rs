//! `tocsin compile-module`: what runs in the child. A module comes on standard input, an answer goes to standard output.
//!
//! The process limits itself before it reads anything but its arguments: no settings, whatever its environment and folder
//! are, and nothing of the module. No limit can be raised again past its hard value.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use clap::Parser;
use tocsin_engine::Engine;
use tocsin_engine::limits::MAX_MODULE_BYTES;

use super::job::{self, Refusal};
use super::{DEFAULT_CPU_S, DEFAULT_MEMORY_MIB, answer};

/// The exit status of a child that could not do its work for reasons of its own.
pub(super) const EXIT_BROKEN: u8 = 70;

/// The first argument of a child.
pub(super) const COMMAND: &str = "compile-module";

/// Compile a module from standard input under limits: the server starts this for each upload
#[derive(Debug, Parser)]
#[command(name = "tocsin compile-module")]
struct ChildArgs {
    /// Address space while compiling, in MiB
    #[arg(long, default_value_t = DEFAULT_MEMORY_MIB)]
    memory_mib: u64,
    /// CPU time, in seconds
    #[arg(long, default_value_t = DEFAULT_CPU_S)]
    cpu_s: u64,
    /// Hold a trial run as well
    #[arg(long)]
    trial: bool,
}

/// Does the work of a child and returns its exit code, where that is what the arguments of this process say. Reads, compiles,
/// answers, without an async runtime: its threads would count against the limits.
pub fn run_if_child(args: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut args = args.into_iter().skip(1).peekable();
    args.peek().filter(|command| *command == COMMAND)?;
    let args = match ChildArgs::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    Some(match answer_one(&args) {
        Ok(()) => ExitCode::SUCCESS,
        // Standard error leads nowhere: the status says enough.
        Err(_) => ExitCode::from(EXIT_BROKEN),
    })
}

fn answer_one(args: &ChildArgs) -> anyhow::Result<()> {
    limits::narrow(args.memory_mib, args.cpu_s)?;
    // No file of a user's folder is near, whoever started this.
    std::env::set_current_dir("/")?;
    let mut module = Vec::new();
    // One byte over the cap shows that it is over; the rest is not needed for that.
    std::io::stdin().take(MAX_MODULE_BYTES as u64 + 1).read_to_end(&mut module)?;
    let engine = Engine::new()?;
    let result = job::with_stack(|| job::compile(&engine, &module, args.trial, widen));
    std::io::stdout().write_all(&answer::encode(result))?;
    Ok(std::io::stdout().flush()?)
}

fn widen() -> Result<(), Refusal> {
    use tocsin_engine::violation::{Code, Violation};
    limits::widen_for_trial().map_err(|error| {
        vec![Violation::new(Code::CompileLimit, format!("the trial run cannot be given its memory: {error}"))]
    })
}

#[cfg(unix)]
mod limits {
    //! The limits of this very process.

    use std::io;

    use rustix::process::{Resource, Rlimit, getrlimit, nice, setrlimit};
    use tocsin_engine::limits::MAX_GUEST_PAGES;

    /// Address space for the trial run: Wasmtime reserves 4 GiB and guards for each memory, and a faulted instance,
    /// its successor and the one of an audit live at once. What is really used stays bounded by the limits of an instance.
    const TRIAL_ADDRESS_BYTES: u64 = 24 << 30;

    /// The largest file that the trial run may write, in bytes: Wasmtime keeps a module's initial memory in an anonymous
    /// file, no larger than the pages of 64 KiB that it may ask for.
    const TRIAL_FILE_BYTES: u64 = MAX_GUEST_PAGES << 16;

    /// Open files: the three standard streams, Wasmtime's anonymous file, and what the C library opens to start.
    const MAX_OPEN_FILES: u64 = 16;

    /// Let others go first: honest alerts are evaluated meanwhile.
    const NICENESS: i32 = 10;

    fn set(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
        // Who runs the server may have set a lower hard limit: that one holds.
        let hard = getrlimit(resource).maximum.map_or(hard, |set| set.min(hard));
        Ok(setrlimit(resource, Rlimit { current: Some(soft.min(hard)), maximum: Some(hard) })?)
    }

    /// What compiling needs and no more.
    pub(super) fn narrow(memory_mib: u64, cpu_s: u64) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        let memory_bytes = memory_mib.saturating_mul(1 << 20);
        set(Resource::As, memory_bytes, memory_bytes.saturating_add(TRIAL_ADDRESS_BYTES))?;
        // The soft limit ends the process with a signal of its own; the hard one is for who ignores that.
        set(Resource::Cpu, cpu_s, cpu_s + 1)?;
        set(Resource::Core, 0, 0)?;
        set(Resource::Nofile, MAX_OPEN_FILES, MAX_OPEN_FILES)?;
        set(Resource::Fsize, 0, TRIAL_FILE_BYTES)?;
        nice(NICENESS)?;
        Ok(())
    }

    /// What the trial run needs beyond that: the hard limits.
    pub(super) fn widen_for_trial() -> io::Result<()> {
        for resource in [Resource::As, Resource::Fsize] {
            let maximum = getrlimit(resource).maximum;
            setrlimit(resource, Rlimit { current: maximum, maximum })?;
        }
        Ok(())
    }
}

#[cfg(not(unix))]
mod limits {
    //! This system has no limits for a process: the parent's deadline is all there is.

    pub(super) fn narrow(_memory_mib: u64, _cpu_s: u64) -> std::io::Result<()> {
        Ok(())
    }

    pub(super) fn widen_for_trial() -> std::io::Result<()> {
        Ok(())
    }
}
