//! One pass over a module's sections: checks counts against limits, and collects what the checks of the interface need.

use tocsin_rules_sdk::abi;
use wasmparser::{
    ConstExpr, DataKind, ElementItems, ElementKind, ExternalKind, FuncType, Operator, Parser, Payload, ValType,
};

use super::body;
use crate::cost::FunctionCost;
use crate::limits::{
    MAX_CODE_BYTES, MAX_CUSTOM_BYTES, MAX_EXPORTS, MAX_FUNCTIONS, MAX_GLOBALS, MAX_GUEST_PAGES, MAX_SEGMENTS,
    MAX_TABLE_ELEMENTS, MAX_TYPE_VALUES, MAX_TYPES,
};
use crate::violation::{Code, Violations};

/// Bytes in a page of WebAssembly memory.
const PAGE_BYTES: u64 = 65_536;

/// The result of the pass over the sections.
#[derive(Default)]
pub(super) struct Parsed<'a> {
    pub(super) manifest: Option<&'a [u8]>,
    pub(super) guest_pages: Option<u64>,
    pub(super) functions: Vec<FunctionCost>,
    /// The functions in the table.
    pub(super) in_table: Vec<u32>,
    /// The indices of mutable globals.
    pub(super) mutable_globals: Vec<u32>,
    /// The content of data segments: offsets and bytes.
    pub(super) data: Vec<(usize, Vec<u8>)>,
    signatures: Signatures,
    /// `None` until an export section is read.
    exports: Option<Vec<(&'a str, ExternalKind, u32)>>,
    /// Whether the exports were skipped because there are too many, so that it is unknown which ones are missing.
    exports_skipped: bool,
    /// The number of elements of the table, if there is one within the limit.
    table_elements: Option<u64>,
    custom_bytes: usize,
    /// Whether every section was read, or skipped because it exceeds a limit.
    pub(super) complete: bool,
}

/// The types of a module's functions.
#[derive(Default)]
pub(super) struct Signatures {
    /// The function types, `None` for types of another kind.
    types: Vec<Option<FuncType>>,
    /// The type index of each function.
    of_functions: Vec<u32>,
}

impl Signatures {
    fn of_function(&self, function: u32) -> Option<&FuncType> {
        let ty = *self.of_functions.get(function as usize)?;
        self.types.get(ty as usize)?.as_ref()
    }

    /// Returns the number of parameters and results of a function, or zeros if its type is unknown, which is a violation
    /// elsewhere.
    pub(super) fn arity_of_function(&self, function: u32) -> (u64, u64) {
        self.of_function(function).map_or((0, 0), arity)
    }

    /// Returns the same for a type.
    pub(super) fn arity_of_type(&self, ty: u32) -> (u64, u64) {
        self.types.get(ty as usize).and_then(Option::as_ref).map_or((0, 0), arity)
    }
}

fn arity(ty: &FuncType) -> (u64, u64) {
    (ty.params().len() as u64, ty.results().len() as u64)
}

/// The functions that the host calls.
#[derive(Clone, Copy, Default)]
pub(super) struct Interface {
    pub(super) evaluate: Option<u32>,
    pub(super) migrate: Option<u32>,
}

/// Reads the sections. A parse error is a violation and ends the pass; a section that exceeds its limit is skipped, so that
/// the others are still checked.
pub(super) fn walk<'a>(module: &'a [u8], violations: &mut Violations) -> Parsed<'a> {
    let mut parsed = Parsed::default();
    for payload in Parser::new(0).parse_all(module) {
        if let Err(error) = payload.and_then(|payload| parsed.section(payload, violations)) {
            violations.add(Code::Format, format!("{} (at byte {})", error.message(), error.offset()));
            return parsed;
        }
    }
    parsed.complete = true;
    parsed
}

/// Returns whether a count is within its limit, and adds a violation if not.
fn within(count: u64, limit: u64, of: &str, violations: &mut Violations) -> bool {
    if count > limit {
        violations.add(Code::Limit, format!("{count} {of}, more than the {limit} allowed"));
    }
    count <= limit
}

