//! Modules by wasm-smith, with the features that rules may use: any code, with the interface and a manifest of a rule. They
//! trap, loop, write anywhere and keep state in globals.

use arbitrary::{Result, Unstructured};
use serde_json::json;
use wasm_encoder::{CodeSection, Function, Instruction};
use wasm_smith::{Config, MemoryOffsetChoices};

/// The sizes of the records of a generated rule.
#[derive(Clone, Copy, Debug)]
pub struct Records {
    /// The size of the params, in bytes.
    pub params: usize,
    /// The size of the state, in bytes.
    pub state: usize,
}

/// Returns a module, and the sizes of its records.
pub fn module(u: &mut Unstructured<'_>) -> Result<(Vec<u8>, Records)> {
    let records = Records { params: u.int_in_range(0..=3)? * 8, state: u.int_in_range(0..=4)? * 8 };
    let (sleeps, evidence) = (u.arbitrary::<bool>()?, u.int_in_range(0..=4)?);
    let config = config(u)?;
    let module = wasm_smith::Module::new(config, u)?.to_bytes();
    Ok((crate::with_manifest(module, manifest(records, evidence, sleeps).as_bytes()), records))
}

/// Returns a manifest with records of the given sizes, in which each param is any number.
pub(crate) fn manifest(records: Records, evidence: usize, sleeps: bool) -> String {
    let names: Vec<String> = (0..records.params / 8).map(|i| format!("p{i}")).collect();
    let properties: serde_json::Map<_, _> =
        names.iter().map(|name| (name.clone(), json!({ "type": "number" }))).collect();
    let layout: Vec<_> =
        names.iter().enumerate().map(|(i, name)| json!({ "name": name, "type": "f64", "offset": i * 8 })).collect();
    json!({
        "abi": 1, "name": "generated", "version": "1.0.0", "sleeps": sleeps,
        "params": {
            "schema": { "type": "object", "properties": properties, "required": names },
            "layout": layout, "size": records.params,
        },
        "state": { "size": records.state },
        "evidence": (0..evidence).map(|i| format!("e{i}")).collect::<Vec<_>>(),
    })
    .to_string()
}

/// Returns the features of docs/abi.md. `memory.copy` and `memory.fill` can only be enabled with all of bulk memory, which uses
/// segments and tables: a module has either those or bulk operations.
fn config(u: &mut Unstructured<'_>) -> Result<Config> {
    let bulk = u.arbitrary()?;
    let few = |most: usize| if bulk { 0 } else { most };
    let pages = u.int_in_range(0..=2)?;
    Ok(Config {
        exports: Some(example(pages)),
        max_imports: 0,
        allow_start_export: false,
        bulk_memory_enabled: bulk,
        max_data_segments: few(4),
        max_element_segments: few(4),
        max_elements: 4,
        max_tables: few(1),
        max_table_elements: 8,
        table_max_size_required: true,
        // In addition to the exported memory.
        max_memories: 0,
        max_funcs: 8,
        max_instructions: 400,
        disallow_traps: u.ratio(1, 4)?,
        // Addresses are parameters: most accesses should be near to them.
        memory_offset_choices: MemoryOffsetChoices(95, 4, 1),
        multi_value_enabled: true,
        saturating_float_to_int_enabled: true,
        sign_extension_ops_enabled: true,
        custom_descriptors_enabled: false,
        exceptions_enabled: false,
        extended_const_enabled: false,
        gc_enabled: false,
        memory64_enabled: false,
        reference_types_enabled: false,
        relaxed_simd_enabled: false,
        shared_everything_threads_enabled: false,
        simd_enabled: false,
        tail_call_enabled: false,
        threads_enabled: false,
        wide_arithmetic_enabled: false,
        ..Config::default()
    })
}

/// Returns the module with the exports that a generated one gets.
fn example(pages: u64) -> Vec<u8> {
    let mut evaluate = Function::new([]);
    evaluate.instruction(&Instruction::Unreachable).instruction(&Instruction::End);
    let mut code = CodeSection::new();
    code.function(&evaluate);
    let mut module = crate::interface(pages);
    module.section(&code);
    module.finish()
}
