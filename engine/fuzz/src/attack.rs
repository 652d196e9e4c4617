//! Modules that attack the memory layout: they call their own `evaluate` by its index, through a helper, through the table and
//! as their migration, with any addresses, and write across every boundary.

use arbitrary::Arbitrary;
use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, ElementSection, Elements, ExportKind, ExportSection, Function, FunctionSection,
    GlobalSection, GlobalType, Instruction as I, MemArg, MemorySection, MemoryType, Module, RefType, TableSection,
    TableType, TypeSection, ValType,
};

use crate::smith::Records;

/// The sizes of the records.
pub const RECORDS: Records = Records { params: 16, state: 24 };
/// Evidence numbers.
const EVIDENCE: usize = 2;
/// The depth up to which a module calls itself.
const MAX_DEPTH: i32 = 3;
/// The most acts of one function: more only take time to compile.
const MAX_ACTS: usize = 24;

/// A module that attacks.
#[derive(Arbitrary, Debug)]
pub struct Attack {
    sleeps: bool,
    has_page: bool,
    /// The function that is exported as the migration, if any.
    migration: Option<Which>,
    evaluate: Vec<Act>,
    helper: Vec<Act>,
}

/// A function of the module; both have the type of `evaluate`.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Which {
    Evaluate,
    Helper,
}

