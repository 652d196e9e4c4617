//! Which stores of `evaluate` stay inside of its own records, seen without running it. All others are guarded by code
//! that [`crate::inject`] adds.
//!
//! A store is known where its address is one of the function's parameters, or that and a constant: compilers write
//! records so. They also reuse a parameter's local once they are done with it; it holds the parameter wherever no
//! assignment can have come before: none stands before in the text, and none stands later in a loop around it. The walk
//! rides on the validator's, whose operand stack it mirrors.

use tocsin_rules_sdk::abi;
use wasmparser::{
    FuncValidator, FuncValidatorAllocations, FunctionBody, Operator, Parser, ValidPayload, Validator, WasmFeatures,
    WasmModuleResources,
};

/// The parameters of `evaluate` that it may write to.
const STATE: u32 = 2;
const VERDICT: u32 = 3;

/// A store to a record, from its start up to this byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    State { end: u64 },
    Verdict { end: u64 },
}

impl Known {
    /// Whether it stays inside.
    pub(crate) fn fits(self, state_bytes: usize) -> bool {
        match self {
            Self::State { end } => end <= state_bytes as u64,
            Self::Verdict { end } => end <= abi::VERDICT_BYTES as u64,
        }
    }
}

/// What is known of a value on the operand stack.
#[derive(Clone, Copy, Default)]
enum Value {
    #[default]
    Unknown,
    Constant(i32),
    /// A parameter and so many bytes.
    Record {
        parameter: u32,
        start: u64,
        read_at: usize,
    },
}

/// A store, and where in the text the parameter was read that is its address.
struct Store {
    known: Option<Known>,
    parameter: u32,
    read_at: usize,
}

/// What the walk knows at one place of the text.
#[derive(Default)]
struct Walk {
    /// Mirrors the validator's.
    operands: Vec<Value>,
    stores: Vec<Store>,
    /// Where the text of each open block began that is a loop; None for other blocks.
    open: Vec<Option<usize>>,
    /// Parameters that were assigned to so far.
    assigned: Vec<u32>,
}

impl Walk {
    fn operand(&self, depth: usize) -> Value {
        self.operands.len().checked_sub(depth).map_or(Value::Unknown, |at| self.operands[at])
    }

    /// Notes what an operator does, and returns what it leaves if that is one value.
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

    /// From here on the local is a variable like any other; around the loops that are open, it was all along.
    fn assign(&mut self, local: u32) {
        if !matches!(local, STATE | VERDICT) {
            return;
        }
        self.assigned.push(local);
        let Some(begin) = self.open.iter().flatten().next().copied() else { return };
        for operand in &mut self.operands {
            if matches!(operand, Value::Record { parameter, read_at, .. } if *parameter == local && *read_at >= begin) {
                *operand = Value::Unknown;
            }
        }
        for store in &mut self.stores {
            if store.parameter == local && store.read_at >= begin {
                store.known = None;
            }
        }
    }
}

/// Validates a module and returns, for each store of the function `evaluate` in their order, what is known of it.
pub(super) fn validate(
    module: &[u8],
    features: WasmFeatures,
    evaluate: Option<u32>,
) -> wasmparser::Result<Vec<Option<Known>>> {
    let mut validator = Validator::new_with_features(features);
    let mut allocations = FuncValidatorAllocations::default();
    let mut stores = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        if let ValidPayload::Func(function, body) = validator.payload(&payload?)? {
            let is_evaluate = Some(function.index) == evaluate;
            let mut function = function.into_validator(allocations);
            if is_evaluate {
                stores = walk(&mut function, &body)?;
            } else {
                function.validate(&body)?;
            }
            allocations = function.into_allocations();
        }
    }
    Ok(stores)
}

