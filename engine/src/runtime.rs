//! The narrow waist to Wasmtime: how modules are compiled, and what a compiled rule is. Nothing outside this file and
//! [`crate::instance`] names a Wasmtime type.

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
use crate::limits::{EPOCH_TICK_MS, FUEL_PER_CALL, MAX_BINDINGS_PER_CALL, RESET_PAGES_PER_CALL, WASM_STACK_BYTES};
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

/// A module that passed validation and was re-encoded, ready to be compiled.
pub struct Prepared {
    reference: RuleRef,
    inspection: Inspection,
    injected: Vec<u8>,
}

/// Machine code of a module, as [`Engine::compile`] made it.
pub struct Artifact(Vec<u8>);

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

    /// Validates and compiles a module. May take tens of milliseconds: keep it off threads that must answer. Nothing
    /// bounds the compiler here: who takes modules from strangers calls [`Engine::prepare`], [`Engine::compile`] in a
    /// process with limits, and [`Engine::load_compiled`].
    pub fn load(&self, module: &[u8]) -> Result<Rule, LoadError> {
        let prepared = self.prepare(module)?;
        let compiled = Module::new(self.compiler(&prepared), &prepared.injected).map_err(compile_error)?;
        self.rule(prepared, &compiled)
    }

    /// As [`Engine::load`], but on the meter even if the rule could do without: what the meter costs can be measured so.
    pub fn load_metered(&self, module: &[u8]) -> Result<Rule, LoadError> {
        let inspection = Inspection { metering: Metering::Metered, ..inspect(module)? };
        let prepared = prepared(module, inspection);
        let compiled = Module::new(self.compiler(&prepared), &prepared.injected).map_err(compile_error)?;
        self.rule(prepared, &compiled)
    }

    /// As [`Engine::load`], but with every store guarded, whatever is proven of it: what the proof is held against.
    pub fn load_guarded(&self, module: &[u8]) -> Result<Rule, LoadError> {
        let inspection = Inspection { in_record: Vec::new(), ..inspect(module)? };
        let prepared = prepared(module, inspection);
        let compiled = Module::new(self.compiler(&prepared), &prepared.injected).map_err(compile_error)?;
        self.rule(prepared, &compiled)
    }

    /// Validates a module and re-encodes it: fast, and safe with any bytes.
    pub fn prepare(&self, module: &[u8]) -> Result<Prepared, Rejection> {
        Ok(prepared(module, inspect(module)?))
    }

    /// Compiles to machine code. Takes as long, and as much memory, as the module makes it take.
    pub fn compile(&self, prepared: &Prepared) -> Result<Artifact, LoadError> {
        self.compiler(prepared).precompile_module(&prepared.injected).map(Artifact).map_err(compile_error)
    }

    /// What the artifact of a module depends on: Wasmtime's version and settings, this engine's own re-encoding, and
    /// the module. Artifacts of equal fingerprints are interchangeable.
    pub fn fingerprint(&self, prepared: &Prepared) -> Digest {
        let mut compatibility = DefaultHasher::new();
        self.compiler(prepared).precompile_compatibility_hash().hash(&mut compatibility);
        let bytes = [&compatibility.finish().to_le_bytes(), prepared.reference.digest.0.as_slice(), &prepared.injected];
        Digest::of(&bytes.concat())
    }

    /// A rule from what [`Engine::compile`] made of the same module, without compiling.
    pub fn load_compiled(&self, prepared: Prepared, artifact: &Artifact) -> Result<Rule, LoadError> {
        #[expect(unsafe_code, reason = "Wasmtime cannot check machine code; the type says where it came from")]
        // SAFETY: an artifact is unchanged output of `precompile_module`: it comes from `Engine::compile`, or whoever
        // called `Artifact::from_trusted` promised so. Wasmtime itself refuses one of another version or settings.
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
        Ok(Rule(Arc::new(RuleInner { reference, inspection, template, _engine: self.clone() })))
    }
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
    /// Bytes that were an artifact once, of another process or an earlier run.
    ///
    /// # Safety
    ///
    /// An artifact is machine code, and is trusted as such: bytes that somebody tampered with are code that runs in this
    /// process, with all that it may do. The caller must know that they are exactly what [`Engine::compile`] returned:
    /// they come straight from a compiler process of its own, or carry a MAC that it has checked.
    #[expect(unsafe_code, reason = "only the caller can know where the bytes have been")]
    pub unsafe fn from_trusted(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl Prepared {
    /// Its name, version and digest.
    pub fn reference(&self) -> &RuleRef {
        &self.reference
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

    /// The module's globals that it can change, by index.
    pub(crate) fn mutable_globals(&self) -> &[u32] {
        &self.0.inspection.mutable_globals
    }

    /// What its own pages hold at first: offsets and bytes; all else is zero.
    pub(crate) fn data(&self) -> &[(usize, Vec<u8>)] {
        &self.0.inspection.data
    }

    /// The fuel that so many evaluations burnt, where the meter says `metered`: at most, for a certified rule.
    pub(crate) fn fuel_of(&self, evaluations: u64, metered: u32) -> u64 {
        match self.metering() {
            Metering::Certified { worst_fuel } => worst_fuel * evaluations,
            Metering::Metered => metered.into(),
        }
    }

    /// The most bindings that one call evaluates, so that none takes longer than a call may: those of a certified rule
    /// can burn no more than [`FUEL_PER_CALL`], and where each may fire, each is evaluated again on pages that are reset.
    pub(crate) fn bindings_per_call(&self) -> usize {
        let by_fuel = match self.metering() {
            Metering::Certified { worst_fuel } => FUEL_PER_CALL / worst_fuel.max(1),
            // The driver ends a call itself.
            Metering::Metered => u64::MAX,
        };
        let by_pages = RESET_PAGES_PER_CALL.checked_div(self.guest_pages()).unwrap_or(u64::MAX);
        by_fuel.min(by_pages).clamp(1, MAX_BINDINGS_PER_CALL.into()) as usize
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
        // Those of what is injected: an author's sections are left out.
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
