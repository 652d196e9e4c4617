//! Proves statically which loads and stores of `evaluate` stay inside the records of the evaluated binding. Other stores are
//! guarded by code that [`crate::inject`] adds, and other loads and stores cost more fuel, since their addresses may be
//! anywhere in a large memory.
//!
//! # The proof
//!
//! - The parameters of `evaluate` are the addresses of the current binding's records. That holds for the driver's call only,
//!   so nothing is proven of a module that can call `evaluate` itself: by a call, through a table, or because `evaluate` is
//!   exported as `migrate` too ([`super::inspect`] checks that).
//! - An access is proven if its address is such a parameter, or the sum of a parameter and a constant that is not negative,
//!   and the access ends inside the record. Records end below 2^31, so the sum cannot wrap.
//! - Compilers reuse the local of a parameter that is no longer needed. It has the parameter's value as long as no assignment
//!   can have been executed: none comes earlier in the code, and none comes later in an enclosing loop.
//!
//! The walk is part of validation, and mirrors the validator's operand stack.

use tocsin_rules_sdk::abi;
use wasmparser::{
    FuncValidator, FuncValidatorAllocations, FunctionBody, Operator, Parser, ValidPayload, Validator, WasmFeatures,
    WasmModuleResources,
};

/// The records of `evaluate`, in the order of its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Tick,
    Params,
    State,
    Verdict,
}

impl Record {
    fn of_parameter(local: u32) -> Option<Self> {
        [Self::Tick, Self::Params, Self::State, Self::Verdict].get(local as usize).copied()
    }
}

/// An access to a record, from its start up to the byte `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InRecord {
    record: Record,
    end: u64,
    is_store: bool,
}

impl InRecord {
    /// Returns whether the access stays inside the record and is allowed there: the tick and the params are read-only.
    pub(crate) fn is_allowed(self, params_bytes: usize, state_bytes: usize) -> bool {
        let bytes = match self.record {
            Record::Tick | Record::Params if self.is_store => return false,
            Record::Tick => abi::TICK_BYTES,
            Record::Params => params_bytes,
            Record::State => state_bytes,
            Record::Verdict => abi::VERDICT_BYTES,
        };
        self.end <= bytes as u64
    }
}

/// A load or a store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    /// The constant that is added to the address.
    pub(crate) offset: u64,
    /// The number of bytes that are read or written.
    pub(crate) bytes: u64,
    pub(crate) is_store: bool,
}

/// What is known of a value on the operand stack.
#[derive(Clone, Copy, Default)]
enum Value {
    #[default]
    Unknown,
    Constant(i32),
    /// The sum of a parameter and `start` bytes.
    Record {
        parameter: u32,
        start: u64,
        read_at: usize,
    },
}

/// An access, with the position in the code at which the parameter was read that is its address.
struct Walked {
    known: Option<InRecord>,
    parameter: u32,
    read_at: usize,
}

/// The state of the walk at one position in the code.
#[derive(Default)]
struct Walk {
    /// Mirrors the validator's operand stack.
    operands: Vec<Value>,
    accesses: Vec<Walked>,
    /// The position at which each open loop began; `None` for other open blocks.
    open: Vec<Option<usize>>,
    /// The parameters that have been assigned to.
    assigned: Vec<u32>,
}

impl Walk {
    fn operand(&self, depth: usize) -> Value {
        self.operands.len().checked_sub(depth).map_or(Value::Unknown, |at| self.operands[at])
    }

    /// Applies an operator, and returns its result if that is a single value.
    fn operator(&mut self, operator: &Operator<'_>, at: usize) -> Value {
        match operator {
            Operator::Loop { .. } => self.open.push(Some(at)),
            Operator::Block { .. } | Operator::If { .. } => self.open.push(None),
            Operator::End => _ = self.open.pop(),
            Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => self.assign(*local_index),
            Operator::LocalGet { local_index } if !self.assigned.contains(local_index) => {
                return Value::Record { parameter: *local_index, start: 0, read_at: at };
            }
            Operator::I32Const { value } => return Value::Constant(*value),
            Operator::I32Add => return sum(self.operand(2), self.operand(1)),
            _ => {}
        }
        Value::Unknown
    }

    /// Marks a local as assigned from here on; inside of the open loops, it has been all along.
    fn assign(&mut self, local: u32) {
        if Record::of_parameter(local).is_none() {
            return;
        }
        self.assigned.push(local);
        let Some(begin) = self.open.iter().flatten().next().copied() else { return };
        for operand in &mut self.operands {
            if matches!(operand, Value::Record { parameter, read_at, .. } if *parameter == local && *read_at >= begin) {
                *operand = Value::Unknown;
            }
        }
        for access in &mut self.accesses {
            if access.parameter == local && access.read_at >= begin {
                access.known = None;
            }
        }
    }
}

