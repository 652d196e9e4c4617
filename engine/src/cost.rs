//! The price of code in fuel: the product's own table, so that a replay after an upgrade of Wasmtime decides alike.
//!
//! Fuel is charged ahead, at the entry of a function and at each turn of a loop, for every operator that lies there
//! (both arms of an `if`: the price is an upper bound). Entering a function also costs one for each of its locals and
//! results, and the entry of a recursive function pays for its stack frame ([`crate::inspect`]'s `stack`). Entering
//! `evaluate` costs what the host does with the state. Bulk operations are charged by their length as well. Prices follow what operators cost at worst, so that no fuel buys more than
//! [`MAX_NS_PER_FUEL`] on the machine they were measured on (the threats benchmark measures the costliest patterns); a load
//! or a store that may go anywhere may miss every cache and the TLB. `docs/abi.md` repeats the table.

use wasmparser::Operator;

/// Fuel for each 16 bytes that a bulk operation moves: the length is shifted right by this.
pub(crate) const BULK_BYTES_SHIFT: i64 = 4;

/// Bytes of state that cost one fuel when `evaluate` is entered: the host keeps a copy of each state during a call, compares
/// it and saves it at checkpoints.
pub(crate) const STATE_BYTES_PER_FUEL: usize = 16;

/// Fuel for a load or a store of a binding's own record, whose address is known beforehand.
pub(crate) const RECORD_ACCESS: u64 = 1;

/// Fuel for every other load or store.
pub(crate) const ACCESS: u64 = 32;

/// What one fuel may cost at most, in nanoseconds: [`FUEL_PER_EVALUATION`](crate::limits::FUEL_PER_EVALUATION) of it are
/// then at most 1 ms.
pub const MAX_NS_PER_FUEL: u64 = 10;

/// The price of one operator, in fuel; a load or a store costs [`RECORD_ACCESS`] or [`ACCESS`] in place of it.
pub(crate) fn price(operator: &Operator<'_>) -> u64 {
    use Operator as O;
    match operator {
        O::Block { .. } | O::Loop { .. } | O::Else | O::End | O::Nop | O::Drop => 0,
        O::Call { .. } => 8,
        O::CallIndirect { .. } => 16,
        O::BrTable { .. } => 4,
        O::I32DivS | O::I32DivU | O::I32RemS | O::I32RemU => 12,
        O::I64DivS | O::I64DivU | O::I64RemS | O::I64RemU => 12,
        O::F32Div | O::F64Div | O::F32Sqrt | O::F64Sqrt => 24,
        O::F32Add | O::F32Sub | O::F32Mul | O::F64Add | O::F64Sub | O::F64Mul => 12,
        O::F32DemoteF64 | O::F64PromoteF32 => 12,
        O::F32Ceil | O::F32Floor | O::F32Trunc | O::F32Nearest => 4,
        O::F64Ceil | O::F64Floor | O::F64Trunc | O::F64Nearest => 4,
        O::MemoryCopy { .. } | O::MemoryFill { .. } => 64,
        _ => 1,
    }
}

/// Whether an operator's cost depends on its operands, so that no static bound exists.
pub(crate) fn is_dynamic(operator: &Operator<'_>) -> bool {
    matches!(operator, Operator::MemoryCopy { .. } | Operator::MemoryFill { .. } | Operator::CallIndirect { .. })
}

/// What is known of one function's cost.
#[derive(Clone, Debug, Default)]
pub(crate) struct FunctionCost {
    /// Fuel of the operators outside loops, then of each loop in the order of the loops' heads, inner loops apart.
    pub(crate) regions: Vec<u64>,
    /// For each load and store in their order: the region that it lies in. Their price is added once it is known.
    pub(crate) accesses: Vec<usize>,
    /// Functions that it calls, one entry a call site.
    pub(crate) calls: Vec<u32>,
    /// It calls through the table.
    pub(crate) calls_table: bool,
    /// It has a loop, or an operator whose cost depends on its operands.
    pub(crate) unbounded: bool,
    /// The most values that it can have to keep on the stack at once: parameters, locals, results, and what its operators
    /// leave.
    pub(crate) values: u64,
}

impl FunctionCost {
    /// Adds the price of loads and stores. `in_record` has, for the first ones, whether the address is known to be a
    /// record's.
    pub(crate) fn price_accesses(&mut self, in_record: &[bool]) {
        for (at, region) in self.accesses.iter().enumerate() {
            let is_known = in_record.get(at).copied().unwrap_or(false);
            self.regions[*region] += if is_known { RECORD_ACCESS } else { ACCESS };
        }
    }
}

/// How a rule is kept within its fuel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metering {
    /// It has no loops, no recursion and no operator of dynamic cost: this is the most fuel that an evaluation can
    /// burn. It runs without a meter.
    Certified {
        /// Fuel, at most [`crate::limits::FUEL_PER_EVALUATION`].
        worst_fuel: u64,
    },
    /// It runs on a meter.
    Metered,
}

/// Decides whether all of some functions can be certified; the worst of them counts.
pub(crate) fn certify_all(functions: &[FunctionCost], roots: impl Iterator<Item = u32>, budget: u64) -> Metering {
    let all = roots.map(|root| certify(functions, root, budget));
    all.reduce(|one, other| match (one, other) {
        (Metering::Certified { worst_fuel: one }, Metering::Certified { worst_fuel: other }) => {
            Metering::Certified { worst_fuel: one.max(other) }
        }
        _ => Metering::Metered,
    })
    .unwrap_or(Metering::Metered)
}