impl<'a> Parsed<'a> {
    /// Reads one section, or skips it if it exceeds a limit.
    #[allow(clippy::collapsible_match)] // a guard that reports a violation would hide it
    fn section(&mut self, payload: Payload<'a>, violations: &mut Violations) -> wasmparser::Result<()> {
        match payload {
            Payload::TypeSection(section) => {
                if within(section.count().into(), MAX_TYPES as u64, "types", violations) {
                    for group in section {
                        for ty in group?.into_types() {
                            self.add_type(&ty, violations);
                        }
                    }
                }
            }
            Payload::ImportSection(section) => imports(section, violations)?,
            Payload::FunctionSection(section) => {
                if within(section.count().into(), MAX_FUNCTIONS as u64, "functions", violations) {
                    self.signatures.of_functions = section.into_iter().collect::<Result<_, _>>()?;
                }
            }
            Payload::TableSection(section) => self.tables(section, violations)?,
            Payload::MemorySection(section) => self.memories(section, violations)?,
            Payload::GlobalSection(section) => {
                if within(section.count().into(), MAX_GLOBALS as u64, "globals", violations) {
                    for (index, global) in section.into_iter().enumerate() {
                        if global?.ty.mutable {
                            self.mutable_globals.push(index as u32);
                        }
                    }
                }
            }
            Payload::ExportSection(section) => {
                if within(section.count().into(), MAX_EXPORTS as u64, "exports", violations) {
                    let exports = section.into_iter().map(|export| export.map(|e| (e.name, e.kind, e.index)));
                    self.exports = Some(exports.collect::<Result<_, _>>()?);
                } else {
                    self.exports_skipped = true;
                }
            }
            Payload::StartSection { .. } => {
                violations.add(Code::Export, "there is a start function: rules have nothing to initialise; remove it");
            }
            Payload::ElementSection(section) => {
                if within(section.count().into(), MAX_SEGMENTS as u64, "element segments", violations) {
                    for element in section {
                        self.element_segment(&element?, violations)?;
                    }
                }
            }
            Payload::DataSection(section) => {
                if within(section.count().into(), MAX_SEGMENTS as u64, "data segments", violations) {
                    for datum in section {
                        self.data_segment(&datum?, violations)?;
                    }
                }
            }
            Payload::TagSection(_) => violations.add(Code::Feature, "exceptions are off: there is a tag section"),
            Payload::CodeSectionStart { size, .. } => {
                within(size.into(), MAX_CODE_BYTES as u64, "bytes of code", violations);
            }
            Payload::CodeSectionEntry(function) => {
                let index = self.functions.len();
                self.functions.push(body::scan(index, &function, &self.signatures, violations)?);
            }
            Payload::CustomSection(section) => self.custom(&section, violations),
            _ => {}
        }
        Ok(())
    }

    fn add_type(&mut self, ty: &wasmparser::SubType, violations: &mut Violations) {
        let function = match &ty.composite_type.inner {
            wasmparser::CompositeInnerType::Func(function) => Some(function.clone()),
            _ => None,
        };
        if let Some(function) = &function {
            within(function.params().len() as u64, MAX_TYPE_VALUES as u64, "parameters of one type", violations);
            within(function.results().len() as u64, MAX_TYPE_VALUES as u64, "results of one type", violations);
        }
        self.signatures.types.push(function);
    }

    fn tables(
        &mut self,
        section: wasmparser::TableSectionReader<'a>,
        violations: &mut Violations,
    ) -> wasmparser::Result<()> {
        within(section.count().into(), 1, "tables", violations);
        for table in section.into_iter().take(1) {
            let ty = table?.ty;
            let elements = ty.initial.max(ty.maximum.unwrap_or(0));
            if within(elements, MAX_TABLE_ELEMENTS, "table elements", violations) {
                self.table_elements = Some(ty.initial);
            }
        }
        Ok(())
    }