/// Validates a module. Returns what is known of each load and store of the function `evaluate`, in order.
pub(super) fn validate(
    module: &[u8],
    features: WasmFeatures,
    evaluate: Option<u32>,
) -> wasmparser::Result<Vec<Option<InRecord>>> {
    let mut validator = Validator::new_with_features(features);
    let mut allocations = FuncValidatorAllocations::default();
    let mut accesses = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        if let ValidPayload::Func(function, body) = validator.payload(&payload?)? {
            let is_evaluate = Some(function.index) == evaluate;
            let mut function = function.into_validator(allocations);
            if is_evaluate {
                accesses = walk(&mut function, &body)?;
            } else {
                function.validate(&body)?;
            }
            allocations = function.into_allocations();
        }
    }
    Ok(accesses)
}

fn walk<R: WasmModuleResources>(
    validator: &mut FuncValidator<R>,
    body: &FunctionBody<'_>,
) -> wasmparser::Result<Vec<Option<InRecord>>> {
    let mut reader = body.get_binary_reader();
    validator.read_locals(&mut reader)?;
    let mut walk = Walk::default();
    while !reader.eof() {
        let position = reader.original_position();
        let operator = reader.peek_operator(&validator.visitor(position))?;
        let (_, pushed) = operator.operator_arity(&*validator).unwrap_or_default();
        if let Some(access) = access(&operator) {
            // A store has its value on top of its address.
            walk.accesses.push(known(walk.operand(if access.is_store { 2 } else { 1 }), access));
        }
        let result = walk.operator(&operator, position);
        reader.visit_operator(&mut validator.visitor(position))??;
        // The operands are gone, and the result is known only if it is a single value.
        let height = validator.operand_stack_height() as usize;
        walk.operands.truncate(height.saturating_sub(pushed as usize));
        walk.operands.resize(height, Value::Unknown);
        if pushed == 1
            && let Some(top) = walk.operands.last_mut()
        {
            *top = result;
        }
    }
    reader.finish_expression(&validator.visitor(reader.original_position()))?;
    Ok(walk.accesses.into_iter().map(|access| access.known).collect())
}

fn known(address: Value, access: Access) -> Walked {
    let Value::Record { parameter, start, read_at } = address else {
        return Walked { known: None, parameter: u32::MAX, read_at: 0 };
    };
    let Access { offset, bytes, is_store } = access;
    let end = start.checked_add(offset).and_then(|at| at.checked_add(bytes));
    let known = Record::of_parameter(parameter).zip(end);
    Walked { known: known.map(|(record, end)| InRecord { record, end, is_store }), parameter, read_at }
}

fn sum(one: Value, other: Value) -> Value {
    match (one, other) {
        (Value::Record { parameter, start, read_at }, Value::Constant(bytes))
        | (Value::Constant(bytes), Value::Record { parameter, start, read_at }) => {
            // Only positive constants: a start in front of the record would have to be checked for wrapping.
            u64::try_from(bytes).map_or(Value::Unknown, |bytes| Value::Record {
                parameter,
                start: start + bytes,
                read_at,
            })
        }
        _ => Value::Unknown,
    }
}

