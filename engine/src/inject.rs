//! Re-encodes a validated module for execution: appends the drivers, inserts the meter, guards stores against writing to the
//! records of other bindings, makes NaNs canonical where their bits are visible, and enlarges the memory for the host's
//! tables.
//!
//! A rule is written for one binding. The host adds the loop, so that the boundary of the sandbox is crossed once for many
//! bindings. What the guest can observe does not change: `memory.size` still returns the pages that the module asked for, and
//! `memory.grow` always returns -1.
//!
//! `layout` defines the memory layout and the exports; `driver`, `meter`, `guard` and `nan` generate the added code. This file
//! walks the module and assigns the indices of what is appended.

mod body;
mod driver;
mod guard;
mod layout;
mod meter;
mod nan;

use std::convert::Infallible;

use wasm_encoder::reencode::{Error, Reencode, utils};
use wasm_encoder::{
    BranchHints, CodeSection, ConstExpr, ExportKind, ExportSection, FunctionSection, GlobalSection, GlobalType,
    MemoryType, Module, SectionId, TypeSection, ValType,
};
use wasmparser::Operator;

pub(crate) use self::layout::{
    ANSWER_BYTES, ANSWERS_AT, DRIVER_EXPORT, Driven, FUEL_EXPORT, LIST_AT, LIST_DRIVER_EXPORT, LIST_ENTRY_BYTES,
    MAX_ANSWERS, MAX_LISTED, MEMORY_EXPORT, MIGRATION_EXPORT, PAGE_BYTES, STRAY_WRITE, VERDICT_AT, global_export,
    mailbox_at,
};

use self::body::Body;
use self::driver::Selection;
use self::guard::ScratchLocals;
use self::nan::{canonical_f32, canonical_f64};
use crate::cost::Metering;
use crate::inspect::{Inspection, access};
use crate::limits::MAX_INSTANCE_PAGES;

/// Re-encodes a module that [`crate::inspect::inspect`] accepted.
pub(crate) fn inject(module: &[u8], inspection: &Inspection) -> Vec<u8> {
    let mut injector = Injector {
        inspection,
        types: 0,
        globals: 0,
        functions: 0,
        has_global_section: false,
        guarded: false,
        arity: Vec::new(),
        next_body: 0,
        hints: BranchHints::new(),
    };
    injector.count(module);
    let mut out = Module::new();
    injector
        .parse_core_module(&mut out, wasmparser::Parser::new(0), module)
        .expect("a module that passed inspection has only sections and operators that can be re-encoded");
    // By the proposal the hints precede the code, but they are known only after it is written. Wasmtime accepts them
    // anywhere.
    out.section(&injector.hints);
    out.finish()
}

struct Injector<'a> {
    inspection: &'a Inspection,
    /// Counts in the original module: what is appended gets the next indices.
    types: u32,
    globals: u32,
    functions: u32,
    has_global_section: bool,
    /// Whether there is a store that must be guarded.
    guarded: bool,
    /// The number of parameters of each function.
    arity: Vec<u32>,
    next_body: usize,
    hints: BranchHints,
}

/// An appended function.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Appended {
    Driver,
    ListDriver,
    Migration,
    Guard,
}

impl<'a> Injector<'a> {
    /// Counts types, functions and globals, in a first pass.
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
                    let mut in_record = self.known_accesses(bodies);
                    for operator in body.get_operators_reader().into_iter().flatten().flatten() {
                        self.guarded |= is_bulk(&operator);
                        if let Some(access) = access(&operator) {
                            self.guarded |= !next_is_known(&mut in_record) && access.is_store;
                        }
                    }
                    bodies += 1;
                }
                _ => {}
            }
        }
        self.types = params_of_type.len() as u32;
        self.functions = self.arity.len() as u32;
    }

    /// Returns for each load and store of a function whether it is proven to stay inside a record.
    fn known_accesses(&self, function: u32) -> std::slice::Iter<'a, bool> {
        if function == self.inspection.evaluate { self.inspection.in_record.iter() } else { [].iter() }
    }

    fn metered(&self) -> bool {
        self.inspection.metering == Metering::Metered
    }

    fn fuel_global(&self) -> u32 {
        self.globals
    }

    /// Returns the index of the global with the address of the evaluated binding's state.
    fn state_global(&self) -> u32 {
        self.globals + 1
    }

    /// Returns the index of the global with the address of the evaluated binding's verdict.
    fn verdict_global(&self) -> u32 {
        self.globals + 2
    }

    /// Returns the functions that are appended to the module's own, in this order.
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

    /// Returns the index of an appended function.
    fn index_of(&self, function: Appended) -> u32 {
        let place = self.appended().position(|other| other == function);
        self.functions + place.expect("the function is appended") as u32
    }

    /// Returns the address of the mailbox.
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

    /// Adds the meter to a module without a global section.
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

    /// Replaces the guest's exports, which are not needed any more, by the host's.
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
        for global in &self.inspection.mutable_globals {
            exports.export(&global_export(*global), ExportKind::Global, *global);
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
                Appended::Driver => self.driver(Selection::Range),
                Appended::ListDriver => self.driver(Selection::Listed),
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
        let scratch = ScratchLocals::after(count);
        locals.extend(ScratchLocals::TYPES);
        let mut body = Body::new(locals);
        let inspection = self.inspection;
        let mut progress = Progress {
            loops: inspection.functions[index].regions.iter(),
            in_record: self.known_accesses(index as u32),
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

    /// Removes names, producers and the manifest, which are not needed for execution.
    fn parse_custom_section(
        &mut self,
        _module: &mut Module,
        _section: wasmparser::CustomSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        Ok(())
    }
}

fn is_bulk(operator: &Operator<'_>) -> bool {
    matches!(operator, Operator::MemoryCopy { .. } | Operator::MemoryFill { .. })
}

/// Returns whether the next load or store is proven to stay inside a record.
fn next_is_known(in_record: &mut std::slice::Iter<'_, bool>) -> bool {
    in_record.next().copied().unwrap_or(false)
}

/// The state of the pass over a function's operators.
struct Progress<'a> {
    /// The costs of the loops that are still to come.
    loops: std::slice::Iter<'a, u64>,
    /// Whether the loads and stores that are still to come stay inside a record.
    in_record: std::slice::Iter<'a, bool>,
}

impl Injector<'_> {
    fn operator<'a>(
        &mut self,
        body: &mut Body,
        operator: Operator<'a>,
        scratch: &ScratchLocals,
        progress: &mut Progress<'_>,
    ) -> Result<(), Error<Infallible>> {
        match operator {
            Operator::MemorySize { .. } => {
                body.code().i32_const(self.inspection.guest_pages as i32);
                return Ok(());
            }
            Operator::MemoryGrow { .. } => {
                body.code().drop().i32_const(-1);
                return Ok(());
            }
            // These make the bits of a float visible, so a NaN becomes the canonical one.
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
        if let Some(access) = access(&operator)
            && !next_is_known(&mut progress.in_record)
            && access.is_store
        {
            self.guard_store(body, scratch, &operator, access);
        }
        let is_loop = matches!(operator, Operator::Loop { .. });
        body.instruction(&self.instruction(operator)?);
        if is_loop && self.metered() {
            self.charge(body, *progress.loops.next().unwrap_or(&0));
        }
        Ok(())
    }
}
