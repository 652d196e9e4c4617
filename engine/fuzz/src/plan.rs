//! Rules by a grammar: pure by construction, with correct wake bands, and prone to every fault. What they do must not depend
//! on the bindings that are evaluated with them, nor on the waking strategy.
//!
//! They read nothing but their records and write anywhere. A write outside of their records is a fault wherever the records
//! are: the grammar has no writes that could hit another record of the same binding.

use arbitrary::Arbitrary;
use wasm_encoder::{BlockType, Function, Instruction as I, MemArg, ValType};

use crate::smith::{Records, manifest};

/// The numbers in the state.
const STATE_SLOTS: u64 = 3;
/// The sizes of the records: a wake band's three numbers are the params.
pub const RECORDS: Records = Records { params: 24, state: STATE_SLOTS as usize * 8 };
/// The evidence numbers.
const EVIDENCE: u64 = 2;

/// A generated rule.
#[derive(Arbitrary, Debug)]
pub struct Plan {
    /// Whether it sleeps in the band of its params.
    sleeps: bool,
    /// Whether it asks for a page of memory.
    has_page: bool,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Hold,
    Fire,
    /// Writes a number to the evidence.
    Evidence(u8, Number),
    /// Writes a number to the state, by an address of the given kind.
    Remember(u8, Number, Address),
    /// Increments an integer in the state.
    Count(u8),
    /// Fills the state with zeroes.
    Forget,
    /// Copies the state to the evidence.
    ShowState,
    If(Number, Number, Vec<Step>, Vec<Step>),
    Repeat(u8, Vec<Step>),
    /// Divides by a number, converted to an integer.
    Divide(Number),
    /// Writes outside of its records.
    Stray(Place, bool),
    Answer(i32),
    Trap,
    Endless,
}

#[derive(Arbitrary, Debug)]
enum Number {
    Price,
    Volume,
    Time,
    Param(u8),
    State(u8),
    Small(i8),
    Any(f64),
    Sum(Box<Number>, Box<Number>),
    Difference(Box<Number>, Box<Number>),
    Product(Box<Number>, Box<Number>),
    Quotient(Box<Number>, Box<Number>),
    Least(Box<Number>, Box<Number>),
    Signed(Box<Number>, Box<Number>),
    Root(Box<Number>),
    Single(Box<Number>),
    Bits(Box<Number>),
}

/// How an address in a record is computed.
#[derive(Arbitrary, Debug)]
enum Address {
    Offset,
    Sum,
    Computed,
}

/// A place outside of the records.
#[derive(Arbitrary, Debug)]
enum Place {
    BeforeState(u8),
    BehindState(u8),
    BehindVerdict(u8),
    Tick(u8),
    Nowhere(u32),
}

/// The parameters of `evaluate`.
const TICK: u32 = 0;
const PARAMS: u32 = 1;
const STATE: u32 = 2;
const VERDICT: u32 = 3;
/// Local variables: one counter for each open loop, then an address.
const COUNTERS: u32 = 4;
const MAX_LOOPS: u32 = 4;
const ADDRESS: u32 = COUNTERS + MAX_LOOPS;

impl Plan {
    /// Returns the module of the rule.
    pub fn module(&self) -> Vec<u8> {
        let mut body = Function::new([(MAX_LOOPS + 1, ValType::I32)]);
        let mut writer = Writer { body: &mut body, sleeps: self.sleeps, open_loops: 0 };
        if self.sleeps {
            writer.sleep_in_band();
        }
        writer.steps(&self.steps);
        writer.add([I::I32Const(0), I::End]);
        crate::rule(self.has_page.into(), &body, manifest(RECORDS, EVIDENCE as usize, self.sleeps).as_bytes())
    }
}

struct Writer<'a> {
    body: &'a mut Function,
    sleeps: bool,
    open_loops: u32,
}

/// Returns the memory argument of an aligned 8-byte word.
fn word(offset: u64) -> MemArg {
    MemArg { offset, align: 3, memory_index: 0 }
}

