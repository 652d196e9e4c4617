//! Re-encodes a validated module for running: the driver loop is appended, the meter is built in, NaNs are made
//! canonical where their bits could be seen, and the memory is opened for the host's tables.
//!
//! The author writes for one binding; the host adds the loop, so that the sandbox's border is crossed once for many
//! bindings. What the guest can observe does not change: `memory.size` still answers the pages that it asked for,
//! `memory.grow` always answers -1.
//!
//! Layout of the memory behind the guest's own pages: one *mailbox* page (the tick, then the answers), then the
//! tables that the host allocates.

use std::convert::Infallible;

use tocsin_rules_sdk::abi::{TICK_BYTES, VERDICT_BYTES};
use wasm_encoder::reencode::{Error, Reencode, utils};
use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, ExportKind, ExportSection, Function, FunctionSection, GlobalSection, GlobalType,
    Instruction, MemArg, MemoryType, Module, SectionId, TypeSection, ValType,
};
use wasmparser::Operator;

use crate::cost::{BULK_BYTES_SHIFT, Metering};
use crate::inspect::Inspection;
use crate::limits::{FUEL_PER_EVALUATION, MAX_INSTANCE_PAGES};

/// The export of the driver: `(params: i32, state: i32, count: i32) -> i64`, the number of bindings judged in the
/// upper half and the number of answers in the lower.
pub(crate) const DRIVER_EXPORT: &str = "drive";
/// The export of the meter, a mutable i64 global: fuel left, below 0 when it ran out.
pub(crate) const FUEL_EXPORT: &str = "fuel";
/// The export of the memory.
pub(crate) const MEMORY_EXPORT: &str = "memory";

/// Bytes in a page of memory.
pub(crate) const PAGE_BYTES: usize = 65_536;
/// Bytes of one answer: the slot (u32), the code (i32), the verdict.
pub(crate) const ANSWER_BYTES: usize = 64;
/// Where the answers begin in the mailbox page; the tick is at its start.
pub(crate) const ANSWERS_AT: usize = 64;
/// The most answers of one call: what fits into the mailbox page.
pub(crate) const MAX_ANSWERS: usize = (PAGE_BYTES - ANSWERS_AT) / ANSWER_BYTES;
/// Where the verdict begins in an answer.
pub(crate) const VERDICT_AT: usize = 8;

const _: () = assert!(VERDICT_AT + VERDICT_BYTES == ANSWER_BYTES && TICK_BYTES <= ANSWERS_AT);

/// Re-encodes a module that [`crate::inspect::inspect`] accepted.
pub(crate) fn inject(module: &[u8], inspection: &Inspection) -> Vec<u8> {
    let mut injector = Injector {
        inspection,
        types: 0,
        globals: 0,
        functions: 0,
        has_global_section: false,
        arity: Vec::new(),
        next_body: 0,
    };
    injector.count(module);
    let mut out = Module::new();
    injector
        .parse_core_module(&mut out, wasmparser::Parser::new(0), module)
        .expect("a module that passed inspection has only sections and operators that can be re-encoded");
    out.finish()
}

struct Injector<'a> {
    inspection: &'a Inspection,
    /// Counts of the original module: what is appended comes behind.
    types: u32,
    globals: u32,
    functions: u32,
    has_global_section: bool,
    /// The number of parameters of each function.
    arity: Vec<u32>,
    next_body: usize,
}

