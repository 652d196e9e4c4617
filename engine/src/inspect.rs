//! Validates an uploaded module before anything is compiled: that it is WebAssembly, within the limits, and has the
//! interface and the manifest of a rule. Everything that is wrong is reported at once.
//!
//! The order matters: counts and sizes are checked while parsing, and only a module within the limits is passed on to the
//! full validator and, later, to the compiler.

mod accesses;
mod body;
mod sections;
mod stack;

use tocsin_rules_sdk::abi;
use wasmparser::WasmFeatures;

use crate::cost::{self, FunctionCost, Metering, STATE_BYTES_PER_FUEL};
use crate::limits::{FUEL_PER_EVALUATION, MAX_CHAIN_BYTES, MAX_MODULE_BYTES};
use crate::manifest::Manifest;
use crate::violation::{Code, Rejection, Violations};

use self::accesses::InRecord;
pub(crate) use self::accesses::{Access, access};
use self::sections::{Interface, Parsed};
use self::stack::CallGraph;

/// The features of WebAssembly that a rule may use: what compilers emit for plain code, and nothing with an unpredictable
/// cost or result. SIMD, threads, references, GC, exceptions, tail calls, 64-bit and multiple memories are off.
const FEATURES: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY_OPT)
    .union(WasmFeatures::CALL_INDIRECT_OVERLONG)
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::GC_TYPES);

/// The result of inspecting a module that passed.
#[derive(Debug)]
pub struct Inspection {
    /// The parsed manifest.
    pub manifest: Manifest,
    /// Whether it runs on a meter.
    pub metering: Metering,
    /// The memory that it asks for, in pages of 64 KiB.
    pub guest_pages: u64,
    /// The function index of `evaluate`.
    pub(crate) evaluate: u32,
    /// The function index of `migrate`, if it is exported.
    pub(crate) migrate: Option<u32>,
    /// For each load and store of `evaluate`, in order: whether it is proven to stay inside a record of the evaluated
    /// binding, and is allowed there. Empty if the module can call `evaluate` itself.
    pub(crate) in_record: Vec<bool>,
    /// The indices of the module's mutable globals.
    pub(crate) mutable_globals: Vec<u32>,
    /// The initial content of the module's own pages: offsets and bytes, in order. The rest is zero.
    pub(crate) data: Vec<(usize, Vec<u8>)>,
    /// The cost of each function.
    pub(crate) functions: Vec<FunctionCost>,
}

/// Validates a module.
///
/// # Errors
/// Where the module is not a rule, with everything that is wrong with it.
pub fn inspect(module: &[u8]) -> Result<Inspection, Rejection> {
    let mut violations = Violations::default();
    if let Some(reason) = not_a_module(module) {
        violations.add(Code::Format, reason);
        return Err(violations.into_rejection());
    }
    if module.len() > MAX_MODULE_BYTES {
        let text = format!("the module has {} bytes, more than the {MAX_MODULE_BYTES} allowed", module.len());
        violations.add(Code::Limit, text);
        return Err(violations.into_rejection());
    }
    let parsed = sections::walk(module, &mut violations);
    // The validator is not given a module that exceeds a limit. It is given one with a wrong interface, so that both are
    // reported.
    let over_limit = violations.holds(Code::Limit) || violations.holds(Code::Format);
    let interface = parsed.check_interface(&mut violations);
    let validated = if over_limit { Ok(Vec::new()) } else { accesses::validate(module, FEATURES, interface.evaluate) };
    if let Err(error) = &validated {
        let code = if error.message().contains("not enabled") || error.message().contains("not supported") {
            Code::Feature
        } else {
            Code::Format
        };
        violations.add(code, format!("{} (at byte {})", error.message(), error.offset()));
    }
    let manifest = match parsed.manifest {
        Some(bytes) => Manifest::parse(bytes, &mut violations),
        None if parsed.complete => {
            let section = abi::MANIFEST_SECTION;
            violations
                .add(Code::Manifest, format!("there is no custom section `{section}`: see docs/abi.md, Manifest"));
            None
        }
        None => None,
    };
    if let Some(manifest) = &manifest
        && manifest.migrates.is_empty() == interface.migrate.is_some()
    {
        let text = "manifest.migrates names older versions if, and only if, the function `migrate` is exported";
        violations.add(Code::Manifest, text);
    }
    match (manifest, interface.evaluate, parsed.guest_pages) {
        (Some(manifest), Some(evaluate), Some(guest_pages)) if violations.is_empty() => {
            let known = validated.unwrap_or_default();
            with_costs(parsed, manifest, Entries { evaluate, interface, known }, guest_pages, violations)
        }
        _ => Err(violations.into_rejection()),
    }
}

