//! One pass over a function's body: checks the limits on what makes compilers slow, and computes the cost of the code.

use wasmparser::{BlockType, FunctionBody, Operator};

use super::accesses::access;
use super::sections::Signatures;
use crate::cost::{FunctionCost, is_dynamic, price};
use crate::limits::{MAX_BLOCKS, MAX_BODY_BYTES, MAX_BR_TABLE_TARGETS, MAX_LOCALS, MAX_NESTING};
use crate::violation::{Code, Violations};

/// Scans the body of function `index`.
pub(super) fn scan(
    index: usize,
    body: &FunctionBody<'_>,
    signatures: &Signatures,
    violations: &mut Violations,
) -> wasmparser::Result<FunctionCost> {
    // One violation of each kind, and of every kind, so that the author sees all of them at once.
    let mut reported = Vec::new();
    let mut check = |count: u64, limit: u64, of: &'static str| {
        if count > limit && !reported.contains(&of) {
            reported.push(of);
            violations.add(Code::Limit, format!("function {index}: {count} {of}, more than the {limit} allowed"));
        }
    };
    let bytes = body.range().len();
    check(bytes as u64, MAX_BODY_BYTES as u64, "bytes of code");
    if bytes > MAX_BODY_BYTES {
        return Ok(FunctionCost::default());
    }
    let (params, results) = signatures.arity_of_function(index as u32);
    let mut locals = params;
    for group in body.get_locals_reader()? {
        locals += u64::from(group?.0);
    }
    check(locals, MAX_LOCALS.into(), "locals");
    // Entering a function costs its locals, which are zeroed, and its results, which are returned in memory.
    let values = locals + results;
    let cost = FunctionCost { regions: vec![values], values, ..FunctionCost::default() };
    let mut scan = Scan { cost, open: vec![0], blocks: 0, signatures };
    let mut operators = body.get_operators_reader()?;
    while !operators.eof() {
        let operator = operators.read()?;
        if let Operator::BrTable { targets } = &operator {
            check(targets.len().into(), MAX_BR_TABLE_TARGETS as u64, "targets of a br_table");
        }
        scan.operator(&operator);
        check(scan.open.len().saturating_sub(1) as u64, MAX_NESTING as u64, "nested blocks");
    }
    check(scan.blocks, MAX_BLOCKS as u64, "blocks");
    Ok(scan.cost)
}

struct Scan<'a> {
    cost: FunctionCost,
    /// The region of each open block's operators, beginning with the function's own body.
    open: Vec<usize>,
    blocks: u64,
    signatures: &'a Signatures,
}

impl Scan<'_> {
    fn operator(&mut self, operator: &Operator<'_>) {
        let region = self.open.last().copied().unwrap_or(0);
        self.cost.values += self.values(operator);
        self.cost.unbounded |= is_dynamic(operator);
        if access(operator).is_some() {
            self.cost.accesses.push(region);
            return;
        }
        self.cost.regions[region] += price(operator);
        match operator {
            Operator::Loop { .. } => {
                self.cost.unbounded = true;
                self.blocks += 1;
                self.open.push(self.cost.regions.len());
                self.cost.regions.push(0);
            }
            Operator::Block { .. } | Operator::If { .. } => {
                self.blocks += 1;
                self.open.push(region);
            }
            Operator::End => {
                self.open.pop();
            }
            Operator::Call { function_index } => self.cost.calls.push(*function_index),
            Operator::CallIndirect { .. } => self.cost.calls_table = true,
            _ => {}
        }
    }

    /// Returns a bound on the values that an operator makes the compiler keep: its results, and the parameters of a call.
    fn values(&self, operator: &Operator<'_>) -> u64 {
        let (taken, left) = match operator {
            Operator::Call { function_index } => self.signatures.arity_of_function(*function_index),
            Operator::CallIndirect { type_index, .. } => self.signatures.arity_of_type(*type_index),
            Operator::Block { blockty } | Operator::Loop { blockty } | Operator::If { blockty } => match blockty {
                BlockType::Empty => (0, 0),
                BlockType::Type(_) => (0, 1),
                BlockType::FuncType(ty) => self.signatures.arity_of_type(*ty),
            },
            Operator::End | Operator::Else | Operator::Nop | Operator::Drop => (0, 0),
            _ => (0, 1),
        };
        taken + left
    }
}
