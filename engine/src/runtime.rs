//! The narrow waist to Wasmtime: how modules are compiled, and what a compiled rule is. Nothing outside this file and
//! [`crate::instance`] names a Wasmtime type.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::{Config, Inlining, InstancePre, Linker, Module, OptLevel, StoreLimits};

use crate::cost::Metering;
use crate::domain::{Digest, RuleRef};
use crate::inject::inject;
use crate::inspect::{Inspection, inspect};
use crate::limits::{EPOCH_TICK_MS, WASM_STACK_BYTES};
use crate::manifest::Manifest;
use crate::violation::Rejection;

/// Compiles rules. One of it serves a process; clones share it.
#[derive(Clone)]
pub struct Engine(Arc<EngineInner>);

struct EngineInner {
    /// For certified rules: no epoch checks in their loops, since none of their calls can run long.
    certified: wasmtime::Engine,
    /// For metered rules.
    metered: wasmtime::Engine,
    /// Stops with the engine.
    _ticker: EpochTicker,
}

/// A compiled rule version. Cloning is cheap.
#[derive(Clone)]
pub struct Rule(Arc<RuleInner>);

struct RuleInner {
    reference: RuleRef,
    inspection: Inspection,
    template: InstancePre<StoreLimits>,
    /// Keeps the epoch ticking for as long as there are instances.
    _engine: Engine,
}

/// Why a module did not become a rule.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The module is at fault.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The compiler refused a module that passed validation.
    #[error("the module passed validation, but could not be compiled: {0}")]
    Compile(String),
}

/// The engine could not start: this machine lacks something that Wasmtime needs.
#[derive(Debug, thiserror::Error)]
#[error("the WebAssembly engine cannot start: {0}")]
pub struct StartError(String);

impl Engine {
    /// Starts an engine and the thread that drives its epoch.
    pub fn new() -> Result<Self, StartError> {
        let build = |metered| wasmtime::Engine::new(&config(metered)).map_err(|error| StartError(error.to_string()));
        let (certified, metered) = (build(false)?, build(true)?);
        let _ticker = EpochTicker::start(metered.clone()).map_err(|error| StartError(error.to_string()))?;
        Ok(Self(Arc::new(EngineInner { certified, metered, _ticker })))
    }

    /// Validates and compiles a module. May take tens of milliseconds: keep it off threads that must answer.
    pub fn load(&self, module: &[u8]) -> Result<Rule, LoadError> {
        let inspection = inspect(module)?;
        let engine = match inspection.metering {
            Metering::Certified { .. } => &self.0.certified,
            Metering::Metered => &self.0.metered,
        };
        let compile = || {
            let injected = Module::new(engine, inject(module, &inspection))?;
            Linker::<StoreLimits>::new(engine).instantiate_pre(&injected)
        };
        let template = compile().map_err(|error| LoadError::Compile(format!("{error:#}")))?;
        let manifest = &inspection.manifest;
        let reference =
            RuleRef { name: manifest.name.clone(), version: manifest.version.clone(), digest: Digest::of(module) };
        Ok(Rule(Arc::new(RuleInner { reference, inspection, template, _engine: self.clone() })))
    }
}

impl Rule {
    /// Its name, version and digest.
    pub fn reference(&self) -> &RuleRef {
        &self.0.reference
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.0.inspection.manifest
    }

    /// Whether it runs on a meter.
    pub fn metering(&self) -> Metering {
        self.0.inspection.metering
    }

    pub(crate) fn guest_pages(&self) -> u64 {
        self.0.inspection.guest_pages
    }

    pub(crate) fn template(&self) -> &InstancePre<StoreLimits> {
        &self.0.template
    }
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Rule").field(&self.0.reference).finish()
    }
}

/// Wasmtime's settings. The features of WebAssembly that rules may use are decided by [`crate::inspect`]; Wasmtime
/// itself is built without the rest.
fn config(metered: bool) -> Config {
    let mut config = Config::new();
    config
        .cranelift_opt_level(OptLevel::Speed)
        // Folds `evaluate` into the driver's loop.
        .compiler_inlining(Inlining::Yes)
        .epoch_interruption(metered)
        .max_wasm_stack(WASM_STACK_BYTES)
        .wasm_backtrace_max_frames(None)
        .wasm_simd(false)
        .wasm_relaxed_simd(false)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_tail_call(false)
        .wasm_extended_const(false);
    config
}

/// A thread that advances the epoch at a fixed pace, so that a call of a metered rule cannot outlive its deadline.
struct EpochTicker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EpochTicker {
    fn start(engine: wasmtime::Engine) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let tick = move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::park_timeout(Duration::from_millis(EPOCH_TICK_MS));
                engine.increment_epoch();
            }
        };
        let thread = std::thread::Builder::new().name("tocsin-epoch".into()).spawn(tick)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for EpochTicker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The last engine may be dropped on the ticker's own thread only if the ticker held one: it does not.
            let _ = thread.join();
        }
    }
}
