//! Bounds the stack that a module can use, so that its fuel always runs out before the stack does.
//!
//! The size of a frame is bounded by `CallGraph::frame_bytes`: each value of a function may be spilled once, and once more in
//! another form (an address extended to 64 bits), and so may those of the functions that the compiler inlines into it.
//!
//! - Functions that cannot call themselves, directly or indirectly, are on the stack at most once each. The deepest chain of
//!   them is known, and a module is refused if it exceeds [`MAX_CHAIN_BYTES`].
//! - Recursive functions are charged for their frame on each entry, one fuel per [`STACK_BYTES_PER_FUEL`]: the fuel of an
//!   evaluation buys less than the rest of the stack.

use crate::cost::FunctionCost;
use crate::limits::{FUEL_PER_EVALUATION, MAX_CHAIN_BYTES, WASM_STACK_BYTES};

/// The stack that one unit of fuel pays for, in bytes.
const STACK_BYTES_PER_FUEL: u64 = 10;

/// The stack for the frames of the host's trampolines and of the driver, in bytes.
const DRIVER_BYTES: u64 = 64 * 1024;

const _: () =
    assert!(FUEL_PER_EVALUATION * STACK_BYTES_PER_FUEL + MAX_CHAIN_BYTES + DRIVER_BYTES <= WASM_STACK_BYTES as u64);

/// A frame without values, in bytes: return address, frame pointer, the instance, alignment, and the values of the meter
/// and the guard.
const FRAME_BYTES: u64 = 160;

/// The stack for one value, in bytes: 8 for itself, and 8 for another form of it.
const VALUE_BYTES: u64 = 16;

/// The most values of other functions that the compiler inlines into one: Wasmtime's `inlining_sum_size_threshold`.
const MAX_INLINED_VALUES: u64 = 2000;

/// The call graph of a module, with its transitive closure.
pub(super) struct CallGraph<'a> {
    functions: &'a [FunctionCost],
    /// For each function, a bit for each function that it can call, directly or indirectly.
    reaches: Vec<Vec<u64>>,
}

impl<'a> CallGraph<'a> {
    /// Builds the graph. `in_table` lists the functions that an indirect call can reach.
    pub(super) fn new(functions: &'a [FunctionCost], in_table: &[u32]) -> Self {
        let words = functions.len().div_ceil(64);
        let mut reaches = vec![vec![0_u64; words]; functions.len()];
        for (function, row) in functions.iter().zip(&mut reaches) {
            let table = in_table.iter().filter(|_| function.calls_table);
            for callee in function.calls.iter().chain(table).map(|callee| *callee as usize) {
                row[callee / 64] |= 1 << (callee % 64);
            }
        }
        // Warshall's algorithm: a path through the functions up to `via` exists if one to `via` and one from it do.
        for via in 0..functions.len() {
            let through = reaches[via].clone();
            for row in &mut reaches {
                if row[via / 64] >> (via % 64) & 1 == 1 {
                    row.iter_mut().zip(&through).for_each(|(word, more)| *word |= more);
                }
            }
        }
        Self { functions, reaches }
    }

    fn can_call(&self, caller: usize, callee: usize) -> bool {
        self.reaches[caller][callee / 64] >> (callee % 64) & 1 == 1
    }

    fn are_mutual(&self, one: usize, other: usize) -> bool {
        self.can_call(one, other) && self.can_call(other, one)
    }

    /// Returns a bound on a function's frame, in bytes.
    fn frame_bytes(&self, function: usize) -> u64 {
        FRAME_BYTES + VALUE_BYTES * (self.functions[function].values + self.inlined_values(function))
    }

    /// Returns a bound on the values of other functions that are inlined into this one. Functions that can call it are
    /// never inlined.
    fn inlined_values(&self, function: usize) -> u64 {
        let callees = self.functions[function].calls.iter().map(|callee| *callee as usize);
        let inlined = callees.filter(|callee| !self.are_mutual(function, *callee));
        let values = inlined.map(|callee| self.functions[callee].values + self.max_inlined(callee)).sum::<u64>();
        values.min(MAX_INLINED_VALUES)
    }

