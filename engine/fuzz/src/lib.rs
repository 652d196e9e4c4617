//! What the fuzz targets share: generators of modules, and checks that hold for all of them.

pub mod attack;
pub mod document;
pub mod plan;
pub mod rate;
pub mod replay;
pub mod smith;

use std::sync::OnceLock;

use tocsin_engine::Engine;
use tocsin_engine::limits::MAX_VIOLATIONS;
use tocsin_engine::violation::Rejection;
use wasm_encoder::{
    CodeSection, CustomSection, ExportKind, ExportSection, Function, FunctionSection, Instruction, MemorySection,
    MemoryType, Module, TypeSection, ValType,
};

/// Returns the engine, one for all inputs of a process.
pub fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new().expect("this machine runs Wasmtime"))
}

/// Checks that a refusal has reasons, not too many, and none with control characters.
pub fn check_rejection(rejection: &Rejection) {
    assert!((1..=MAX_VIOLATIONS).contains(&rejection.violations.len()));
    let texts = rejection.violations.iter().map(|violation| &violation.message);
    texts.for_each(|text| assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}"));
}

/// Returns a rule with the given manifest that always holds.
pub fn holding_rule(manifest: &[u8]) -> Vec<u8> {
    let mut evaluate = Function::new([]);
    evaluate.instruction(&Instruction::I32Const(0)).instruction(&Instruction::End);
    rule(0, &evaluate, manifest)
}

/// Returns a rule of one function, with the given pages of memory.
fn rule(pages: u64, evaluate: &Function, manifest: &[u8]) -> Vec<u8> {
    let mut module = interface(pages);
    let mut code = CodeSection::new();
    code.function(evaluate);
    module.section(&code);
    with_manifest(module.finish(), manifest)
}

/// Returns the sections before the code of a rule of one function.
fn interface(pages: u64) -> Module {
    let mut types = TypeSection::new();
    types.ty().function([ValType::I32; 4], [ValType::I32]);
    let mut functions = FunctionSection::new();
    functions.function(0);
    let mut memories = MemorySection::new();
    memories.memory(MemoryType { minimum: pages, maximum: None, memory64: false, shared: false, page_size_log2: None });
    let mut exports = ExportSection::new();
    exports.export("evaluate", ExportKind::Func, 0).export("memory", ExportKind::Memory, 0);
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&memories).section(&exports);
    module
}

/// Appends a manifest.
fn with_manifest(mut module: Vec<u8>, manifest: &[u8]) -> Vec<u8> {
    use wasm_encoder::{Encode, Section};
    let section = CustomSection { name: "tocsin.manifest".into(), data: manifest.into() };
    module.push(section.id());
    section.encode(&mut module);
    module
}
