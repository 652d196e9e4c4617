//! Compilation of modules by Wasmtime. Wasmtime's types appear in this file and in [`crate::instance`] only.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::{Config, Inlining, InstancePre, Linker, Module, OptLevel, StoreLimits};

use crate::cost::Metering;
use crate::domain::{Digest, RuleRef};
use crate::inject::inject;
use crate::inspect::{Inspection, inspect};
use crate::limits::{
    EPOCH_TICK_MS, FUEL_PER_CALL, MAX_BINDINGS_PER_CALL, MAX_CALL_STATE_BYTES, RESET_PAGES_PER_CALL, WASM_STACK_BYTES,
};
use crate::manifest::Manifest;
use crate::violation::Rejection;

/// Compiles rules. A process needs one; clones share it.
#[derive(Clone)]
pub struct Engine(Arc<EngineInner>);

struct EngineInner {
    /// For certified rules: without epoch checks in their loops, since none of their calls can run long.
    certified: wasmtime::Engine,
    /// For metered rules.
    metered: wasmtime::Engine,
    /// Stops when it is dropped.
    _ticker: EpochTicker,
}

/// A compiled rule version. Cheap to clone.
#[derive(Clone)]
pub struct Rule(Arc<RuleInner>);

struct RuleInner {
    reference: RuleRef,
    inspection: Inspection,
    template: InstancePre<StoreLimits>,
    /// The most bindings to evaluate in one call.
    bindings_per_call: usize,
    /// Keeps the epoch advancing as long as there are instances.
    _engine: Engine,
}

/// A module that passed validation and was re-encoded, ready to be compiled.
pub struct Prepared {
    reference: RuleRef,
    inspection: Inspection,
    injected: Vec<u8>,
}

/// The machine code of a module, as [`Engine::compile`] returned it.
pub struct Artifact(Vec<u8>);

/// Why a module could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The module is not a valid rule.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The compiler refused a module that passed validation.
    #[error("the module passed validation, but could not be compiled: {0}")]
    Compile(String),
}

/// The engine could not start because the machine lacks something that Wasmtime needs.
#[derive(Debug, thiserror::Error)]
#[error("the WebAssembly engine cannot start: {0}")]
pub struct StartError(String);

impl Engine {
    /// Creates an engine and starts the thread that advances its epoch.
    ///
    /// # Errors
    /// Where the machine lacks something that Wasmtime needs, or threads.
    pub fn new() -> Result<Self, StartError> {
        let build = |metered| wasmtime::Engine::new(&config(metered)).map_err(|error| StartError(error.to_string()));
        let (certified, metered) = (build(false)?, build(true)?);
        let _ticker = EpochTicker::start(metered.clone()).map_err(|error| StartError(error.to_string()))?;
        Ok(Self(Arc::new(EngineInner { certified, metered, _ticker })))
    }

    /// Validates and compiles a module. May take tens of milliseconds, so do not call it on latency-sensitive threads. The
    /// compiler's time and memory are not limited here: for untrusted modules use [`Engine::prepare`], then
    /// [`Engine::compile`] in a process with limits, then [`Engine::load_compiled`].
    ///
    /// # Errors
    /// Where the module is not a rule, or cannot be compiled.
    pub fn load(&self, module: &[u8]) -> Result<Rule, LoadError> {
        let prepared = self.prepare(module)?;
        let compiled = Module::new(self.compiler(&prepared), &prepared.injected).map_err(compile_error)?;
        self.rule(prepared, &compiled)
    }

    /// Loads a module like [`Engine::load`], but always with a meter, to measure what the meter costs.
    pub fn load_metered(&self, module: &[u8]) -> Result<Rule, LoadError> {
        let inspection = Inspection { metering: Metering::Metered, ..inspect(module)? };
        let prepared = prepared(module, inspection);
        let compiled = Module::new(self.compiler(&prepared), &prepared.injected).map_err(compile_error)?;
        self.rule(prepared, &compiled)
    }

    /// Loads a module like [`Engine::load`], but with a guard on every store, proven or not, to test the proof against.
    pub fn load_guarded(&self, module: &[u8]) -> Result<Rule, LoadError> {
        let inspection = Inspection { in_record: Vec::new(), ..inspect(module)? };
        let prepared = prepared(module, inspection);
        let compiled = Module::new(self.compiler(&prepared), &prepared.injected).map_err(compile_error)?;
        self.rule(prepared, &compiled)
    }

    /// Validates and re-encodes a module. Fast, and safe with any bytes.
    ///
    /// # Errors
    /// Where the module is not a rule.
    pub fn prepare(&self, module: &[u8]) -> Result<Prepared, Rejection> {
        Ok(prepared(module, inspect(module)?))
    }

    /// Compiles to machine code. Time and memory depend on the module and are not limited.
    ///
    /// # Errors
    /// Where the compiler refuses the module.
    pub fn compile(&self, prepared: &Prepared) -> Result<Artifact, LoadError> {
        self.compiler(prepared).precompile_module(&prepared.injected).map(Artifact).map_err(compile_error)
    }

    /// Returns a digest of everything that a module's artifact depends on: Wasmtime's version and settings, the re-encoding
    /// and the module. Artifacts of equal fingerprints are interchangeable.
    pub fn fingerprint(&self, prepared: &Prepared) -> Digest {
        let mut compatibility = DefaultHasher::new();
        self.compiler(prepared).precompile_compatibility_hash().hash(&mut compatibility);
        let bytes = [&compatibility.finish().to_le_bytes(), prepared.reference.digest.0.as_slice(), &prepared.injected];
        Digest::of(&bytes.concat())
    }