impl Which {
    fn index(self) -> u32 {
        match self {
            Self::Evaluate => 0,
            Self::Helper => 1,
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Act {
    Store(Width, Address, u8),
    /// An address and a length.
    Fill(Address, Length),
    /// To, from and a length.
    Copy(Address, Address, Length),
    /// Calls a function, by its index or through the table, with these addresses.
    Call(Which, bool, [Address; 4]),
    /// Assigns an address to a parameter.
    Assign(u8, Address),
    /// Reads a word at an address into a local.
    Read(Address),
    If(bool, Vec<Act>),
    Loop(u8, Vec<Act>),
    Answer(u8),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Width {
    Byte,
    Half,
    Word,
    Long,
    Double,
}

/// The length of a bulk operation.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Length {
    Short(u8),
    Record,
    Page,
}

/// The address of a store.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Address {
    /// A parameter, with a constant offset in the instruction.
    Parameter(u8, u8),
    /// A parameter plus a constant, added by code.
    Sum(u8, i8),
    /// A parameter plus a number of records.
    Neighbour(u8, i8),
    /// Relative to the answer that contains the verdict.
    Answers(i16),
    /// Relative to the start of the mailbox: the tick and the list.
    Mailbox(i16),
    /// The word that was read last.
    Local(i8),
    /// Any address.
    Constant(u32),
}

/// The locals behind the parameters: the word that was read last, and the counters of loops.
const READ: u32 = 4;
const COUNTER: u32 = 5;
const MAX_LOOPS: u32 = 3;
/// The global that counts the depth of the module's calls of itself.
const DEPTH: u32 = 0;

impl Attack {
    /// Returns the module.
    pub fn module(&self) -> Vec<u8> {
        let mut types = TypeSection::new();
        types.ty().function([ValType::I32; 4], [ValType::I32]);
        let mut functions = FunctionSection::new();
        functions.function(0).function(0);
        let mut tables = TableSection::new();
        tables.table(TableType {
            element_type: RefType::FUNCREF,
            minimum: 2,
            maximum: Some(2),
            table64: false,
            shared: false,
        });
        let mut memories = MemorySection::new();
        let pages = self.has_page.into();
        memories.memory(MemoryType {
            minimum: pages,
            maximum: None,
            memory64: false,
            shared: false,
            page_size_log2: None,
        });
        let mut globals = GlobalSection::new();
        globals.global(GlobalType { val_type: ValType::I32, mutable: true, shared: false }, &ConstExpr::i32_const(0));
        let mut exports = ExportSection::new();
        exports.export("evaluate", ExportKind::Func, 0).export("memory", ExportKind::Memory, 0);
        if let Some(migration) = self.migration {
            exports.export("migrate", ExportKind::Func, migration.index());
        }
        let mut elements = ElementSection::new();
        elements.active(None, &ConstExpr::i32_const(0), Elements::Functions([0, 1][..].into()));
        let mut code = CodeSection::new();
        code.function(&body(&self.evaluate)).function(&body(&self.helper));
        let mut module = Module::new();
        module.section(&types).section(&functions).section(&tables).section(&memories).section(&globals);
        module.section(&exports).section(&elements).section(&code);
        crate::with_manifest(module.finish(), self.manifest().as_bytes())
    }

    /// Returns whether it has a migration.
    pub fn migrates(&self) -> bool {
        self.migration.is_some()
    }

    fn manifest(&self) -> String {
        let manifest = crate::smith::manifest(RECORDS, EVIDENCE, self.sleeps);
        if self.migrates() { manifest.replacen('{', r#"{"migrates":["0.9.0"],"#, 1) } else { manifest }
    }
}

/// Returns the body of a function: its acts, unless the module has called itself too deeply.
fn body(acts: &[Act]) -> Function {
    let mut function = Function::new([(1 + MAX_LOOPS, ValType::I32)]);
    let mut writer = Writer { body: &mut function, open_loops: 0, left: MAX_ACTS };
    writer.add([I::GlobalGet(DEPTH), I::I32Const(MAX_DEPTH), I::I32GtS, I::If(BlockType::Empty)]);
    writer.add([I::I32Const(1), I::Return, I::End]);
    writer.add([I::GlobalGet(DEPTH), I::I32Const(1), I::I32Add, I::GlobalSet(DEPTH)]);
    writer.acts(acts);
    writer.leave();
    writer.add([I::I32Const(0), I::End]);
    function
}

struct Writer<'a> {
    body: &'a mut Function,
    open_loops: u32,
    left: usize,
}

impl Writer<'_> {
    fn add<const N: usize>(&mut self, instructions: [I<'_>; N]) {
        instructions.iter().for_each(|instruction| _ = self.body.instruction(instruction));
    }

    fn leave(&mut self) {
        self.add([I::GlobalGet(DEPTH), I::I32Const(1), I::I32Sub, I::GlobalSet(DEPTH)]);
    }

    fn acts(&mut self, acts: &[Act]) {
        for act in acts {
            let Some(left) = self.left.checked_sub(1) else { return };
            self.left = left;
            self.act(act);
        }
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Store(width, address, value) => {
                let offset = self.address(*address);
                let place = |align| MemArg { offset, align, memory_index: 0 };
                match width {
                    Width::Byte => self.add([I::I32Const((*value).into()), I::I32Store8(place(0))]),
                    Width::Half => self.add([I::I32Const(-1), I::I32Store16(place(0))]),
                    Width::Word => self.add([I::I32Const((*value).into()), I::I32Store(place(0))]),
                    Width::Long => self.add([I::I64Const(-1), I::I64Store(place(0))]),
                    Width::Double => self.add([I::F64Const(f64::from(*value).into()), I::F64Store(place(0))]),
                }
            }
            Act::Fill(to, length) => {
                self.whole_address(*to);
                self.add([I::I32Const(0x5a)]);
                self.length(*length);
                self.add([I::MemoryFill(0)]);
            }
            Act::Copy(to, from, length) => {
                self.whole_address(*to);
                self.whole_address(*from);
                self.length(*length);
                self.add([I::MemoryCopy { src_mem: 0, dst_mem: 0 }]);
            }
            Act::Call(which, through_table, addresses) => {
                addresses.iter().for_each(|address| self.whole_address(*address));
                match through_table {
                    true => self.add([
                        I::I32Const(which.index() as i32),
                        I::CallIndirect { type_index: 0, table_index: 0 },
                        I::Drop,
                    ]),
                    false => self.add([I::Call(which.index()), I::Drop]),
                }
            }
            Act::Assign(parameter, address) => {
                self.whole_address(*address);
                self.add([I::LocalSet(u32::from(parameter % 4))]);
            }
            Act::Read(address) => {
                let offset = self.address(*address);
                self.add([I::I32Load(MemArg { offset, align: 0, memory_index: 0 }), I::LocalSet(READ)]);
            }
            Act::If(on_price, acts) => {
                if *on_price {
                    self.add([I::LocalGet(0), I::F64Load(MemArg { offset: 0, align: 3, memory_index: 0 })]);
                    self.add([I::F64Const(3.0.into()), I::F64Lt]);
                } else {
                    self.add([I::GlobalGet(DEPTH), I::I32Const(1), I::I32Eq]);
                }
                self.add([I::If(BlockType::Empty)]);
                self.acts(acts);
                self.add([I::End]);
            }
            Act::Loop(turns, acts) if self.open_loops < MAX_LOOPS => {
                let counter = COUNTER + self.open_loops;
                self.open_loops += 1;
                self.add([I::I32Const(i32::from(turns % 4) + 1), I::LocalSet(counter), I::Loop(BlockType::Empty)]);
                self.acts(acts);
                self.add([I::LocalGet(counter), I::I32Const(1), I::I32Sub, I::LocalTee(counter), I::BrIf(0), I::End]);
                self.open_loops -= 1;
            }
            Act::Loop(_, acts) => self.acts(acts),
            Act::Answer(code) => {
                self.leave();
                self.add([I::I32Const(i32::from(code % 4)), I::Return]);
            }
        }
    }

    fn length(&mut self, length: Length) {
        let bytes = match length {
            Length::Short(bytes) => bytes.into(),
            Length::Record => RECORDS.state as i32,
            Length::Page => 65_536,
        };
        self.add([I::I32Const(bytes)]);
    }

    /// Leaves an address on the stack, with the offset added.
    fn whole_address(&mut self, address: Address) {
        let offset = self.address(address);
        if offset > 0 {
            self.add([I::I32Const(offset as i32), I::I32Add]);
        }
    }

    /// Leaves an address on the stack, without the offset, which is returned.
    fn address(&mut self, address: Address) -> u64 {
        let (from, add) = match address {
            Address::Parameter(parameter, offset) => {
                self.add([I::LocalGet(u32::from(parameter % 4))]);
                return offset.into();
            }
            Address::Constant(at) => {
                self.add([I::I32Const((at % (1 << 18)) as i32)]);
                return u64::from(at >> 30) << 31;
            }
            Address::Sum(parameter, add) => (u32::from(parameter % 4), add.into()),
            Address::Neighbour(parameter, records) => {
                let bytes = [32, RECORDS.params, RECORDS.state, 64][usize::from(parameter % 4)];
                (u32::from(parameter % 4), i32::from(records % 8) * bytes as i32)
            }
            // The verdict is 8 bytes behind the start of an answer.
            Address::Answers(add) => (3, i32::from(add) - 8),
            Address::Mailbox(add) => (0, i32::from(add)),
            Address::Local(add) => (READ, add.into()),
        };
        self.add([I::LocalGet(from), I::I32Const(add), I::I32Add]);
        0
    }
}
