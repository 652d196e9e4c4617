//! Re-encodes a validated module for running: the driver loop is appended, the meter is built in, stores are kept from
//! other bindings' records, NaNs are made canonical where their bits could be seen, and the memory is opened for the
//! host's tables.
//!
//! The author writes for one binding; the host adds the loop, so that the sandbox's border is crossed once for many
//! bindings. What the guest can observe does not change: `memory.size` still answers the pages that it asked for,
//! `memory.grow` always answers -1.
//!
//! Layout of the memory behind the guest's own pages: one *mailbox* page (the tick, the list of whom to judge, then the
//! answers), then the tables that the host allocates.
//!
//! It is one long file, since what is appended and what is rewritten refer to each other by index: one struct knows them.

use std::convert::Infallible;

use tocsin_rules_sdk::abi::{TICK_BYTES, VERDICT_BYTES};
use wasm_encoder::reencode::{Error, Reencode, utils};
use wasm_encoder::{
    BlockType, BranchHint, BranchHints, CodeSection, ConstExpr, ExportKind, ExportSection, Function, FunctionSection,
    GlobalSection, GlobalType, Instruction, MemArg, MemoryType, Module, SectionId, TypeSection, ValType,
};
use wasmparser::Operator;

use crate::cost::{BULK_BYTES_SHIFT, Metering};
use crate::inspect::{Inspection, store};
use crate::limits::{FUEL_PER_CALL, FUEL_PER_EVALUATION, MAX_INSTANCE_PAGES};

/// The export of the driver: `(params: i32, state: i32, count: i32) -> i64`, the number of bindings judged in the
/// upper half and the number of answers in the lower.
pub(crate) const DRIVER_EXPORT: &str = "drive";
/// The export of the driver of rules that sleep: `(list: i32, 0, count: i32) -> i64` with the same result. The list has
/// an entry for each binding to be judged, the addresses of its params and of its state.
pub(crate) const LIST_DRIVER_EXPORT: &str = "drive_listed";
/// The export of the migration of rules that have one, as the rule's own: `(from, old_state, params, state) -> code`.
pub(crate) const MIGRATION_EXPORT: &str = "migrate_one";
/// The export of the meter, a mutable i64 global: fuel left, below 0 when it ran out.
pub(crate) const FUEL_EXPORT: &str = "fuel";
/// The meter's value after a store that was kept from happening.
pub(crate) const STRAY_WRITE: i64 = i64::MIN;
/// The export of the memory.
pub(crate) const MEMORY_EXPORT: &str = "memory";

/// Bytes in a page of memory.
pub(crate) const PAGE_BYTES: usize = 65_536;
/// Bytes of one answer: the slot (u32), the code (i32), the verdict.
pub(crate) const ANSWER_BYTES: usize = 64;
/// Bytes of a list entry: two addresses (i32).
pub(crate) const LIST_ENTRY_BYTES: usize = 8;
/// Where the list begins in the mailbox page; the tick is at its start.
pub(crate) const LIST_AT: usize = 64;
/// The most entries of a list.
pub(crate) const MAX_LISTED: usize = (ANSWERS_AT - LIST_AT) / LIST_ENTRY_BYTES;
/// Where the answers begin in the mailbox page.
pub(crate) const ANSWERS_AT: usize = 4096;
/// The most answers of one call: what fits into the mailbox page.
pub(crate) const MAX_ANSWERS: usize = (PAGE_BYTES - ANSWERS_AT) / ANSWER_BYTES;
/// Where the verdict begins in an answer.
pub(crate) const VERDICT_AT: usize = 8;

const _: () = assert!(VERDICT_AT + VERDICT_BYTES == ANSWER_BYTES && TICK_BYTES <= LIST_AT);

/// Re-encodes a module that [`crate::inspect::inspect`] accepted.
pub(crate) fn inject(module: &[u8], inspection: &Inspection) -> Vec<u8> {
    let mut injector = Injector {
        inspection,
        types: 0,
        globals: 0,
        functions: 0,
        has_global_section: false,
        guarded: inspection.safe_stores.contains(&false),
        arity: Vec::new(),
        next_body: 0,
        hints: BranchHints::new(),
    };
    injector.count(module);
    let mut out = Module::new();
    injector
        .parse_core_module(&mut out, wasmparser::Parser::new(0), module)
        .expect("a module that passed inspection has only sections and operators that can be re-encoded");
    // The proposal has them before the code, which has to be written first; Wasmtime takes them from anywhere.
    out.section(&injector.hints);
    out.finish()
}