    /// Loads the artifact that [`Engine::compile`] returned for the same module, without compiling.
    ///
    /// # Errors
    /// Where Wasmtime refuses the artifact.
    pub fn load_compiled(&self, prepared: Prepared, artifact: &Artifact) -> Result<Rule, LoadError> {
        #[expect(unsafe_code, reason = "Wasmtime cannot check machine code; the type says where it came from")]
        // SAFETY: an artifact is unchanged output of `precompile_module`: it is from `Engine::compile`, or the caller of
        // `Artifact::from_trusted` has ensured it. Wasmtime refuses one of another version or settings.
        let compiled = unsafe { Module::deserialize(self.compiler(&prepared), &artifact.0) }.map_err(compile_error)?;
        self.rule(prepared, &compiled)
    }

    fn compiler(&self, prepared: &Prepared) -> &wasmtime::Engine {
        match prepared.inspection.metering {
            Metering::Certified { .. } => &self.0.certified,
            Metering::Metered => &self.0.metered,
        }
    }

    fn rule(&self, prepared: Prepared, compiled: &Module) -> Result<Rule, LoadError> {
        let linker = Linker::<StoreLimits>::new(compiled.engine());
        let template = linker.instantiate_pre(compiled).map_err(compile_error)?;
        let Prepared { reference, inspection, .. } = prepared;
        let bindings_per_call = bindings_per_call(&inspection);
        Ok(Rule(Arc::new(RuleInner { reference, inspection, template, bindings_per_call, _engine: self.clone() })))
    }
}

/// Returns the most bindings to evaluate in one call, so that no call takes too long: those of a certified rule burn at most
/// [`FUEL_PER_CALL`], since each may fire, each may be evaluated again on pages that are reset, and the states of all are
/// copied before the call.
fn bindings_per_call(inspection: &Inspection) -> usize {
    let by_fuel = match inspection.metering {
        Metering::Certified { worst_fuel } => FUEL_PER_CALL / worst_fuel.max(1),
        // The driver ends the call by the meter.
        Metering::Metered => u64::MAX,
    };
    let by_pages = RESET_PAGES_PER_CALL.checked_div(inspection.guest_pages).unwrap_or(u64::MAX);
    let by_states =
        MAX_CALL_STATE_BYTES.checked_div(inspection.manifest.state_bytes).map_or(u64::MAX, |most| most as u64);
    by_fuel.min(by_pages).min(by_states).clamp(1, MAX_BINDINGS_PER_CALL.into()) as usize
}

fn prepared(module: &[u8], inspection: Inspection) -> Prepared {
    let injected = inject(module, &inspection);
    let manifest = &inspection.manifest;
    let reference =
        RuleRef { name: manifest.name.clone(), version: manifest.version.clone(), digest: Digest::of(module) };
    Prepared { reference, inspection, injected }
}

fn compile_error(error: wasmtime::Error) -> LoadError {
    LoadError::Compile(format!("{error:#}"))
}

impl Artifact {
    /// Restores an artifact of another process or an earlier run from its bytes.
    ///
    /// # Safety
    ///
    /// An artifact is machine code that runs in this process with all its rights, so bytes that were tampered with are
    /// arbitrary code. The caller must ensure that they are exactly what [`Engine::compile`] returned: because they were
    /// received directly from a compiler process that it started, or because it has verified their MAC.
    #[expect(unsafe_code, reason = "only the caller knows where the bytes are from")]
    pub unsafe fn from_trusted(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Returns the machine code.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Converts into the machine code.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl Prepared {
    /// Returns name, version and digest.
    pub fn reference(&self) -> &RuleRef {
        &self.reference
    }
}

impl Rule {
    /// Returns name, version and digest.
    pub fn reference(&self) -> &RuleRef {
        &self.0.reference
    }

    /// Returns the manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.0.inspection.manifest
    }

    /// Returns whether it runs on a meter.
    pub fn metering(&self) -> Metering {
        self.0.inspection.metering
    }

    pub(crate) fn guest_pages(&self) -> u64 {
        self.0.inspection.guest_pages
    }

    /// Returns the indices of the module's mutable globals.
    pub(crate) fn mutable_globals(&self) -> &[u32] {
        &self.0.inspection.mutable_globals
    }

    /// Returns the initial content of its own pages: offsets and bytes; the rest is zero.
    pub(crate) fn data(&self) -> &[(usize, Vec<u8>)] {
        &self.0.inspection.data
    }

    /// Returns the fuel that evaluations burnt: what the meter counted, or, for a certified rule, the most that it can be.
    pub(crate) fn fuel_of(&self, evaluations: u64, metered: u32) -> u64 {
        match self.metering() {
            Metering::Certified { worst_fuel } => worst_fuel * evaluations,
            Metering::Metered => metered.into(),
        }
    }

    /// Returns the most bindings to evaluate in one call.
    #[inline]
    pub(crate) fn bindings_per_call(&self) -> usize {
        self.0.bindings_per_call
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

/// Returns Wasmtime's settings. [`crate::inspect`] decides which features of WebAssembly a rule may use; most others are
/// left out of the build of Wasmtime.
fn config(metered: bool) -> Config {
    let mut config = Config::new();
    config
        .cranelift_opt_level(OptLevel::Speed)
        // Inlines `evaluate` into the driver's loop.
        .compiler_inlining(Inlining::Yes)
        // The hints of injected code; custom sections of the module are removed.
        .wasm_branch_hinting(true)
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

/// A thread that advances the epoch at a fixed rate, so that a call of a metered rule cannot exceed its deadline.
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
            // The thread does not own an engine, so this never runs on the thread itself.
            let _ = thread.join();
        }
    }
}