/// Returns the access of an operator that loads or stores, and `None` for other operators.
pub(crate) fn access(operator: &Operator<'_>) -> Option<Access> {
    use Operator as O;
    let (memory, bytes, is_store) = match operator {
        O::I32Store8 { memarg } | O::I64Store8 { memarg } => (memarg, 1, true),
        O::I32Store16 { memarg } | O::I64Store16 { memarg } => (memarg, 2, true),
        O::I32Store { memarg } | O::F32Store { memarg } | O::I64Store32 { memarg } => (memarg, 4, true),
        O::I64Store { memarg } | O::F64Store { memarg } => (memarg, 8, true),
        O::I32Load8S { memarg } | O::I32Load8U { memarg } => (memarg, 1, false),
        O::I64Load8S { memarg } | O::I64Load8U { memarg } => (memarg, 1, false),
        O::I32Load16S { memarg } | O::I32Load16U { memarg } => (memarg, 2, false),
        O::I64Load16S { memarg } | O::I64Load16U { memarg } => (memarg, 2, false),
        O::I32Load { memarg } | O::F32Load { memarg } => (memarg, 4, false),
        O::I64Load32S { memarg } | O::I64Load32U { memarg } => (memarg, 4, false),
        O::I64Load { memarg } | O::F64Load { memarg } => (memarg, 8, false),
        _ => return None,
    };
    Some(Access { offset: memory.offset, bytes, is_store })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks what is known of each access of an `evaluate` with this body.
    fn check(body: &str, expect: &[Option<InRecord>]) {
        let text = format!(
            "(module (memory 1) (func (param $t i32) (param $p i32) (param $s i32) (param $v i32) (result i32)
               (local $x i32) {body} (i32.const 0)))"
        );
        let module = wat::parse_str(text).unwrap();
        let features = WasmFeatures::WASM2 | WasmFeatures::GC_TYPES;
        assert_eq!(validate(&module, features, Some(0)).unwrap(), expect, "{body}");
    }

    fn store_to(record: Record, end: u64) -> Option<InRecord> {
        Some(InRecord { record, end, is_store: true })
    }

    #[test]
    fn a_store_to_a_parameter_and_a_constant_is_known() {
        let state = |end| store_to(Record::State, end);
        check("(i32.store (local.get $s) (i32.const 1))", &[state(4)]);
        check("(f64.store offset=16 (local.get $s) (f64.const 1))", &[state(24)]);
        check("(i64.store8 (i32.add (local.get $s) (i32.const 7)) (i64.const 1))", &[state(8)]);
        check("(i64.store (i32.add (i32.const 8) (local.get $v)) (i64.const 1))", &[store_to(Record::Verdict, 16)]);
        check("(i32.store (local.get $s) (i32.add (local.get $x) (i32.const 1)))", &[state(4)]);
        check("(i32.store (local.get $s) (block (result i32) (i32.const 3)))", &[state(4)]);
    }

    #[test]
    fn loads_are_proven_like_stores_and_may_read_any_record() {
        let load = |record, end| Some(InRecord { record, end, is_store: false });
        check("(drop (f64.load offset=8 (local.get $t)))", &[load(Record::Tick, 16)]);
        check("(drop (i32.load8_u (i32.add (local.get $p) (i32.const 3))))", &[load(Record::Params, 4)]);
        check(
            "(f64.store (local.get $s) (f64.load (i32.add (local.get $x) (i32.const 8))))",
            &[None, store_to(Record::State, 8)],
        );
        for (known, allowed) in [
            (load(Record::Tick, 32), true),
            (load(Record::Tick, 33), false),
            (load(Record::Params, 16), true),
            (load(Record::Params, 17), false),
            (load(Record::Verdict, 56), true),
            (store_to(Record::Tick, 8), false),
            (store_to(Record::Params, 8), false),
            (store_to(Record::State, 24), true),
            (store_to(Record::State, 25), false),
            (store_to(Record::Verdict, 56), true),
            (store_to(Record::Verdict, 57), false),
        ] {
            assert_eq!(known.unwrap().is_allowed(16, 24), allowed, "{known:?}");
        }
    }

    #[test]
    fn a_parameter_is_known_until_it_is_assigned_to() {
        let known = store_to(Record::State, 4);
        let assign = "(local.set $s (i32.const 0))";
        let store = "(i32.store (local.get $s) (i32.const 1))";
        check(&format!("{store} {assign}"), &[known]);
        check(&format!("(block {store}) (if (local.get $x) (then {store}) (else {assign}))"), &[known, known]);
        check(&format!("(loop {store}) {assign}"), &[known]);
        check(&format!("(loop {store}) (loop {assign})"), &[known]);
        check(&format!("(i32.store (local.get $s) (block (result i32) {assign} (i32.const 1)))"), &[known]);
        check("(loop (local.set $x (i32.const 1)) (i32.store (local.get $s) (i32.const 1)))", &[known]);
    }

    #[test]
    fn other_addresses_are_not_known() {
        for address in [
            "(local.get $x)",
            "(i32.const 8)",
            "(i32.sub (local.get $s) (i32.const 8))",
            "(i32.add (local.get $s) (i32.const -8))",
            "(i32.add (local.get $s) (local.get $x))",
            "(block (result i32) (local.get $s))",
            "(select (local.get $s) (local.get $v) (local.get $x))",
        ] {
            check(&format!("(i32.store {address} (i32.const 1))"), &[None]);
        }
        // An assignment that may have been executed before.
        let assign = "(local.set $s (i32.const 0))";
        let store = "(i32.store (local.get $s) (i32.const 1))";
        check(&format!("{assign} {store}"), &[None]);
        check(&format!("(if (local.get $x) (then {assign})) {store}"), &[None]);
        check(&format!("(loop {store} {assign})"), &[None]);
        check(&format!("(loop (loop {store}) (block {assign}))"), &[None]);
        check(&format!("(loop (i32.store (local.get $s) (block (result i32) {assign} (i32.const 1))))"), &[None]);
        check("(loop (i32.store (local.get $v) (local.tee $v (i32.const 0))))", &[None]);
        check(&format!("(loop {store}) (loop {store} {assign}) {store}"), &[store_to(Record::State, 4), None, None]);
        // In unreachable code, the operand stack is polymorphic.
        check("(block (br 0) i32.store) (i32.store (local.get $s) (i32.const 1))", &[None, store_to(Record::State, 4)]);
    }
}