fn walk<R: WasmModuleResources>(
    validator: &mut FuncValidator<R>,
    body: &FunctionBody<'_>,
) -> wasmparser::Result<Vec<Option<Known>>> {
    let mut reader = body.get_binary_reader();
    validator.read_locals(&mut reader)?;
    let mut walk = Walk::default();
    while !reader.eof() {
        let position = reader.original_position();
        let operator = reader.peek_operator(&validator.visitor(position))?;
        let (_, pushed) = operator.operator_arity(&*validator).unwrap_or_default();
        if let Some((offset, bytes)) = store(&operator) {
            walk.stores.push(known(walk.operand(2), offset, bytes));
        }
        let result = walk.operator(&operator, position);
        reader.visit_operator(&mut validator.visitor(position))??;
        // What the operator took is gone, and what it left is known only if it is one value.
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
    Ok(walk.stores.into_iter().map(|store| store.known).collect())
}

fn known(address: Value, offset: u64, bytes: u64) -> Store {
    let Value::Record { parameter, start, read_at } = address else {
        return Store { known: None, parameter: u32::MAX, read_at: 0 };
    };
    let end = start.checked_add(offset).and_then(|at| at.checked_add(bytes));
    let known = match parameter {
        STATE => end.map(|end| Known::State { end }),
        VERDICT => end.map(|end| Known::Verdict { end }),
        _ => None,
    };
    Store { known, parameter, read_at }
}

fn sum(one: Value, other: Value) -> Value {
    match (one, other) {
        (Value::Record { parameter, start, read_at }, Value::Constant(bytes))
        | (Value::Constant(bytes), Value::Record { parameter, start, read_at }) => {
            // Forward only: a start below the record's own would have to be checked for wrapping.
            u64::try_from(bytes).map_or(Value::Unknown, |bytes| Value::Record {
                parameter,
                start: start + bytes,
                read_at,
            })
        }
        _ => Value::Unknown,
    }
}

/// The offset of a store and how many bytes it writes.
pub(crate) fn store(operator: &Operator<'_>) -> Option<(u64, u64)> {
    use Operator as O;
    let (memory, bytes) = match operator {
        O::I32Store8 { memarg } | O::I64Store8 { memarg } => (memarg, 1),
        O::I32Store16 { memarg } | O::I64Store16 { memarg } => (memarg, 2),
        O::I32Store { memarg } | O::F32Store { memarg } | O::I64Store32 { memarg } => (memarg, 4),
        O::I64Store { memarg } | O::F64Store { memarg } => (memarg, 8),
        _ => return None,
    };
    Some((memory.offset, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is known of the stores of an `evaluate` of this body.
    fn check(body: &str, expect: &[Option<Known>]) {
        let text = format!(
            "(module (memory 1) (func (param $t i32) (param $p i32) (param $s i32) (param $v i32) (result i32)
               (local $x i32) {body} (i32.const 0)))"
        );
        let module = wat::parse_str(text).unwrap();
        let features = WasmFeatures::WASM2 | WasmFeatures::GC_TYPES;
        assert_eq!(validate(&module, features, Some(0)).unwrap(), expect, "{body}");
    }

    #[test]
    fn a_store_to_a_parameter_and_a_constant_is_known() {
        let state = |end| Some(Known::State { end });
        check("(i32.store (local.get $s) (i32.const 1))", &[state(4)]);
        check("(f64.store offset=16 (local.get $s) (f64.const 1))", &[state(24)]);
        check("(i64.store8 (i32.add (local.get $s) (i32.const 7)) (i64.const 1))", &[state(8)]);
        check("(i64.store (i32.add (i32.const 8) (local.get $v)) (i64.const 1))", &[Some(Known::Verdict { end: 16 })]);
        check("(i32.store (local.get $s) (i32.load (i32.add (local.get $x) (i32.const 1))))", &[state(4)]);
        check("(i32.store (local.get $s) (block (result i32) (i32.const 3)))", &[state(4)]);
    }

    #[test]
    fn a_parameter_is_one_until_it_is_assigned_to() {
        let known = Some(Known::State { end: 4 });
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
    fn other_addresses_are_not() {
        for address in [
            "(local.get $t)",
            "(local.get $p)",
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
        // An assignment that may have come before.
        let assign = "(local.set $s (i32.const 0))";
        let store = "(i32.store (local.get $s) (i32.const 1))";
        check(&format!("{assign} {store}"), &[None]);
        check(&format!("(if (local.get $x) (then {assign})) {store}"), &[None]);
        check(&format!("(loop {store} {assign})"), &[None]);
        check(&format!("(loop (loop {store}) (block {assign}))"), &[None]);
        check(&format!("(loop (i32.store (local.get $s) (block (result i32) {assign} (i32.const 1))))"), &[None]);
        check("(loop (i32.store (local.get $v) (local.tee $v (i32.const 0))))", &[None]);
        check(&format!("(loop {store}) (loop {store} {assign}) {store}"), &[Some(Known::State { end: 4 }), None, None]);
        // Where no code runs, the operand stack holds anything.
        check(
            "(block (br 0) i32.store) (i32.store (local.get $s) (i32.const 1))",
            &[None, Some(Known::State { end: 4 })],
        );
    }
}
