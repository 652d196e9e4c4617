//! The work itself, the same in a child and in this process: compile a module, and try it out.

use tocsin_engine::domain::Digest;
use tocsin_engine::limits::THREAD_STACK_BYTES;
use tocsin_engine::trial::{TrialFault, trial};
use tocsin_engine::violation::{Code, Violation};
use tocsin_engine::{Artifact, Engine, LoadError};

/// Everything for which a module is refused.
pub(super) type Refusal = Vec<Violation>;

/// A module that was compiled, and passed its trial if it was to have one.
pub(super) struct Compiled {
    pub(super) fingerprint: Digest,
    pub(super) artifact: Artifact,
}

/// What a server would say of a module after validation: compiles it and holds the trial run, without limits.
pub fn try_module(engine: &Engine, module: &[u8]) -> Result<(), Vec<Violation>> {
    with_stack(|| compile(engine, module, true, || Ok(()))).map(|_| ())
}

/// Compiles a module and, if asked to, tries it out. `before_trial` is called between the two.
pub(super) fn compile(
    engine: &Engine,
    module: &[u8],
    with_trial: bool,
    before_trial: impl FnOnce() -> Result<(), Refusal>,
) -> Result<Compiled, Refusal> {
    let prepared = engine.prepare(module).map_err(|rejection| rejection.violations)?;
    let fingerprint = engine.fingerprint(&prepared);
    let artifact = engine.compile(&prepared).map_err(refusal)?;
    if with_trial {
        before_trial()?;
        let rule = engine.load_compiled(prepared, &artifact).map_err(refusal)?;
        let faults = trial(&rule).map_err(|error| vec![Violation::new(Code::CompileLimit, error.to_string())])?;
        if !faults.is_empty() {
            return Err(faults.iter().map(TrialFault::violation).collect());
        }
    }
    Ok(Compiled { fingerprint, artifact })
}

fn refusal(error: LoadError) -> Refusal {
    match error {
        LoadError::Rejected(rejection) => rejection.violations,
        LoadError::Compile(_) => vec![Violation::new(Code::CompileFailed, error.to_string())],
    }
}

/// Runs a job on a thread whose stack suffices for rules. A panic is the module's fault: it is what the compiler fell over.
pub(super) fn with_stack<T: Send>(job: impl FnOnce() -> Result<T, Refusal> + Send) -> Result<T, Refusal> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("tocsin-compile".into()).stack_size(THREAD_STACK_BYTES);
        let thread = thread.spawn_scoped(scope, job).map_err(|error| {
            vec![Violation::new(Code::CompileLimit, format!("there is no room for the compiler's thread: {error}"))]
        })?;
        let crashed = |_| vec![Violation::new(Code::CompileFailed, "the compiler crashed on this module")];
        thread.join().map_err(crashed)?
    })
}