impl Injector<'_> {
    /// First pass: how many of everything there is.
    fn count(&mut self, module: &[u8]) {
        let mut params_of_type = Vec::new();
        for payload in wasmparser::Parser::new(0).parse_all(module).flatten() {
            match payload {
                wasmparser::Payload::TypeSection(section) => {
                    for ty in section.into_iter_err_on_gc_types().flatten() {
                        params_of_type.push(ty.params().len() as u32);
                    }
                }
                wasmparser::Payload::FunctionSection(section) => {
                    self.arity = section.into_iter().flatten().map(|ty| params_of_type[ty as usize]).collect();
                }
                wasmparser::Payload::GlobalSection(section) => {
                    self.has_global_section = true;
                    self.globals = section.count();
                }
                _ => {}
            }
        }
        self.types = params_of_type.len() as u32;
        self.functions = self.arity.len() as u32;
    }

    fn metered(&self) -> bool {
        self.inspection.metering == Metering::Metered
    }

    fn fuel_global(&self) -> u32 {
        self.globals
    }

    /// Bytes of the guest's own pages: the mailbox is behind them.
    fn mailbox(&self) -> i32 {
        mailbox_at(self.inspection.guest_pages) as i32
    }

    fn add_fuel_global(&self, globals: &mut GlobalSection) {
        let ty = GlobalType { val_type: ValType::I64, mutable: true, shared: false };
        globals.global(ty, &ConstExpr::i64_const(0));
    }

    /// Charges the meter and traps when it is empty.
    fn charge(&self, body: &mut Function, fuel: u64) {
        body.instruction(&Instruction::GlobalGet(self.fuel_global()))
            .instruction(&Instruction::I64Const(fuel as i64))
            .instruction(&Instruction::I64Sub)
            .instruction(&Instruction::GlobalSet(self.fuel_global()));
        self.check_meter(body);
    }

    /// Charges a bulk operation, whose length is on the stack, by that length.
    fn charge_length(&self, body: &mut Function, length_local: u32) {
        body.instruction(&Instruction::LocalTee(length_local))
            .instruction(&Instruction::GlobalGet(self.fuel_global()))
            .instruction(&Instruction::LocalGet(length_local))
            .instruction(&Instruction::I64ExtendI32U)
            .instruction(&Instruction::I64Const(BULK_BYTES_SHIFT))
            .instruction(&Instruction::I64ShrU)
            .instruction(&Instruction::I64Sub)
            .instruction(&Instruction::GlobalSet(self.fuel_global()));
        self.check_meter(body);
    }

    fn check_meter(&self, body: &mut Function) {
        body.instruction(&Instruction::GlobalGet(self.fuel_global()))
            .instruction(&Instruction::I64Const(0))
            .instruction(&Instruction::I64LtS)
            .instruction(&Instruction::If(BlockType::Empty))
            .instruction(&Instruction::Unreachable)
            .instruction(&Instruction::End);
    }

    /// The driver: judges `count` bindings from the first one of a table on, and stops early when the answers fill
    /// the mailbox. An answer is written for every code but hold; an unwritten answer's verdict is zero when
    /// `evaluate` is called, as far as the host will read it.
    fn driver(&self) -> Function {
        use Instruction as I;
        const PARAMS: u32 = 0;
        const STATE: u32 = 1;
        const COUNT: u32 = 2;
        const SLOT: u32 = 3;
        const ANSWER: u32 = 4;
        const CODE: u32 = 5;
        let manifest = &self.inspection.manifest;
        let answers = self.mailbox() + ANSWERS_AT as i32;
        let at = |offset: usize| MemArg { offset: offset as u64, align: 2, memory_index: 0 };
        let mut body = Function::new([(3, ValType::I32)]);
        body.instruction(&I::I32Const(answers)).instruction(&I::LocalSet(ANSWER));
        body.instruction(&I::Loop(BlockType::Empty));
        if self.metered() {
            body.instruction(&I::I64Const(FUEL_PER_EVALUATION as i64)).instruction(&I::GlobalSet(self.fuel_global()));
        }
        for word in consumed_words(manifest.evidence.len(), manifest.sleeps) {
            body.instruction(&I::LocalGet(ANSWER))
                .instruction(&I::I64Const(0))
                .instruction(&I::I64Store(MemArg { align: 3, ..at(VERDICT_AT + word * 8) }));
        }
        body.instruction(&I::I32Const(self.mailbox()))
            .instruction(&I::LocalGet(PARAMS))
            .instruction(&I::LocalGet(STATE))
            .instruction(&I::LocalGet(ANSWER))
            .instruction(&I::I32Const(VERDICT_AT as i32))
            .instruction(&I::I32Add)
            .instruction(&I::Call(self.inspection.evaluate))
            .instruction(&I::LocalTee(CODE))
            .instruction(&I::If(BlockType::Empty))
            .instruction(&I::LocalGet(ANSWER))
            .instruction(&I::LocalGet(SLOT))
            .instruction(&I::I32Store(at(0)))
            .instruction(&I::LocalGet(ANSWER))
            .instruction(&I::LocalGet(CODE))
            .instruction(&I::I32Store(at(4)));
        add(&mut body, ANSWER, ANSWER_BYTES);
        body.instruction(&I::LocalGet(ANSWER))
            .instruction(&I::I32Const(answers + (MAX_ANSWERS * ANSWER_BYTES) as i32))
            .instruction(&I::I32Eq)
            .instruction(&I::If(BlockType::Empty));
        add(&mut body, SLOT, 1);
        push_result(&mut body, SLOT, ANSWER, answers);
        body.instruction(&I::Return).instruction(&I::End).instruction(&I::End);
        add(&mut body, PARAMS, manifest.params.packed_bytes());
        add(&mut body, STATE, manifest.state_bytes);
        add(&mut body, SLOT, 1);
        body.instruction(&I::LocalGet(SLOT))
            .instruction(&I::LocalGet(COUNT))
            .instruction(&I::I32LtU)
            .instruction(&I::BrIf(0))
            .instruction(&I::End);
        push_result(&mut body, SLOT, ANSWER, answers);
        body.instruction(&I::End);
        body
    }
}