    fn memories(
        &mut self,
        section: wasmparser::MemorySectionReader<'a>,
        violations: &mut Violations,
    ) -> wasmparser::Result<()> {
        if section.count() > 1 {
            violations.add(Code::Feature, format!("{} memories: a rule has one", section.count()));
        }
        for memory in section.into_iter().take(1) {
            let memory = memory?;
            if memory.memory64 || memory.shared || memory.page_size_log2.is_some() {
                violations.add(Code::Feature, "the memory is 64-bit, shared or of custom page size: use a plain one");
            } else if within(memory.initial, MAX_GUEST_PAGES, "pages of memory asked for", violations) {
                self.guest_pages = Some(memory.initial);
            }
        }
        Ok(())
    }

    /// Checks that data is inside the memory that the module asks for: the host's tables are behind it.
    fn data_segment(&mut self, datum: &wasmparser::Data<'a>, violations: &mut Violations) -> wasmparser::Result<()> {
        let DataKind::Active { offset_expr, .. } = &datum.kind else {
            violations.add(Code::Feature, "a passive data segment: only active ones are allowed");
            return Ok(());
        };
        let offset = constant(offset_expr)?;
        let end = offset.map(|offset| offset + datum.data.len() as u64);
        self.data.extend(offset.map(|offset| (offset as usize, datum.data.to_vec())));
        let memory_bytes = self.guest_pages.map(|pages| pages * PAGE_BYTES);
        check_segment("data", "byte", end, memory_bytes, "bytes of memory", violations);
        Ok(())
    }

    /// Checks that elements are inside the table, so that instantiation cannot fail.
    fn element_segment(
        &mut self,
        element: &wasmparser::Element<'a>,
        violations: &mut Violations,
    ) -> wasmparser::Result<()> {
        let ElementKind::Active { offset_expr, .. } = &element.kind else {
            violations.add(Code::Feature, "a passive element segment: only active ones are allowed");
            return Ok(());
        };
        let count = match &element.items {
            ElementItems::Functions(items) => items.count(),
            ElementItems::Expressions(_, items) => items.count(),
        };
        let end = constant(offset_expr)?.map(|offset| offset + u64::from(count));
        check_segment("element", "element", end, self.table_elements, "elements of the table", violations);
        match &element.items {
            // At most as many as a table may have: more are a violation already.
            ElementItems::Functions(items) => {
                for function in items.clone().into_iter().take(MAX_TABLE_ELEMENTS as usize) {
                    self.in_table.push(function?);
                }
            }
            ElementItems::Expressions(..) => {
                violations.add(Code::Feature, "an element segment of expressions: only lists of functions are allowed");
            }
        }
        Ok(())
    }

    fn custom(&mut self, section: &wasmparser::CustomSectionReader<'a>, violations: &mut Violations) {
        if section.name() == abi::MANIFEST_SECTION {
            if self.manifest.is_some() {
                violations.add(Code::Manifest, format!("there are two custom sections `{}`", abi::MANIFEST_SECTION));
            }
            self.manifest = Some(section.data());
            return;
        }
        self.custom_bytes += section.data().len();
        if self.custom_bytes > MAX_CUSTOM_BYTES {
            let text =
                format!("more than {MAX_CUSTOM_BYTES} bytes of custom sections beside the manifest; strip the module");
            violations.add(Code::Limit, text);
        }
    }