impl Writer<'_> {
    fn add<const N: usize>(&mut self, instructions: [I<'_>; N]) {
        instructions.iter().for_each(|instruction| _ = self.body.instruction(instruction));
    }

    /// Holds, with a wake band, while price and time are inside of the band of the params.
    fn sleep_in_band(&mut self) {
        self.add([I::LocalGet(PARAMS), I::F64Load(word(0)), I::LocalGet(TICK), I::F64Load(word(0)), I::F64Lt]);
        self.add([I::LocalGet(TICK), I::F64Load(word(0)), I::LocalGet(PARAMS), I::F64Load(word(8)), I::F64Lt]);
        self.add([I::I32And]);
        self.add([I::LocalGet(TICK), I::I64Load(word(16)), I::LocalGet(PARAMS), I::I64Load(word(16)), I::I64LtS]);
        self.add([I::I32And, I::If(BlockType::Empty)]);
        for at in [0, 8, 16] {
            self.add([I::LocalGet(VERDICT), I::LocalGet(PARAMS), I::I64Load(word(at)), I::I64Store(word(32 + at))]);
        }
        self.add([I::I32Const(2), I::Return, I::End]);
    }

    fn steps(&mut self, steps: &[Step]) {
        steps.iter().for_each(|step| self.step(step));
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Hold => self.add([I::I32Const(0), I::Return]),
            Step::Fire => self.add([I::I32Const(1), I::Return]),
            Step::Evidence(slot, number) => {
                self.add([I::LocalGet(VERDICT)]);
                self.number(number);
                self.add([I::F64Store(word(u64::from(*slot) % EVIDENCE * 8))]);
            }
            Step::Remember(slot, number, address) => {
                let offset = self.address(u64::from(*slot) % STATE_SLOTS * 8, address);
                self.number(number);
                self.add([I::F64Store(word(offset))]);
            }
            Step::Count(slot) => {
                let at = word(u64::from(*slot) % STATE_SLOTS * 8);
                self.add([I::LocalGet(STATE), I::LocalGet(STATE), I::I64Load(at), I::I64Const(1), I::I64Add]);
                self.add([I::I64Store(at)]);
            }
            Step::Forget => {
                self.add([I::LocalGet(STATE), I::I32Const(0), I::I32Const(STATE_SLOTS as i32 * 8), I::MemoryFill(0)]);
            }
            Step::ShowState => {
                self.add([I::LocalGet(VERDICT), I::LocalGet(STATE), I::I32Const(EVIDENCE as i32 * 8)]);
                self.add([I::MemoryCopy { src_mem: 0, dst_mem: 0 }]);
            }
            Step::If(one, other, then, otherwise) => {
                self.number(one);
                self.number(other);
                self.add([I::F64Lt, I::If(BlockType::Empty)]);
                self.steps(then);
                self.add([I::Else]);
                self.steps(otherwise);
                self.add([I::End]);
            }
            Step::Repeat(turns, steps) => self.repeat(*turns, steps),
            Step::Divide(number) => {
                self.add([I::I32Const(1)]);
                self.number(number);
                self.add([I::I32TruncSatF64S, I::I32DivS, I::Drop]);
            }
            Step::Stray(place, is_byte) => self.stray(place, *is_byte),
            Step::Answer(code) => {
                // Without the flag of a wake band, since none was written: a rule that sleeps must have correct bands.
                self.add([I::I32Const(if self.sleeps { code & !2 } else { *code }), I::Return]);
            }
            Step::Trap => self.add([I::Unreachable]),
            Step::Endless => self.add([I::Loop(BlockType::Empty), I::Br(0), I::End]),
        }
    }

    /// Leaves the address of a word of the state on the stack, without the offset, which is returned.
    fn address(&mut self, at: u64, address: &Address) -> u64 {
        match address {
            Address::Offset => self.add([I::LocalGet(STATE)]),
            Address::Sum => self.add([I::LocalGet(STATE), I::I32Const(at as i32), I::I32Add]),
            Address::Computed => {
                self.add([I::LocalGet(STATE), I::LocalSet(ADDRESS), I::LocalGet(ADDRESS)]);
            }
        }
        if matches!(address, Address::Sum) { 0 } else { at }
    }

    fn repeat(&mut self, turns: u8, steps: &[Step]) {
        if self.open_loops == MAX_LOOPS {
            return;
        }
        let counter = COUNTERS + self.open_loops;
        self.open_loops += 1;
        self.add([I::I32Const(turns.into()), I::LocalSet(counter), I::Loop(BlockType::Empty)]);
        self.steps(steps);
        self.add([I::LocalGet(counter), I::I32Const(1), I::I32Sub, I::LocalTee(counter)]);
        self.add([I::I32Const(0), I::I32GtS, I::BrIf(0), I::End]);
        self.open_loops -= 1;
    }

    fn stray(&mut self, place: &Place, is_byte: bool) {
        let (record, offset) = match place {
            Place::BeforeState(back) => (STATE, -1 - i32::from(back % 64)),
            Place::BehindState(on) => (STATE, RECORDS.state as i32 + i32::from(on % 64)),
            Place::BehindVerdict(on) => (VERDICT, 56 + i32::from(on % 64)),
            Place::Tick(on) => (TICK, i32::from(*on)),
            // Behind all tables of a few bindings, in memory or not.
            Place::Nowhere(at) => {
                self.add([I::I32Const((at | 1 << 24) as i32), I::I64Const(-1), I::I64Store8(word(0).byte())]);
                return;
            }
        };
        self.add([I::LocalGet(record), I::I32Const(offset), I::I32Add]);
        if is_byte {
            self.add([I::I64Const(-1), I::I64Store8(word(0).byte())]);
        } else {
            self.add([I::F64Const(1.5.into()), I::F64Store(word(0).byte())]);
        }
    }

    fn number(&mut self, number: &Number) {
        let (one, other) = match number {
            Number::Sum(one, other)
            | Number::Difference(one, other)
            | Number::Product(one, other)
            | Number::Quotient(one, other)
            | Number::Least(one, other)
            | Number::Signed(one, other) => (Some(one), Some(other)),
            Number::Root(one) | Number::Single(one) | Number::Bits(one) => (Some(one), None),
            _ => (None, None),
        };
        [one, other].into_iter().flatten().for_each(|number| self.number(number));
        match number {
            Number::Price => self.add([I::LocalGet(TICK), I::F64Load(word(0))]),
            Number::Volume => self.add([I::LocalGet(TICK), I::F64Load(word(8))]),
            Number::Time => self.add([I::LocalGet(TICK), I::I64Load(word(16)), I::F64ConvertI64S]),
            Number::Param(slot) => self.add([I::LocalGet(PARAMS), I::F64Load(word(u64::from(slot % 3) * 8))]),
            Number::State(slot) => {
                self.add([I::LocalGet(STATE), I::F64Load(word(u64::from(*slot) % STATE_SLOTS * 8))]);
            }
            Number::Small(number) => self.add([I::F64Const(f64::from(*number).into())]),
            Number::Any(number) => self.add([I::F64Const((*number).into())]),
            Number::Sum(..) => self.add([I::F64Add]),
            Number::Difference(..) => self.add([I::F64Sub]),
            Number::Product(..) => self.add([I::F64Mul]),
            Number::Quotient(..) => self.add([I::F64Div]),
            Number::Least(..) => self.add([I::F64Min]),
            Number::Signed(..) => self.add([I::F64Copysign]),
            Number::Root(_) => self.add([I::F64Sqrt]),
            Number::Single(_) => self.add([I::F32DemoteF64, I::F64PromoteF32]),
            Number::Bits(_) => self.add([I::I64ReinterpretF64, I::F64ConvertI64U]),
        }
    }
}

/// The same address, without alignment.
trait Byte {
    fn byte(self) -> Self;
}

impl Byte for MemArg {
    fn byte(self) -> Self {
        Self { align: 0, ..self }
    }
}