/// A function's body, and which of its branches are rare: Wasmtime lays those out behind the others.
struct Body {
    code: Function,
    hints: Vec<BranchHint>,
}

impl Body {
    fn new(locals: impl IntoIterator<Item = (u32, ValType), IntoIter: ExactSizeIterator>) -> Self {
        Self { code: Function::new(locals), hints: Vec::new() }
    }

    fn instruction(&mut self, instruction: &Instruction<'_>) -> &mut Self {
        self.code.instruction(instruction);
        self
    }

    /// An `if` without a result whose condition is hardly ever true.
    fn unlikely_if(&mut self) -> &mut Self {
        self.hint(false).instruction(&Instruction::If(BlockType::Empty))
    }

    /// An `if` with a result whose condition is nearly always true.
    fn likely_if(&mut self, result: ValType) -> &mut Self {
        self.hint(true).instruction(&Instruction::If(BlockType::Result(result)))
    }

    fn hint(&mut self, taken: bool) -> &mut Self {
        let branch_func_offset = self.code.byte_len() as u32;
        self.hints.push(BranchHint { branch_func_offset, branch_hint_value: taken.into() });
        self
    }

    fn put(self, index: u32, code: &mut CodeSection, hints: &mut BranchHints) {
        code.function(&self.code);
        hints.function_hints(index, self.hints);
    }
}

struct Injector<'a> {
    inspection: &'a Inspection,
    /// Counts of the original module: what is appended comes behind.
    types: u32,
    globals: u32,
    functions: u32,
    has_global_section: bool,
    /// Whether it has a store that must be guarded.
    guarded: bool,
    /// The number of parameters of each function.
    arity: Vec<u32>,
    next_body: usize,
    hints: BranchHints,
}

