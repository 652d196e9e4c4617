//! Hostile modules, and what they are made of: valid WebAssembly that costs a compiler much, and rules to spoil.

#![allow(clippy::unwrap_used)] // for tests only: a module that cannot be made is a fault of the test

use wasm_encoder::{
    BlockType, CodeSection, CustomSection, ExportKind, ExportSection, Function, FunctionSection, Instruction,
    MemorySection, MemoryType, Module, TypeSection, ValType,
};

/// A manifest of a rule without params, state and evidence.
pub const MANIFEST: &str = r#"{"abi":1,"name":"test","version":"1.0.0"}"#;
/// A memory as a rule has it.
pub const GOOD_MEMORY: &str = r#"(memory (export "memory") 1)"#;
/// An `evaluate` that holds.
pub const GOOD_EVALUATE: &str = r#"(func (export "evaluate") (param i32 i32 i32 i32) (result i32) (i32.const 0))"#;

/// A module of the given fields, with a manifest behind them.
pub fn with_manifest(manifest: &str, fields: &str) -> Vec<u8> {
    let quoted: String = manifest.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    wat::parse_str(format!("(module {fields} (@custom \"tocsin.manifest\" \"{quoted}\"))")).unwrap()
}

/// A good rule, but for the given fields.
pub fn rule_and(fields: &str) -> Vec<u8> {
    with_manifest(MANIFEST, &format!("{fields} {GOOD_MEMORY} {GOOD_EVALUATE}"))
}

/// A rule whose function bodies are given; the first is `evaluate`.
pub fn from_bodies(bodies: &[Function]) -> Vec<u8> {
    let (mut types, mut functions, mut memories) = (TypeSection::new(), FunctionSection::new(), MemorySection::new());
    let (mut exports, mut code, mut module) = (ExportSection::new(), CodeSection::new(), Module::new());
    types.ty().function([ValType::I32; 4], [ValType::I32]);
    memories.memory(MemoryType { minimum: 1, maximum: None, memory64: false, shared: false, page_size_log2: None });
    exports.export("evaluate", ExportKind::Func, 0).export("memory", ExportKind::Memory, 0);
    for body in bodies {
        functions.function(0);
        code.function(body);
    }
    let manifest = CustomSection { name: "tocsin.manifest".into(), data: MANIFEST.as_bytes().into() };
    module.section(&types).section(&functions).section(&memories).section(&exports).section(&code).section(&manifest);
    module.finish()
}

/// A body that has `locals` locals of type i64 and runs `instructions` before it answers 0.
pub fn body(locals: u32, instructions: &[Instruction<'_>]) -> Function {
    let mut body = Function::new([(locals, ValType::I64)]);
    for instruction in instructions {
        body.instruction(instruction);
    }
    body.instruction(&Instruction::I32Const(0)).instruction(&Instruction::End);
    body
}

/// Empty loops, one in the other or one behind the other.
pub fn loops(count: usize, nested: bool) -> Vec<Instruction<'static>> {
    let (head, end) = (Instruction::Loop(BlockType::Empty), Instruction::End);
    if nested {
        [vec![head; count], vec![end; count]].concat()
    } else {
        (0..count).flat_map(|_| [head.clone(), end.clone()]).collect()
    }
}

/// A block with one `br_table` of so many targets.
pub fn br_table(targets: usize) -> Vec<Instruction<'static>> {
    let block = Instruction::Block(BlockType::Empty);
    let table = Instruction::BrTable(vec![0; targets].into(), 0);
    vec![block, Instruction::I32Const(0), table, Instruction::End]
}

fn grows(count: usize) -> Vec<Instruction<'static>> {
    (0..count).flat_map(|_| [Instruction::I32Const(1), Instruction::MemoryGrow(0), Instruction::Drop]).collect()
}