/// Decides whether the function `root` can be certified within `budget` fuel.
pub(crate) fn certify(functions: &[FunctionCost], root: u32, budget: u64) -> Metering {
    /// The worst cost of a function, or None if it is unbounded. `open` marks functions on the current path.
    fn worst(functions: &[FunctionCost], at: u32, memo: &mut [Option<Option<u64>>], open: &mut [bool]) -> Option<u64> {
        let index = at as usize;
        if let Some(known) = memo[index] {
            return known;
        }
        if functions[index].unbounded || open[index] {
            return None;
        }
        open[index] = true;
        let own = functions[index].regions.iter().sum::<u64>();
        let total = functions[index]
            .calls
            .iter()
            .try_fold(own, |sum, callee| Some(sum.saturating_add(worst(functions, *callee, memo, open)?)));
        open[index] = false;
        memo[index] = Some(total);
        total
    }
    // The recursion is as deep as the call graph, at most MAX_FUNCTIONS: small frames, no danger to the stack.
    let (mut memo, mut open) = (vec![None; functions.len()], vec![false; functions.len()]);
    match worst(functions, root, &mut memo, &mut open) {
        Some(worst_fuel) if worst_fuel <= budget => Metering::Certified { worst_fuel },
        _ => Metering::Metered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of the price table in docs/abi.md, each with operators that it speaks of.
    #[test]
    fn the_documented_prices_are_charged() {
        use Operator as O;
        let rows: [(&str, Vec<Operator<'_>>); 9] = [
            ("| `block`, `loop`, `else`, `end`, `nop`, `drop` | 0 |", vec![O::Else, O::End, O::Nop, O::Drop]),
            ("| `call` | 8 |", vec![O::Call { function_index: 0 }]),
            ("| `call_indirect` | 16 |", vec![O::CallIndirect { type_index: 0, table_index: 0 }]),
            ("| integer division and remainder | 12 |", vec![O::I32DivS, O::I32RemU, O::I64DivU, O::I64RemS]),
            (
                "| float add, subtract, multiply, demote, promote | 12 |",
                vec![O::F32Add, O::F64Sub, O::F64Mul, O::F32DemoteF64, O::F64PromoteF32],
            ),
            ("| float ceil, floor, trunc, nearest | 4 |", vec![O::F32Ceil, O::F64Floor, O::F64Trunc, O::F32Nearest]),
            ("| float divide, square root | 24 |", vec![O::F32Div, O::F64Sqrt]),
            (
                "| `memory.copy`, `memory.fill` | 64, and 1 for each whole 16 bytes |",
                vec![O::MemoryCopy { dst_mem: 0, src_mem: 0 }, O::MemoryFill { mem: 0 }],
            ),
            ("| all others | 1 |", vec![O::I32Add, O::I32ReinterpretF32, O::Select, O::Unreachable, O::F64Lt]),
        ];
        let doc = include_str!("../../docs/abi.md");
        for (row, operators) in rows {
            assert!(doc.contains(row), "docs/abi.md lacks: {row}");
            let fuel: u64 = row.split('|').nth(2).and_then(|cell| cell.trim().split(',').next()?.parse().ok()).unwrap();
            for operator in operators {
                assert_eq!(price(&operator), fuel, "{operator:?}");
            }
        }
        assert!(doc.contains("| `br_table` | 4 |"));
        assert!(
            doc.contains(&format!("| a load or store of a record, at an address that is known | {RECORD_ACCESS} |"))
        );
        assert!(doc.contains(&format!("| any other load or store | {ACCESS} |")));
        assert!(doc.contains(&format!("1 for each whole {STATE_BYTES_PER_FUEL} bytes of its\nstate")));
        assert_eq!(1 << BULK_BYTES_SHIFT, 16);
    }

    fn function(own: u64, calls: &[u32]) -> FunctionCost {
        FunctionCost { regions: vec![own], calls: calls.to_vec(), ..FunctionCost::default() }
    }

    #[test]
    fn a_call_tree_costs_the_sum_of_its_call_sites() {
        let functions = [function(10, &[1, 1]), function(5, &[2]), function(1, &[])];
        assert_eq!(certify(&functions, 0, 100), Metering::Certified { worst_fuel: 22 });
        assert_eq!(certify(&functions, 0, 21), Metering::Metered);
    }

    #[test]
    fn recursion_and_loops_are_metered() {
        assert_eq!(certify(&[function(1, &[0])], 0, 100), Metering::Metered);
        assert_eq!(certify(&[function(1, &[1]), function(1, &[0])], 0, 100), Metering::Metered);
        let looping = FunctionCost { unbounded: true, ..function(1, &[]) };
        assert_eq!(certify(&[function(1, &[1]), looping.clone()], 0, 100), Metering::Metered);
        // A loop that evaluate cannot reach does no harm.
        assert_eq!(certify(&[function(1, &[]), looping], 0, 100), Metering::Certified { worst_fuel: 1 });
    }

    #[test]
    fn doubling_calls_saturate() {
        let functions: Vec<_> =
            (0..200).map(|i| if i < 199 { function(1, &[i + 1, i + 1]) } else { function(1, &[]) }).collect();
        assert_eq!(certify(&functions, 0, u64::MAX - 1), Metering::Metered);
    }
}
