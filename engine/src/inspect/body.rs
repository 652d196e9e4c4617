//! One pass over a function's body: limits on what makes compilers slow, and the price of the code.

use wasmparser::{FunctionBody, Operator};

use crate::cost::{FunctionCost, is_dynamic, price};
use crate::limits::{MAX_BLOCKS, MAX_BODY_BYTES, MAX_BR_TABLE_TARGETS, MAX_LOCALS, MAX_NESTING};
use crate::violation::{Code, Violations};

/// Scans the body of function `index`, which has `params` parameters.
pub(super) fn scan(
    index: usize,
    body: &FunctionBody<'_>,
    params: usize,
    violations: &mut Violations,
) -> wasmparser::Result<FunctionCost> {
    // Of each kind once, but of every kind: the author shall not meet them one by one.
    let mut told = Vec::new();
    let mut check = |count: u64, limit: u64, of: &'static str| {
        if count > limit && !told.contains(&of) {
            told.push(of);
            violations.add(Code::Limit, format!("function {index}: {count} {of}, more than the {limit} allowed"));
        }
    };
    let bytes = body.range().len();
    check(bytes as u64, MAX_BODY_BYTES as u64, "bytes of code");
    if bytes > MAX_BODY_BYTES {
        return Ok(FunctionCost::default());
    }
    let mut locals = params as u64;
    for group in body.get_locals_reader()? {
        locals += u64::from(group?.0);
    }
    check(locals, MAX_LOCALS.into(), "locals");
    // Entering a function costs its locals: they are zeroed, and their frame is what a recursion fills the stack with.
    let cost = FunctionCost { regions: vec![locals], ..FunctionCost::default() };
    let mut scan = Scan { cost, open: vec![0], blocks: 0 };
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

struct Scan {
    cost: FunctionCost,
    /// For each open block, the region that its operators belong to; the function's own body first.
    open: Vec<usize>,
    blocks: u64,
}

impl Scan {
    fn operator(&mut self, operator: &Operator<'_>) {
        let region = self.open.last().copied().unwrap_or(0);
        self.cost.regions[region] += price(operator);
        self.cost.unbounded |= is_dynamic(operator);
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
            _ => {}
        }
    }
}
