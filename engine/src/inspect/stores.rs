//! Which stores of `evaluate` stay inside of its own records, seen without running it. All others are guarded by code
//! that [`crate::inject`] adds.
//!
//! A store is known where its address is one of the function's parameters, or that and a constant: compilers write
//! records so. The walk rides on the validator's, whose operand stack it mirrors.

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
    Record(u32, u64),
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
    let mut stack: Vec<Value> = Vec::new();
    let mut stores = Vec::new();
    // A parameter that is assigned to is a variable like any other.
    let mut assigned = [false; 2];
    while !reader.eof() {
        let position = reader.original_position();
        let operator = reader.peek_operator(&validator.visitor(position))?;
        let (_, pushed) = operator.operator_arity(&*validator).unwrap_or_default();
        let top = |depth: usize| stack.len().checked_sub(depth).map_or(Value::Unknown, |at| stack[at]);
        if let Some((offset, bytes)) = store(&operator) {
            stores.push(known(top(2), offset, bytes));
        }
        let result = match &operator {
            Operator::LocalGet { local_index } => Value::Record(*local_index, 0),
            Operator::I32Const { value } => Value::Constant(*value),
            Operator::I32Add => sum(top(2), top(1)),
            _ => Value::Unknown,
        };
        if let Operator::LocalSet { local_index } | Operator::LocalTee { local_index } = &operator
            && let STATE | VERDICT = *local_index
        {
            assigned[(local_index - STATE) as usize] = true;
        }
        reader.visit_operator(&mut validator.visitor(position))??;
        // What the operator took is gone, and what it left is known only if it is one value.
        let height = validator.operand_stack_height() as usize;
        stack.truncate(height.saturating_sub(pushed as usize));
        stack.resize(height, Value::Unknown);
        if pushed == 1
            && let Some(top) = stack.last_mut()
        {
            *top = result;
        }
    }
    reader.finish_expression(&validator.visitor(reader.original_position()))?;
    for store in &mut stores {
        *store = store.filter(|known| match known {
            Known::State { .. } => !assigned[0],
            Known::Verdict { .. } => !assigned[1],
        });
    }
    Ok(stores)
}

fn known(address: Value, offset: u64, bytes: u64) -> Option<Known> {
    let Value::Record(parameter, start) = address else { return None };
    let end = start.checked_add(offset)?.checked_add(bytes)?;
    match parameter {
        STATE => Some(Known::State { end }),
        VERDICT => Some(Known::Verdict { end }),
        _ => None,
    }
}

fn sum(one: Value, other: Value) -> Value {
    match (one, other) {
        (Value::Record(parameter, start), Value::Constant(bytes))
        | (Value::Constant(bytes), Value::Record(parameter, start)) => {
            // Forward only: a start below the record's own would have to be checked for wrapping.
            u64::try_from(bytes).map_or(Value::Unknown, |bytes| Value::Record(parameter, start + bytes))
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
        check("(i32.store (local.get $s) (i32.const 1)) (local.set $s (i32.const 0))", &[None]);
        check("(loop (i32.store (local.get $v) (local.tee $v (i32.const 0))))", &[None]);
        // Where no code runs, the operand stack holds anything.
        check(
            "(block (br 0) i32.store) (i32.store (local.get $s) (i32.const 1))",
            &[None, Some(Known::State { end: 4 })],
        );
    }
}
