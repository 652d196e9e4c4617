//! One pass over a module's sections: counts against limits, and what the interface needs to know.

use tocsin_rules_sdk::abi;
use wasmparser::{DataKind, Encoding, ExternalKind, FuncType, Operator, Parser, Payload, ValType};

use super::body;
use crate::cost::FunctionCost;
use crate::limits::{
    MAX_CODE_BYTES, MAX_CUSTOM_BYTES, MAX_EXPORTS, MAX_FUNCTIONS, MAX_GLOBALS, MAX_GUEST_PAGES, MAX_SEGMENTS,
    MAX_TABLE_ELEMENTS, MAX_TYPE_VALUES, MAX_TYPES,
};
use crate::violation::{Code, Violations};

/// Bytes in a page of WebAssembly memory.
const PAGE_BYTES: u64 = 65_536;

/// What one pass over the sections found.
#[derive(Default)]
pub(super) struct Parsed<'a> {
    pub(super) manifest: Option<&'a [u8]>,
    pub(super) guest_pages: Option<u64>,
    pub(super) functions: Vec<FunctionCost>,
    /// The parameter and result types of each type, None where it is not a function type.
    types: Vec<Option<FuncType>>,
    /// The type of each function.
    function_types: Vec<u32>,
    exports: Vec<(&'a str, ExternalKind, u32)>,
    custom_bytes: usize,
}

/// Walks the sections. A parse error ends the walk and is a violation itself.
pub(super) fn walk<'a>(module: &'a [u8], violations: &mut Violations) -> Parsed<'a> {
    let mut parsed = Parsed::default();
    for payload in Parser::new(0).parse_all(module) {
        let done = payload.and_then(|payload| parsed.section(payload, violations));
        match done {
            Ok(true) => {}
            // A section over its limit: what follows would only repeat it.
            Ok(false) => break,
            Err(error) => {
                violations.add(Code::Format, format!("{} (at byte {})", error.message(), error.offset()));
                break;
            }
        }
    }
    parsed
}

/// Whether a count is within its limit; a violation if not.
fn within(count: u64, limit: u64, of: &str, violations: &mut Violations) -> bool {
    if count > limit {
        violations.add(Code::Limit, format!("{count} {of}, more than the {limit} allowed"));
    }
    count <= limit
}

impl<'a> Parsed<'a> {
    /// Takes one section; false if a limit is broken that makes the rest not worth reading.
    fn section(&mut self, payload: Payload<'a>, violations: &mut Violations) -> wasmparser::Result<bool> {
        match payload {
            Payload::Version { encoding: Encoding::Component, .. } => {
                violations.add(Code::Format, "this is a component, and rules are core modules");
                return Ok(false);
            }
            Payload::TypeSection(section) => {
                if !within(section.count().into(), MAX_TYPES as u64, "types", violations) {
                    return Ok(false);
                }
                for group in section {
                    for ty in group?.into_types() {
                        self.add_type(&ty, violations);
                    }
                }
            }
            Payload::ImportSection(section) => {
                if section.count() > 0 {
                    return imports(section, violations);
                }
            }
            Payload::FunctionSection(section) => {
                if !within(section.count().into(), MAX_FUNCTIONS as u64, "functions", violations) {
                    return Ok(false);
                }
                self.function_types = section.into_iter().collect::<Result<_, _>>()?;
            }
            Payload::TableSection(section) => {
                within(section.count().into(), 1, "tables", violations);
                for table in section.into_iter().take(1) {
                    let ty = table?.ty;
                    let elements = ty.initial.max(ty.maximum.unwrap_or(0));
                    within(elements, MAX_TABLE_ELEMENTS, "table elements", violations);
                }
            }
            Payload::MemorySection(section) => return self.memories(section, violations),
            Payload::GlobalSection(section) => {
                return Ok(within(section.count().into(), MAX_GLOBALS as u64, "globals", violations));
            }
            Payload::ExportSection(section) => {
                if !within(section.count().into(), MAX_EXPORTS as u64, "exports", violations) {
                    return Ok(false);
                }
                for export in section {
                    let export = export?;
                    self.exports.push((export.name, export.kind, export.index));
                }
            }
            Payload::StartSection { .. } => {
                violations.add(Code::Export, "there is a start function: rules have nothing to initialise; remove it");
            }
            Payload::ElementSection(section) => {
                return Ok(within(section.count().into(), MAX_SEGMENTS as u64, "element segments", violations));
            }
            Payload::DataSection(section) => {
                if !within(section.count().into(), MAX_SEGMENTS as u64, "data segments", violations) {
                    return Ok(false);
                }
                for datum in section {
                    self.data_segment(&datum?, violations)?;
                }
            }
            Payload::TagSection(_) => violations.add(Code::Feature, "exceptions are off: there is a tag section"),
            Payload::CodeSectionStart { size, .. } => {
                return Ok(within(size.into(), MAX_CODE_BYTES as u64, "bytes of code", violations));
            }
            Payload::CodeSectionEntry(function) => {
                let index = self.functions.len();
                let params = self.signature(index as u32).map_or(0, |ty| ty.params().len());
                self.functions.push(body::scan(index, &function, params, violations)?);
            }
            Payload::CustomSection(section) => return Ok(self.custom(&section, violations)),
            _ => {}
        }
        Ok(true)
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
        self.types.push(function);
    }