/// The functions that the host calls, and what is known of the accesses of `evaluate` when it does.
struct Entries {
    evaluate: u32,
    interface: Interface,
    known: Vec<Option<InRecord>>,
}

/// Completes the inspection of a valid module with its costs: of accesses, of stack, and whether it needs a meter.
fn with_costs(
    parsed: Parsed<'_>,
    manifest: Manifest,
    entries: Entries,
    guest_pages: u64,
    mut violations: Violations,
) -> Result<Inspection, Rejection> {
    let Entries { evaluate, interface, known } = entries;
    let Parsed { mut functions, in_table, mutable_globals, data, .. } = parsed;
    // The proof of accesses assumes that only the driver calls `evaluate`.
    let enters_itself = functions.iter().any(|function| function.calls.contains(&evaluate))
        || in_table.contains(&evaluate)
        || interface.migrate == Some(evaluate);
    let allowed =
        |access: InRecord| access.is_allowed(manifest.params.packed_bytes(), manifest.state_bytes) && !enters_itself;
    let in_record: Vec<bool> = known.into_iter().map(|access| access.is_some_and(allowed)).collect();
    let graph = CallGraph::new(&functions, &in_table);
    let roots = || [Some(evaluate), interface.migrate].into_iter().flatten();
    let chain_bytes = roots().map(|root| graph.chain_bytes(root)).max().unwrap_or(0);
    if chain_bytes > MAX_CHAIN_BYTES {
        let text = format!(
            "the functions that call one another may take {chain_bytes} bytes of stack, more than the \
             {MAX_CHAIN_BYTES} allowed: make them smaller, or fewer in a row"
        );
        violations.add(Code::Limit, text);
        return Err(violations.into_rejection());
    }
    let entry_fuel = graph.entry_fuel();
    for (index, (function, fuel)) in functions.iter_mut().zip(entry_fuel).enumerate() {
        function.regions[0] += fuel;
        function.price_accesses(if index as u32 == evaluate { &in_record } else { &[] });
    }
    functions[evaluate as usize].regions[0] += (manifest.state_bytes / STATE_BYTES_PER_FUEL) as u64;
    let metering = cost::certify_all(&functions, roots(), FUEL_PER_EVALUATION);
    Ok(Inspection {
        manifest,
        metering,
        guest_pages,
        evaluate,
        migrate: interface.migrate,
        functions,
        in_record,
        mutable_globals,
        data,
    })
}

/// Returns what a file is instead if it does not begin like a module.
fn not_a_module(bytes: &[u8]) -> Option<String> {
    let trimmed = bytes.trim_ascii_start();
    let what = if bytes.is_empty() {
        "the module is empty"
    } else if bytes.starts_with(b"\0asm\x01\0\0\0") {
        return None;
    } else if bytes.starts_with(b"\0asm") && bytes.get(6) == Some(&1) {
        "this is a component, and rules are core modules: build for wasm32-unknown-unknown without a component step"
    } else if bytes.starts_with(b"\0asm") {
        "this is not a version 1 module, or it is cut off"
    } else if bytes.starts_with(b"\x7fELF") {
        "this is a native ELF file (a precompiled module is one too): upload the .wasm module itself"
    } else if bytes.starts_with(b"\x1f\x8b") {
        "this is gzip: upload the module uncompressed"
    } else if trimmed.starts_with(b"(module") || trimmed.starts_with(b";;") {
        "this is WebAssembly text: assemble it first, for example with wat2wasm, and attach the manifest with `tocsin rule pack`"
    } else {
        "this is not a WebAssembly module: it does not begin with \\0asm"
    };
    Some(what.into())
}
