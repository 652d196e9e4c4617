//! Compiling strangers' modules: in a child process that may be killed, one at a time.
//!
//! A valid module within the limits of validation can still take the compiler long or much memory, and a fault in the
//! compiler is a fault of whoever runs it. So the server starts itself again as `tocsin compile-module`, with limits on
//! memory, CPU time and files, with no environment and no settings, and with a deadline; whatever becomes of the child is an answer to the
//! uploader. The child also holds the trial run.
//!
//! This is a limit on what compiling costs, not a jail: the child runs as the same user.

mod answer;
mod child;
mod job;
mod process;

use std::sync::Arc;

use tocsin_engine::Engine;
use tocsin_engine::domain::Digest;
use tocsin_engine::limits::MAX_MODULE_BYTES;
use tocsin_engine::violation::{Code, Rejection, Violation};
use tokio::task::JoinError;

pub use self::child::run_if_child;
pub use self::job::try_module;
pub use self::process::ChildCompiler;

/// Memory that compiling may take unless configured, in MiB of address space. The example rules take 28 MiB, 512 functions
/// that call each other 190. What takes more is built to: 4 functions of 2,048 loops over 508 locals take 660.
pub const DEFAULT_MEMORY_MIB: u64 = 512;

/// CPU time that compiling and the trial run may take unless configured, in seconds: 0.1 is usual, 0.8 was the most of any
/// module that was not built to take long, and those take 11.
pub const DEFAULT_CPU_S: u64 = 3;

/// Wall time that one child may take unless configured, in milliseconds: an uploader hears within 5 s.
pub const DEFAULT_DEADLINE_MS: u64 = 4500;

/// The largest artifact, in bytes: 64 times the code that a module may have.
pub const MAX_ARTIFACT_BYTES: usize = 16 * 1024 * 1024;

/// Uploads that may wait for the compiler, the one at work included. Together they wait no longer than a client's
/// patience: 8 times the deadline.
pub const MAX_QUEUED_UPLOADS: usize = 8;

/// Limits of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// Address space while compiling, MiB.
    pub memory_mib: u64,
    /// CPU time, seconds.
    pub cpu_s: u64,
    /// Wall time, milliseconds.
    pub deadline_ms: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { memory_mib: DEFAULT_MEMORY_MIB, cpu_s: DEFAULT_CPU_S, deadline_ms: DEFAULT_DEADLINE_MS }
    }
}

/// Refuses a module of too many bytes, whatever they are: what stands in them is not looked at.
pub fn check_size(module: &[u8]) -> Result<(), Rejection> {
    if module.len() <= MAX_MODULE_BYTES {
        return Ok(());
    }
    let text =
        format!("the module is larger than the {MAX_MODULE_BYTES} bytes allowed: build it optimised and stripped");
    Err(Rejection { violations: vec![Violation::new(Code::Limit, text)] })
}

/// Why a module is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It was uploaded: it is given a trial run, and is refused where too many wait already.
    Upload,
    /// It was accepted before, and bindings need it: it waits its turn, and is not validated again.
    Restore,
}

/// Why there is no artifact.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The module is at fault.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused(Vec<Violation>),
    /// Too many modules wait already.
    #[error("{MAX_QUEUED_UPLOADS} modules are waiting for the compiler; try again in some seconds")]
    Busy,
    /// The compiler could not be run; the module has nothing to do with it.
    #[error("the compiler cannot be run: {0}")]
    Broken(String),
}

impl From<JoinError> for CompileError {
    fn from(error: JoinError) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Where modules are compiled.
#[derive(Clone)]
pub enum Compiler {
    /// In this process and without limits: for modules that are trusted, and for tests.
    InProcess,
    /// In a process of its own.
    Child(Arc<ChildCompiler>),
}

impl Compiler {
    /// Compiles a module whose artifact must have this fingerprint; the artifact's bytes.
    pub async fn compile(
        &self,
        engine: &Engine,
        module: Arc<[u8]>,
        fingerprint: Digest,
        purpose: Purpose,
    ) -> Result<Vec<u8>, CompileError> {
        match self {
            Self::InProcess => {
                let engine = engine.clone();
                let compile = move || job::compile(&engine, &module, purpose == Purpose::Upload, || Ok(()));
                let compiled = tokio::task::spawn_blocking(|| job::with_stack(compile)).await?;
                compiled.map(|compiled| compiled.artifact.into_bytes()).map_err(CompileError::Refused)
            }
            Self::Child(child) => {
                let compiled = child.compile(&module, purpose).await?;
                if compiled.fingerprint != fingerprint {
                    let text = "the program on disk is another version than the one that runs; restart the server";
                    return Err(CompileError::Broken(text.into()));
                }
                Ok(compiled.artifact)
            }
        }
    }
}