    /// Checks the exports: `evaluate` and `memory` must be there with the right types, and no other function than `migrate`
    /// may be.
    pub(super) fn check_interface(&self, violations: &mut Violations) -> Interface {
        let exports = match &self.exports {
            Some(exports) => exports.as_slice(),
            // An export section that was skipped or not reached is unknown; one that does not exist is empty.
            None if !self.complete || self.exports_skipped => return Interface::default(),
            None => &[],
        };
        let (mut found, mut has_evaluate, mut has_memory) = (Interface::default(), false, false);
        for (name, kind, index) in exports {
            match (*name, kind) {
                (abi::EVALUATE_EXPORT, ExternalKind::Func) => {
                    has_evaluate = true;
                    let meaning = "evaluate(tick, params, state, verdict) -> code";
                    found.evaluate = self.check_function(name, *index, meaning, violations);
                }
                (abi::MIGRATE_EXPORT, ExternalKind::Func) => {
                    let meaning = "migrate(from, old_state, params, state) -> 0, or another number to refuse";
                    found.migrate = self.check_function(name, *index, meaning, violations);
                }
                (abi::MEMORY_EXPORT, ExternalKind::Memory) => has_memory = true,
                (_, ExternalKind::Global) if is_plain(name) => {}
                _ => violations.add(
                    Code::Export,
                    format!(
                        "the {} {:?} is exported: a rule exports the function `evaluate`, the memory `memory`, perhaps \
                         the function `migrate`, and nothing else but globals with plain ASCII names",
                        kind_name(*kind),
                        name.chars().take(64).collect::<String>()
                    ),
                ),
            }
        }
        if !has_evaluate {
            violations.add(Code::Export, "the function `evaluate` is not exported");
        }
        if !has_memory {
            violations.add(Code::Export, "the memory is not exported as `memory`");
        }
        found
    }

    /// Checks the type of an exported function. If types were skipped because there are too many, the function's type is
    /// unknown, which is no violation.
    fn check_function(&self, name: &str, index: u32, meaning: &str, violations: &mut Violations) -> Option<u32> {
        if self.signatures.types.is_empty() || self.signatures.of_functions.is_empty() {
            return None;
        }
        let expected = self
            .signatures
            .of_function(index)
            .filter(|ty| ty.params() == [ValType::I32; 4].as_slice() && ty.results() == [ValType::I32].as_slice());
        if expected.is_none() {
            violations.add(
                Code::Export,
                format!(
                    "`{name}` has the wrong type: it must be (param i32 i32 i32 i32) (result i32), that is {meaning}"
                ),
            );
        }
        expected.map(|_| index)
    }
}

/// Returns the value of an offset that is an `i32.const`, and `None` for other expressions.
fn constant(offset: &ConstExpr<'_>) -> wasmparser::Result<Option<u64>> {
    Ok(match offset.get_operators_reader().read()? {
        Operator::I32Const { value } => Some(u64::from(value as u32)),
        _ => None,
    })
}

/// Checks the end of a segment. `end` is `None` if its offset is not constant, `room` if it is unknown because of another
/// violation.
fn check_segment(kind: &str, unit: &str, end: Option<u64>, room: Option<u64>, of: &str, violations: &mut Violations) {
    match (end, room) {
        (None, _) => violations.add(Code::Feature, format!("the offset of a {kind} segment is not an i32.const")),
        (Some(end), Some(room)) if end > room => {
            violations.add(Code::Format, format!("a {kind} segment ends at {unit} {end}, behind the {room} {of}"));
        }
        _ => {}
    }
}

fn imports(section: wasmparser::ImportSectionReader<'_>, violations: &mut Violations) -> wasmparser::Result<()> {
    for import in section.into_imports() {
        let import = import?;
        let clip = |text: &str| text.chars().take(64).collect::<String>();
        let hint =
            if import.module.starts_with("wasi") { ": build without WASI, for wasm32-unknown-unknown" } else { "" };
        violations.add(
            Code::Import,
            format!("{:?}.{:?} is imported, but a rule imports nothing{hint}", clip(import.module), clip(import.name)),
        );
    }
    Ok(())
}

fn is_plain(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic())
}

fn kind_name(kind: ExternalKind) -> &'static str {
    match kind {
        ExternalKind::Func | ExternalKind::FuncExact => "function",
        ExternalKind::Table => "table",
        ExternalKind::Memory => "memory",
        ExternalKind::Global => "global",
        ExternalKind::Tag => "tag",
    }
}