/// Compile bombs: a name, the module, and words of the reason for which validation must refuse it.
pub fn compile_bombs() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let ty = |params: usize, results: usize| {
        format!("(type (func (param {}) (result {})))", "i32 ".repeat(params), "i32 ".repeat(results))
    };
    let types: String = (0..10_000).map(|_| ty(1, 1)).collect();
    let nop = Instruction::Nop;
    vec![
        ("2,000 nested loops", from_bodies(&[body(0, &loops(2000, true))]), "nested blocks, more than the 64"),
        ("20k loops x 200 locals", from_bodies(&[body(200, &loops(20_000, false))]), "blocks, more than the 2048"),
        ("50,000 memory.grow", from_bodies(&[body(0, &grows(50_000))]), "bytes of code, more than the 65536"),
        ("20k functions", from_bodies(&vec![body(0, &[]); 20_000]), "20000 functions, more than the 512"),
        ("50k locals", from_bodies(&[body(50_000, &[])]), "50004 locals, more than the 512"),
        ("2^32-1 locals", from_bodies(&[body(u32::MAX, &[])]), "locals, more than the 512"),
        ("1,000 params", rule_and(&ty(1000, 0)), "1000 parameters of one type, more than the 32"),
        ("100-result ifs", rule_and(&ty(0, 100)), "100 results of one type, more than the 32"),
        (
            "a br_table of 10k",
            from_bodies(&[body(0, &br_table(10_000))]),
            "10000 targets of a br_table, more than the 1024",
        ),
        ("10k types", rule_and(&types), "10001 types, more than the 256"),
        (
            "a body of 100 KB",
            from_bodies(&[body(0, &vec![nop.clone(); 100_000])]),
            "bytes of code, more than the 65536",
        ),
        (
            "5 bodies of 60 KB",
            from_bodies(&vec![body(0, &vec![nop; 60_000]); 5]),
            "bytes of code, more than the 262144",
        ),
        ("300 globals", rule_and(&"(global i32 (i32.const 0))".repeat(300)), "300 globals, more than the 256"),
        (
            "300 data segments",
            rule_and(&"(data (i32.const 0) \"\")".repeat(300)),
            "300 data segments, more than the 256",
        ),
        (
            "300 element segments",
            rule_and(&format!("(table 1 funcref) {}", "(elem (i32.const 0) 0)".repeat(300))),
            "300 element segments, more than the 256",
        ),
    ]
}

/// Modules within every limit that cost a compiler as much as such a module can: a name and the module.
pub fn heavy_modules() -> Vec<(&'static str, Vec<u8>)> {
    // 4 bodies of nearly 64 KiB are all the code that a module may have.
    let four = |body: Function| from_bodies(&vec![body; 4]);
    vec![
        ("4 bodies of 2,048 loops and 508 locals", four(body(508, &busy_loops(2048, 508, 1)))),
        ("4 bodies of 64 nested loops, again and again", four(body(508, &busy_loops(2048, 508, 64)))),
        ("4 bodies of memory.grow", four(body(0, &grows(13_000)))),
        // More calls would be refused: a chain of the 4 may take 1,024,000 bytes of stack.
        ("4 bodies of calls to each other", four(body(0, &calls(3_400)))),
        ("4 bodies of float arithmetic", four(body(64, &floats(9_000, 64)))),
        ("512 small functions that call", from_bodies(&vec![body(16, &calls(30)); 512])),
        ("60 br_tables of 1,024", from_bodies(&[body(0, &vec![br_table(1024); 60].concat())])),
    ]
}

/// Loops, `depth` of them nested, that each set one of the locals (i64, behind four parameters).
fn busy_loops(count: usize, locals: u32, depth: usize) -> Vec<Instruction<'static>> {
    let mut out = Vec::new();
    for at in (0..count).step_by(depth) {
        for inner in 0..depth {
            let (from, to) = ((at + inner) as u32 * 7 % locals + 4, (at + inner) as u32 * 13 % locals + 4);
            out.extend([Instruction::Loop(BlockType::Empty), Instruction::LocalGet(from), Instruction::LocalGet(to)]);
            out.extend([Instruction::I64Add, Instruction::LocalTee(to), Instruction::I64Eqz, Instruction::BrIf(0)]);
        }
        out.extend(vec![Instruction::End; depth]);
    }
    out
}

fn calls(count: usize) -> Vec<Instruction<'static>> {
    let call = [
        Instruction::LocalGet(0),
        Instruction::LocalGet(1),
        Instruction::LocalGet(2),
        Instruction::LocalGet(3),
        Instruction::Call(1),
        Instruction::Drop,
    ];
    // Behind a condition that never holds: what counts is the compiling.
    let (head, end) = (Instruction::If(BlockType::Empty), Instruction::End);
    [vec![Instruction::I32Const(0), head], vec![call.to_vec(); count].concat(), vec![end]].concat()
}

fn floats(count: usize, locals: u32) -> Vec<Instruction<'static>> {
    let mut out = Vec::new();
    for i in 0..count as u32 {
        let (from, to) = (i * 7 % locals + 4, i * 13 % locals + 4);
        out.extend([Instruction::LocalGet(from), Instruction::F64ReinterpretI64, Instruction::F64Sqrt]);
        out.extend([Instruction::I64ReinterpretF64, Instruction::LocalSet(to)]);
    }
    out
}