impl Injector<'_> {
    /// First pass: how many of everything there is.
    fn count(&mut self, module: &[u8]) {
        let mut params_of_type = Vec::new();
        let mut bodies = 0;
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
                wasmparser::Payload::CodeSectionEntry(body) => {
                    let mut operators = body.get_operators_reader().into_iter().flatten().flatten();
                    let is_evaluate = bodies == self.inspection.evaluate;
                    self.guarded |=
                        operators.any(|operator| is_bulk(&operator) || !is_evaluate && store(&operator).is_some());
                    bodies += 1;
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

    /// The globals that hold where the records of the binding are that is being judged.
    fn state_global(&self) -> u32 {
        self.globals + 1
    }

    fn verdict_global(&self) -> u32 {
        self.globals + 2
    }

    /// What is appended behind the module's own functions, in this order.
    fn appended(&self) -> impl Iterator<Item = Appended> + use<> {
        let inspection = self.inspection;
        [
            (Appended::Driver, true),
            (Appended::ListDriver, inspection.manifest.sleeps),
            (Appended::Migration, inspection.migrate.is_some()),
            (Appended::Guard, self.guarded),
        ]
        .into_iter()
        .filter_map(|(function, is_needed)| is_needed.then_some(function))
    }

    /// The index of an appended function.
    fn index_of(&self, function: Appended) -> u32 {
        let place = self.appended().position(|other| other == function);
        self.functions + place.expect("only what is appended is named") as u32
    }

    /// Bytes of the guest's own pages: the mailbox is behind them.
    fn mailbox(&self) -> i32 {
        mailbox_at(self.inspection.guest_pages) as i32
    }

    fn add_globals(&self, globals: &mut GlobalSection) {
        let ty = |val_type| GlobalType { val_type, mutable: true, shared: false };
        globals.global(ty(ValType::I64), &ConstExpr::i64_const(0));
        if self.guarded {
            globals.global(ty(ValType::I32), &ConstExpr::i32_const(0));
            globals.global(ty(ValType::I32), &ConstExpr::i32_const(0));
        }
    }

    /// Charges the meter and traps when it is empty.
    fn charge(&self, body: &mut Body, fuel: u64) {
        body.instruction(&Instruction::GlobalGet(self.fuel_global()))
            .instruction(&Instruction::I64Const(fuel as i64))
            .instruction(&Instruction::I64Sub)
            .instruction(&Instruction::GlobalSet(self.fuel_global()));
        self.check_meter(body);
    }

    /// Charges a bulk operation, whose length is on the stack, by that length.
    fn charge_length(&self, body: &mut Body, length_local: u32) {
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

    fn check_meter(&self, body: &mut Body) {
        body.instruction(&Instruction::GlobalGet(self.fuel_global()))
            .instruction(&Instruction::I64Const(0))
            .instruction(&Instruction::I64LtS)
            .unlikely_if()
            .instruction(&Instruction::Unreachable)
            .instruction(&Instruction::End);
    }

    /// Calls the module's `migrate` on a meter and under guard: it may write to the new state only.
    fn migration(&self) -> Body {
        let mut body = Body::new([]);
        if self.metered() {
            body.instruction(&Instruction::I64Const(FUEL_PER_EVALUATION as i64))
                .instruction(&Instruction::GlobalSet(self.fuel_global()));
        }
        let (from, old_state, params, state) = (0, 1, 2, 3);
        if self.guarded {
            // There is no verdict: what is written to the tick's place is read by nobody.
            body.instruction(&Instruction::LocalGet(state))
                .instruction(&Instruction::GlobalSet(self.state_global()))
                .instruction(&Instruction::I32Const(self.mailbox()))
                .instruction(&Instruction::GlobalSet(self.verdict_global()));
        }
        for argument in [from, old_state, params, state] {
            body.instruction(&Instruction::LocalGet(argument));
        }
        let migrate = self.inspection.migrate.expect("it is appended where there is one");
        body.instruction(&Instruction::Call(migrate)).instruction(&Instruction::End);
        body
    }

    /// Guards a store, whose address and value are on the stack.
    fn guard_store(&self, body: &mut Body, scratch: &Scratch, value: u32, offset: u64, bytes: u64) {
        body.instruction(&Instruction::LocalSet(value))
            .instruction(&Instruction::LocalTee(scratch.address))
            .instruction(&Instruction::I64Const(offset as i64))
            .instruction(&Instruction::I64Const(bytes as i64))
            .instruction(&Instruction::Call(self.index_of(Appended::Guard)))
            .instruction(&Instruction::LocalGet(scratch.address))
            .instruction(&Instruction::LocalGet(value));
    }

    /// Guards a bulk operation, whose three operands are on the stack: where to, what, and how many bytes.
    fn guard_bulk(&self, body: &mut Body, scratch: &Scratch) {
        body.instruction(&Instruction::LocalSet(scratch.length))
            .instruction(&Instruction::LocalSet(scratch.middle))
            .instruction(&Instruction::LocalTee(scratch.address))
            .instruction(&Instruction::I64Const(0))
            .instruction(&Instruction::LocalGet(scratch.length))
            .instruction(&Instruction::I64ExtendI32U)
            .instruction(&Instruction::Call(self.index_of(Appended::Guard)))
            .instruction(&Instruction::LocalGet(scratch.address))
            .instruction(&Instruction::LocalGet(scratch.middle))
            .instruction(&Instruction::LocalGet(scratch.length));
    }

    /// `guard(address: i32, offset: i64, bytes: i64)`: traps unless so many bytes lie in the guest's own pages, or in
    /// the state or the verdict of the binding that is being judged.
    fn guard(&self) -> Body {
        use Instruction as I;
        let (start, end) = (3, 4);
        let mut body = Body::new([(2, ValType::I64)]);
        body.instruction(&I::LocalGet(0))
            .instruction(&I::I64ExtendI32U)
            .instruction(&I::LocalGet(1))
            .instruction(&I::I64Add)
            .instruction(&I::LocalTee(start))
            .instruction(&I::LocalGet(2))
            .instruction(&I::I64Add)
            .instruction(&I::LocalTee(end))
            .instruction(&I::I64Const(self.mailbox().into()))
            .instruction(&I::I64LeU)
            .instruction(&I::LocalGet(2))
            .instruction(&I::I64Eqz)
            .instruction(&I::I32Or);
        let records =
            [(self.state_global(), self.inspection.manifest.state_bytes), (self.verdict_global(), VERDICT_BYTES)];
        for (global, bytes) in records {
            body.instruction(&I::LocalGet(start))
                .instruction(&I::GlobalGet(global))
                .instruction(&I::I64ExtendI32U)
                .instruction(&I::I64GeU)
                .instruction(&I::LocalGet(end))
                .instruction(&I::GlobalGet(global))
                .instruction(&I::I64ExtendI32U)
                .instruction(&I::I64Const(bytes as i64))
                .instruction(&I::I64Add)
                .instruction(&I::I64LeU)
                .instruction(&I::I32And)
                .instruction(&I::I32Or);
        }
        body.instruction(&I::I32Eqz)
            .unlikely_if()
            .instruction(&I::I64Const(STRAY_WRITE))
            .instruction(&I::GlobalSet(self.fuel_global()))
            .instruction(&I::Unreachable)
            .instruction(&I::End)
            .instruction(&I::End);
        body
    }

    /// A driver: judges `count` bindings, those from the first one of a table on or those of a list, and stops early
    /// when the answers fill the mailbox, or when [`FUEL_PER_CALL`] is burnt. An answer is written for every code but hold; an unwritten answer's verdict is
    /// zero when `evaluate` is called, as far as the host will read it.
    fn driver(&self, whom: Whom) -> Body {
        use Instruction as I;
        let manifest = &self.inspection.manifest;
        let answers = self.mailbox() + ANSWERS_AT as i32;
        let mut body = Body::new([(5, ValType::I32), (1, ValType::I64)]);
        body.instruction(&I::I32Const(answers)).instruction(&I::LocalSet(ANSWER));
        if self.metered() {
            body.instruction(&I::I64Const(FUEL_PER_CALL as i64)).instruction(&I::LocalSet(FUEL_LEFT));
        }
        body.instruction(&I::Loop(BlockType::Empty));
        if whom == Whom::Listed {
            for (offset, local) in [(0, PARAMS), (4, STATE)] {
                body.instruction(&I::LocalGet(LIST))
                    .instruction(&I::I32Load(at(offset)))
                    .instruction(&I::LocalSet(local));
            }
        }
        if self.metered() {
            body.instruction(&I::I64Const(FUEL_PER_EVALUATION as i64)).instruction(&I::GlobalSet(self.fuel_global()));
        }
        for word in consumed_words(manifest.evidence.len(), manifest.sleeps) {
            body.instruction(&I::LocalGet(ANSWER))
                .instruction(&I::I64Const(0))
                .instruction(&I::I64Store(MemArg { align: 3, ..at(VERDICT_AT + word * 8) }));
        }
        let (params, state) = if whom == Whom::Listed { (PARAMS, STATE) } else { (0, 1) };
        if self.guarded {
            body.instruction(&I::LocalGet(state)).instruction(&I::GlobalSet(self.state_global()));
            body.instruction(&I::LocalGet(ANSWER))
                .instruction(&I::I32Const(VERDICT_AT as i32))
                .instruction(&I::I32Add)
                .instruction(&I::GlobalSet(self.verdict_global()));
        }
        body.instruction(&I::I32Const(self.mailbox()))
            .instruction(&I::LocalGet(params))
            .instruction(&I::LocalGet(state))
            .instruction(&I::LocalGet(ANSWER))
            .instruction(&I::I32Const(VERDICT_AT as i32))
            .instruction(&I::I32Add)
            .instruction(&I::Call(self.inspection.evaluate))
            .instruction(&I::LocalTee(CODE));
        if manifest.sleeps {
            body.instruction(&I::If(BlockType::Empty));
        } else {
            // Most ticks fire nothing, and there is no band to be told of.
            body.unlikely_if();
        }
        for (offset, local) in [(0, SLOT), (4, CODE)] {
            body.instruction(&I::LocalGet(ANSWER))
                .instruction(&I::LocalGet(local))
                .instruction(&I::I32Store(at(offset)));
        }
        add(&mut body, ANSWER, ANSWER_BYTES);
        // Where there is no room for another answer, this binding is the last one.
        body.instruction(&I::LocalGet(SLOT))
            .instruction(&I::I32Const(1))
            .instruction(&I::I32Add)
            .instruction(&I::LocalGet(COUNT))
            .instruction(&I::LocalGet(ANSWER))
            .instruction(&I::I32Const(answers + (MAX_ANSWERS * ANSWER_BYTES) as i32))
            .instruction(&I::I32Eq)
            .instruction(&I::Select)
            .instruction(&I::LocalSet(COUNT))
            .instruction(&I::End);
        match whom {
            Whom::Listed => add(&mut body, LIST, LIST_ENTRY_BYTES),
            Whom::Range => {
                add(&mut body, params, manifest.params.packed_bytes());
                add(&mut body, state, manifest.state_bytes);
            }
        }
        add(&mut body, SLOT, 1);
        body.instruction(&I::LocalGet(SLOT)).instruction(&I::LocalGet(COUNT)).instruction(&I::I32LtU);
        if self.metered() {
            // What the evaluation has left of its own fuel was not burnt.
            body.instruction(&I::LocalGet(FUEL_LEFT))
                .instruction(&I::I64Const(FUEL_PER_EVALUATION as i64))
                .instruction(&I::I64Sub)
                .instruction(&I::GlobalGet(self.fuel_global()))
                .instruction(&I::I64Add)
                .instruction(&I::LocalTee(FUEL_LEFT))
                .instruction(&I::I64Const(0))
                .instruction(&I::I64GtS)
                .instruction(&I::I32And);
        }
        body.instruction(&I::BrIf(0)).instruction(&I::End);
        push_result(&mut body, SLOT, ANSWER, answers);
        body.instruction(&I::End);
        body
    }
}

/// A function that is appended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Appended {
    Driver,
    ListDriver,
    Migration,
    Guard,
}

/// Whom a driver judges.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whom {
    /// A table's slots from the first on. Parameters: params, state, count.
    Range,
    /// Those of a list. Parameters: list, nothing, count.
    Listed,
}