    fn max_inlined(&self, function: usize) -> u64 {
        if self.functions[function].calls.is_empty() { 0 } else { MAX_INLINED_VALUES }
    }

    /// Returns for each function what its frame costs on entry, in fuel: nothing if it is not recursive.
    pub(super) fn entry_fuel(&self) -> Vec<u64> {
        let fuel = |function: usize| {
            let is_recursive = self.can_call(function, function);
            if is_recursive { self.frame_bytes(function).div_ceil(STACK_BYTES_PER_FUEL) } else { 0 }
        };
        (0..self.functions.len()).map(fuel).collect()
    }

    /// Returns a bound on the stack of a call of `root` beside what recursion is charged for, in bytes: the deepest chain of
    /// functions of which none can call an earlier one, with one more frame where a recursion ends.
    pub(super) fn chain_bytes(&self, root: u32) -> u64 {
        let count = self.functions.len();
        // Callees come first. A callee that cannot call back reaches fewer functions than its caller, or as many if it
        // reaches itself and its caller does not.
        let reach = |function: &usize| {
            let reached = self.reaches[*function].iter().map(|word| word.count_ones()).sum::<u32>();
            (reached, !self.can_call(*function, *function))
        };
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_cached_key(reach);
        let mut deepest = vec![0_u64; count];
        for at in &order {
            let own = self.frame_bytes(*at);
            let callees = (0..count).filter(|callee| self.can_call(*at, *callee) && !self.can_call(*callee, *at));
            deepest[*at] = own + callees.map(|callee| deepest[callee]).max().unwrap_or(0);
        }
        // The chain may leave a cycle at any of its functions.
        let mutual = (0..count).filter(|other| self.are_mutual(root as usize, *other));
        mutual.map(|other| deepest[other]).max().unwrap_or(0).max(deepest[root as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(values: u64, calls: &[u32]) -> FunctionCost {
        FunctionCost { values, calls: calls.to_vec(), ..FunctionCost::default() }
    }

    fn frame(values: u64) -> u64 {
        FRAME_BYTES + VALUE_BYTES * values
    }

    #[test]
    fn recursive_functions_are_charged_for_their_frame() {
        // 0 and 1 call each other, 2 is called by both, 3 calls through a table that has 1.
        let mut functions = [function(10, &[1, 2]), function(20, &[0]), function(5, &[]), function(1, &[])];
        functions[3].calls_table = true;
        let graph = CallGraph::new(&functions, &[1]);
        let fuel = |values| frame(values).div_ceil(STACK_BYTES_PER_FUEL);
        assert_eq!(graph.entry_fuel(), [fuel(15), fuel(20), 0, 0]);
        assert_eq!(CallGraph::new(&functions, &[3]).entry_fuel()[3], fuel(1), "a table entry that calls the table");
    }

    #[test]
    fn the_deepest_chain_counts_each_function_once() {
        let functions = [function(1, &[1, 2]), function(2, &[3]), function(100, &[]), function(3, &[])];
        let graph = CallGraph::new(&functions, &[]);
        let frame_of = |function: usize| frame(functions[function].values + graph.inlined_values(function));
        let by_two = frame_of(0) + frame_of(2);
        let by_one = frame_of(0) + frame_of(1) + frame_of(3);
        assert_eq!(graph.chain_bytes(0), by_two.max(by_one));
        assert_eq!(graph.chain_bytes(3), frame(3));
        // A caller of a function that only calls itself.
        let graph_of = [function(9, &[1]), function(4, &[1])];
        let graph = CallGraph::new(&graph_of, &[]);
        assert_eq!(graph.chain_bytes(0), graph.frame_bytes(0) + graph.frame_bytes(1));
        // A cycle counts once, however its functions are ordered.
        let cycle = [function(1, &[1]), function(50, &[0, 2]), function(7, &[])];
        let graph = CallGraph::new(&cycle, &[]);
        assert_eq!(graph.chain_bytes(0), graph.chain_bytes(1));
    }
}