/// The 8-byte words of a verdict that the host reads: the named evidence and, if the rule sleeps, the wake band.
fn consumed_words(evidence: usize, sleeps: bool) -> impl Iterator<Item = usize> {
    (0..evidence).chain(if sleeps { 4..7 } else { 0..0 })
}

/// `local += bytes`, nothing if that is zero.
fn add(body: &mut Function, local: u32, bytes: usize) {
    if bytes > 0 {
        body.instruction(&Instruction::LocalGet(local))
            .instruction(&Instruction::I32Const(bytes as i32))
            .instruction(&Instruction::I32Add)
            .instruction(&Instruction::LocalSet(local));
    }
}

/// Leaves `judged << 32 | answers` on the stack.
fn push_result(body: &mut Function, judged: u32, answer: u32, answers: i32) {
    body.instruction(&Instruction::LocalGet(judged))
        .instruction(&Instruction::I64ExtendI32U)
        .instruction(&Instruction::I64Const(32))
        .instruction(&Instruction::I64Shl)
        .instruction(&Instruction::LocalGet(answer))
        .instruction(&Instruction::I32Const(answers))
        .instruction(&Instruction::I32Sub)
        .instruction(&Instruction::I32Const(ANSWER_BYTES.trailing_zeros() as i32))
        .instruction(&Instruction::I32ShrU)
        .instruction(&Instruction::I64ExtendI32U)
        .instruction(&Instruction::I64Or);
}

/// The address of the mailbox page of a rule that asked for `guest_pages`.
pub(crate) fn mailbox_at(guest_pages: u64) -> usize {
    guest_pages as usize * PAGE_BYTES
}