/// The locals of a driver, its parameters first.
const LIST: u32 = 0;
const COUNT: u32 = 2;
const SLOT: u32 = 3;
const ANSWER: u32 = 4;
const CODE: u32 = 5;
const PARAMS: u32 = 6;
const STATE: u32 = 7;
const FUEL_LEFT: u32 = 8;

/// An aligned 32-bit word at an offset.
fn at(offset: usize) -> MemArg {
    MemArg { offset: offset as u64, align: 2, memory_index: 0 }
}

/// The 8-byte words of a verdict that the host reads: the named evidence and, if the rule sleeps, the wake band.
fn consumed_words(evidence: usize, sleeps: bool) -> impl Iterator<Item = usize> {
    (0..evidence).chain(if sleeps { 4..7 } else { 0..0 })
}

/// `local += bytes`, nothing if that is zero.
fn add(body: &mut Body, local: u32, bytes: usize) {
    if bytes > 0 {
        body.instruction(&Instruction::LocalGet(local))
            .instruction(&Instruction::I32Const(bytes as i32))
            .instruction(&Instruction::I32Add)
            .instruction(&Instruction::LocalSet(local));
    }
}

/// Leaves `judged << 32 | answers` on the stack.
fn push_result(body: &mut Body, judged: u32, answer: u32, answers: i32) {
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
        types.ty().function([ValType::I32; 4], [ValType::I32]);
        types.ty().function([ValType::I32, ValType::I64, ValType::I64], []);
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: wasmparser::FunctionSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        utils::parse_function_section(self, functions, section)?;
        for function in self.appended() {
            functions.function(match function {
                Appended::Driver | Appended::ListDriver => self.types,
                Appended::Migration => self.types + 1,
                Appended::Guard => self.types + 2,
            });
        }
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
        self.add_globals(globals);
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
            self.add_globals(&mut globals);
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
        for function in self.appended() {
            let name = match function {
                Appended::Driver => DRIVER_EXPORT,
                Appended::ListDriver => LIST_DRIVER_EXPORT,
                Appended::Migration => MIGRATION_EXPORT,
                Appended::Guard => continue,
            };
            exports.export(name, ExportKind::Func, self.index_of(function));
        }
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
        for function in self.appended() {
            let body = match function {
                Appended::Driver => self.driver(Whom::Range),
                Appended::ListDriver => self.driver(Whom::Listed),
                Appended::Migration => self.migration(),
                Appended::Guard => self.guard(),
            };
            body.put(self.index_of(function), code, &mut self.hints);
        }
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
        let scratch = Scratch::after(count);
        locals.extend(Scratch::LOCALS);
        let mut body = Body::new(locals);
        let inspection = self.inspection;
        let is_evaluate = index as u32 == inspection.evaluate;
        let mut progress = Progress {
            loops: inspection.functions[index].regions.iter(),
            safe_stores: if is_evaluate { inspection.safe_stores.iter() } else { [].iter() },
        };
        if self.metered() {
            self.charge(&mut body, *progress.loops.next().unwrap_or(&0));
        }
        let mut operators = function.get_operators_reader()?;
        while !operators.eof() {
            let operator = operators.read()?;
            self.operator(&mut body, operator, &scratch, &mut progress)?;
        }
        body.put(index as u32, code, &mut self.hints);
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
    address: u32,
    middle: u32,
    length: u32,
    i64: u32,
    f32: u32,
    f64: u32,
}