    fn memories(
        &mut self,
        section: wasmparser::MemorySectionReader<'a>,
        violations: &mut Violations,
    ) -> wasmparser::Result<bool> {
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
        Ok(true)
    }

    /// Data must lie inside the memory that the module asked for: behind it are the host's tables.
    fn data_segment(&self, datum: &wasmparser::Data<'a>, violations: &mut Violations) -> wasmparser::Result<()> {
        let DataKind::Active { offset_expr, .. } = &datum.kind else {
            violations.add(Code::Feature, "a passive data segment: only active ones are allowed");
            return Ok(());
        };
        let mut operators = offset_expr.get_operators_reader();
        let offset = match operators.read()? {
            Operator::I32Const { value } => u64::from(value as u32),
            _ => {
                violations.add(Code::Feature, "a data segment whose offset is not an i32.const");
                return Ok(());
            }
        };
        let end = offset + datum.data.len() as u64;
        let memory_bytes = self.guest_pages.unwrap_or(0) * PAGE_BYTES;
        if end > memory_bytes {
            violations.add(
                Code::Format,
                format!("a data segment ends at byte {end}, behind the {memory_bytes} bytes of memory asked for"),
            );
        }
        Ok(())
    }

    fn custom(&mut self, section: &wasmparser::CustomSectionReader<'a>, violations: &mut Violations) -> bool {
        if section.name() == abi::MANIFEST_SECTION {
            if self.manifest.is_some() {
                violations.add(Code::Manifest, format!("there are two custom sections `{}`", abi::MANIFEST_SECTION));
            }
            self.manifest = Some(section.data());
            return true;
        }
        self.custom_bytes += section.data().len();
        within(self.custom_bytes as u64, MAX_CUSTOM_BYTES as u64, "bytes of custom sections; strip the module", violations)
    }

    fn signature(&self, function: u32) -> Option<&FuncType> {
        let ty = *self.function_types.get(function as usize)?;
        self.types.get(ty as usize)?.as_ref()
    }

    /// Checks exports: `evaluate` and `memory` are there with the right types, and no other function is. Returns the
    /// index of `evaluate`.
    pub(super) fn check_interface(&self, violations: &mut Violations) -> Option<u32> {
        let mut evaluate = None;
        let mut memory = false;
        for (name, kind, index) in &self.exports {
            match (*name, kind) {
                (abi::EVALUATE_EXPORT, ExternalKind::Func) => evaluate = self.check_evaluate(*index, violations),
                (abi::MEMORY_EXPORT, ExternalKind::Memory) => memory = true,
                (_, ExternalKind::Global) if is_plain(name) => {}
                _ => violations.add(
                    Code::Export,
                    format!(
                        "the {} {:?} is exported: a rule exports the function `evaluate`, the memory `memory`, and \
                         nothing else but globals with plain ASCII names",
                        kind_name(*kind),
                        name.chars().take(64).collect::<String>()
                    ),
                ),
            }
        }
        let has_evaluate = self.exports.iter().any(|(name, kind, _)| (*name, *kind) == (abi::EVALUATE_EXPORT, ExternalKind::Func));
        if !has_evaluate {
            violations.add(Code::Export, "the function `evaluate` is not exported");
        }
        if !memory {
            violations.add(Code::Export, "the memory is not exported as `memory`");
        }
        evaluate
    }

    fn check_evaluate(&self, index: u32, violations: &mut Violations) -> Option<u32> {
        let expected = self
            .signature(index)
            .filter(|ty| ty.params() == [ValType::I32; 4].as_slice() && ty.results() == [ValType::I32].as_slice());
        if expected.is_none() {
            violations.add(
                Code::Export,
                "`evaluate` has the wrong type: it must be (param i32 i32 i32 i32) (result i32), that is \
                 evaluate(tick, params, state, verdict) -> code",
            );
        }
        expected.map(|_| index)
    }
}

fn imports(
    section: wasmparser::ImportSectionReader<'_>,
    violations: &mut Violations,
) -> wasmparser::Result<bool> {
    for import in section.into_imports() {
        let import = import?;
        let clip = |text: &str| text.chars().take(64).collect::<String>();
        let hint = if import.module.starts_with("wasi") { ": build without WASI, for wasm32-unknown-unknown" } else { "" };
        violations.add(
            Code::Import,
            format!("{:?}.{:?} is imported, but a rule imports nothing{hint}", clip(import.module), clip(import.name)),
        );
    }
    Ok(true)
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