impl Reencode for Injector<'_> {
    type Error = Infallible;

    fn parse_type_section(
        &mut self,
        types: &mut TypeSection,
        section: wasmparser::TypeSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        utils::parse_type_section(self, types, section)?;
        types.ty().function([ValType::I32; 3], [ValType::I64]);
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: wasmparser::FunctionSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        utils::parse_function_section(self, functions, section)?;
        functions.function(self.types);
        Ok(())
    }

    fn memory_type(&mut self, memory: wasmparser::MemoryType) -> Result<MemoryType, Error<Infallible>> {
        Ok(MemoryType {
            minimum: memory.initial + 1,
            maximum: Some(MAX_INSTANCE_PAGES),
            memory64: false,
            shared: false,
            page_size_log2: None,
        })
    }

    fn parse_global_section(
        &mut self,
        globals: &mut GlobalSection,
        section: wasmparser::GlobalSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        utils::parse_global_section(self, globals, section)?;
        self.add_fuel_global(globals);
        Ok(())
    }

    /// A module without a global section still gets its meter.
    fn intersperse_section_hook(
        &mut self,
        module: &mut Module,
        _after: Option<SectionId>,
        before: Option<SectionId>,
    ) -> Result<(), Error<Infallible>> {
        // Globals come before exports, and every rule has exports.
        if !self.has_global_section && before == Some(SectionId::Export) {
            let mut globals = GlobalSection::new();
            self.add_fuel_global(&mut globals);
            module.section(&globals);
        }
        Ok(())
    }

    /// The guest's exports are of no more use; the host's take their place.
    fn parse_export_section(
        &mut self,
        exports: &mut ExportSection,
        _section: wasmparser::ExportSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        exports.export(DRIVER_EXPORT, ExportKind::Func, self.functions);
        exports.export(FUEL_EXPORT, ExportKind::Global, self.fuel_global());
        exports.export(MEMORY_EXPORT, ExportKind::Memory, 0);
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: wasmparser::CodeSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        utils::parse_code_section(self, code, section)?;
        code.function(&self.driver());
        Ok(())
    }

    fn parse_function_body(
        &mut self,
        code: &mut CodeSection,
        function: wasmparser::FunctionBody<'_>,
    ) -> Result<(), Error<Infallible>> {
        let index = self.next_body;
        self.next_body += 1;
        let mut locals = Vec::new();
        let mut count = self.arity[index];
        for group in function.get_locals_reader()? {
            let (n, ty) = group?;
            count += n;
            locals.push((n, self.val_type(ty)?));
        }
        let scratch = Scratch { length: count, f32: count + 1, f64: count + 2 };
        locals.extend([(1, ValType::I32), (1, ValType::F32), (1, ValType::F64)]);
        let mut body = Function::new(locals);
        let inspection = self.inspection;
        let mut regions = inspection.functions[index].regions.iter();
        if self.metered() {
            self.charge(&mut body, *regions.next().unwrap_or(&0));
        }
        let mut operators = function.get_operators_reader()?;
        while !operators.eof() {
            let operator = operators.read()?;
            self.operator(&mut body, operator, &scratch, &mut regions)?;
        }
        code.function(&body);
        Ok(())
    }

    /// Names, producers and the manifest are not needed to run.
    fn parse_custom_section(
        &mut self,
        _module: &mut Module,
        _section: wasmparser::CustomSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        Ok(())
    }
}

/// Locals that are added to each function.
struct Scratch {
    length: u32,
    f32: u32,
    f64: u32,
}

impl Injector<'_> {
    fn operator<'a>(
        &mut self,
        body: &mut Function,
        operator: Operator<'a>,
        scratch: &Scratch,
        loops: &mut std::slice::Iter<'_, u64>,
    ) -> Result<(), Error<Infallible>> {
        match operator {
            Operator::MemorySize { .. } => {
                body.instruction(&Instruction::I32Const(self.inspection.guest_pages as i32));
                return Ok(());
            }
            Operator::MemoryGrow { .. } => {
                body.instruction(&Instruction::Drop).instruction(&Instruction::I32Const(-1));
                return Ok(());
            }
            // Where a float's bits become visible, a NaN becomes the canonical one.
            Operator::F64Store { .. } | Operator::I64ReinterpretF64 | Operator::F64Copysign => {
                canonical_f64(body, scratch.f64);
            }
            Operator::F32Store { .. } | Operator::I32ReinterpretF32 | Operator::F32Copysign => {
                canonical_f32(body, scratch.f32);
            }
            Operator::MemoryCopy { .. } | Operator::MemoryFill { .. } if self.metered() => {
                self.charge_length(body, scratch.length);
            }
            _ => {}
        }
        let is_loop = matches!(operator, Operator::Loop { .. });
        body.instruction(&self.instruction(operator)?);
        if is_loop && self.metered() {
            self.charge(body, *loops.next().unwrap_or(&0));
        }
        Ok(())
    }
}

/// `x == x ? x : NaN`, for the f64 on the stack.
fn canonical_f64(body: &mut Function, scratch: u32) {
    body.instruction(&Instruction::LocalTee(scratch))
        .instruction(&Instruction::F64Const(f64::from_bits(0x7ff8_0000_0000_0000).into()))
        .instruction(&Instruction::LocalGet(scratch))
        .instruction(&Instruction::LocalGet(scratch))
        .instruction(&Instruction::F64Eq)
        .instruction(&Instruction::Select);
}

/// `x == x ? x : NaN`, for the f32 on the stack.
fn canonical_f32(body: &mut Function, scratch: u32) {
    body.instruction(&Instruction::LocalTee(scratch))
        .instruction(&Instruction::F32Const(f32::from_bits(0x7fc0_0000).into()))
        .instruction(&Instruction::LocalGet(scratch))
        .instruction(&Instruction::LocalGet(scratch))
        .instruction(&Instruction::F32Eq)
        .instruction(&Instruction::Select);
}