impl Scratch {
    const LOCALS: [(u32, ValType); 4] = [(3, ValType::I32), (1, ValType::I64), (1, ValType::F32), (1, ValType::F64)];

    /// Behind so many locals.
    fn after(count: u32) -> Self {
        Self { address: count, middle: count + 1, length: count + 2, i64: count + 3, f32: count + 4, f64: count + 5 }
    }

    /// Where the value of a store can be put aside.
    fn value(&self, store: &Operator<'_>) -> u32 {
        match store {
            Operator::F32Store { .. } => self.f32,
            Operator::F64Store { .. } => self.f64,
            Operator::I32Store { .. } | Operator::I32Store8 { .. } | Operator::I32Store16 { .. } => self.middle,
            _ => self.i64,
        }
    }
}

fn is_bulk(operator: &Operator<'_>) -> bool {
    matches!(operator, Operator::MemoryCopy { .. } | Operator::MemoryFill { .. })
}

/// Kept in the fold over a function's operators.
struct Progress<'a> {
    /// The prices of its loops that are still to come.
    loops: std::slice::Iter<'a, u64>,
    /// Whether its stores that are still to come are safe. All that are not told of are not.
    safe_stores: std::slice::Iter<'a, bool>,
}

impl Injector<'_> {
    fn operator<'a>(
        &mut self,
        body: &mut Body,
        operator: Operator<'a>,
        scratch: &Scratch,
        progress: &mut Progress<'_>,
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
            _ => {}
        }
        if is_bulk(&operator) {
            if self.metered() {
                self.charge_length(body, scratch.length);
            }
            self.guard_bulk(body, scratch);
        }
        if let Some((offset, bytes)) = store(&operator)
            && !progress.safe_stores.next().copied().unwrap_or(false)
        {
            self.guard_store(body, scratch, scratch.value(&operator), offset, bytes);
        }
        let is_loop = matches!(operator, Operator::Loop { .. });
        body.instruction(&self.instruction(operator)?);
        if is_loop && self.metered() {
            self.charge(body, *progress.loops.next().unwrap_or(&0));
        }
        Ok(())
    }
}

/// `if x >= -infinity { x } else { NaN }`, for the f64 on the stack: every number passes, by one comparison and a branch
/// that is always taken.
fn canonical_f64(body: &mut Body, scratch: u32) {
    body.instruction(&Instruction::LocalTee(scratch))
        .instruction(&Instruction::F64Const(f64::NEG_INFINITY.into()))
        .instruction(&Instruction::F64Ge)
        .likely_if(ValType::F64)
        .instruction(&Instruction::LocalGet(scratch))
        .instruction(&Instruction::Else)
        .instruction(&Instruction::F64Const(f64::from_bits(0x7ff8_0000_0000_0000).into()))
        .instruction(&Instruction::End);
}

/// The same for the f32 on the stack.
fn canonical_f32(body: &mut Body, scratch: u32) {
    body.instruction(&Instruction::LocalTee(scratch))
        .instruction(&Instruction::F32Const(f32::NEG_INFINITY.into()))
        .instruction(&Instruction::F32Ge)
        .likely_if(ValType::F32)
        .instruction(&Instruction::LocalGet(scratch))
        .instruction(&Instruction::Else)
        .instruction(&Instruction::F32Const(f32::from_bits(0x7fc0_0000).into()))
        .instruction(&Instruction::End);
}
