//! How much of the machine's stack a module can use: so much that its fuel ends first, whatever it does.
//!
//! A frame holds at most what [`frame_bytes`] says: each value of a function may be spilled once, and once more in another
//! form (an address that was made 64 bits wide), and so may those of the functions that the compiler folds into it.
//!
//! - Functions that cannot call themselves, directly or not, are on the stack once each: the deepest chain of them is
//!   known, and refused above [`MAX_CHAIN_BYTES`].
//! - Those that can, pay for their frame at each entry, [`STACK_BYTES_PER_FUEL`] for one: the fuel of an evaluation buys
//!   less than the rest of the stack.

use crate::cost::FunctionCost;
use crate::limits::{FUEL_PER_EVALUATION, MAX_CHAIN_BYTES, WASM_STACK_BYTES};

/// Stack that one fuel pays for, in bytes.
const STACK_BYTES_PER_FUEL: u64 = 10;

/// Stack for the frames of the host's trampolines and of the driver, in bytes.
const DRIVER_BYTES: u64 = 64 * 1024;

const _: () =
    assert!(FUEL_PER_EVALUATION * STACK_BYTES_PER_FUEL + MAX_CHAIN_BYTES + DRIVER_BYTES <= WASM_STACK_BYTES as u64);

/// A frame without values, in bytes: return address, frame pointer, the instance, alignment, and what the meter and the
/// guard keep.
const FRAME_BYTES: u64 = 160;

/// Stack for one value, in bytes: 8 for itself, and 8 for another form of it.
const VALUE_BYTES: u64 = 16;

/// Values of other functions that a compiler folds into one at most: Wasmtime's `inlining_sum_size_threshold`.
const MAX_FOLDED_VALUES: u64 = 2000;

/// Which functions can call which.
pub(super) struct CallGraph<'a> {
    functions: &'a [FunctionCost],
    /// For each function, a bit for each one that it can call, directly or through others.
    reaches: Vec<Vec<u64>>,
}

impl<'a> CallGraph<'a> {
    /// `in_table` are the functions that an indirect call can reach.
    pub(super) fn new(functions: &'a [FunctionCost], in_table: &[u32]) -> Self {
        let words = functions.len().div_ceil(64);
        let mut reaches = vec![vec![0_u64; words]; functions.len()];
        for (function, row) in functions.iter().zip(&mut reaches) {
            let table = in_table.iter().filter(|_| function.calls_table);
            for callee in function.calls.iter().chain(table).map(|callee| *callee as usize) {
                row[callee / 64] |= 1 << (callee % 64);
            }
        }
        // Warshall: a path through the functions up to `via` is there if one to `via` and one from it are.
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

    /// The most that a function's frame takes, in bytes.
    fn frame_bytes(&self, function: usize) -> u64 {
        FRAME_BYTES + VALUE_BYTES * (self.functions[function].values + self.folded_values(function))
    }

    /// The most values of others that are folded into a function: never of those that can call it.
    fn folded_values(&self, function: usize) -> u64 {
        let callees = self.functions[function].calls.iter().map(|callee| *callee as usize);
        let folded = callees.filter(|callee| !self.are_mutual(function, *callee));
        let values = folded.map(|callee| self.functions[callee].values + self.own_folded(callee)).sum::<u64>();
        values.min(MAX_FOLDED_VALUES)
    }

    fn own_folded(&self, function: usize) -> u64 {
        if self.functions[function].calls.is_empty() { 0 } else { MAX_FOLDED_VALUES }
    }

    /// What entering each function costs for its stack, in fuel: nothing where it cannot call itself.
    pub(super) fn entry_fuel(&self) -> Vec<u64> {
        let fuel = |function: usize| {
            let is_recursive = self.can_call(function, function);
            if is_recursive { self.frame_bytes(function).div_ceil(STACK_BYTES_PER_FUEL) } else { 0 }
        };
        (0..self.functions.len()).map(fuel).collect()
    }

    /// The most stack that a call of `root` takes beside what recursion pays for, in bytes: a chain of functions of which
    /// none can call an earlier one, and one more frame where a recursion ends.
    pub(super) fn chain_bytes(&self, root: u32) -> u64 {
        let count = self.functions.len();
        // Callees come first. One that cannot call back reaches fewer functions than its caller, or as many where it
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
        // Any member of a cycle may be the one that leaves it.
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
    fn who_can_call_itself_pays_for_its_frame() {
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
        let folded = |function: usize| frame(functions[function].values + graph.folded_values(function));
        let by_two = folded(0) + folded(2);
        let by_one = folded(0) + folded(1) + folded(3);
        assert_eq!(graph.chain_bytes(0), by_two.max(by_one));
        assert_eq!(graph.chain_bytes(3), frame(3));
        // A caller of one that only calls itself.
        let graph_of = [function(9, &[1]), function(4, &[1])];
        let graph = CallGraph::new(&graph_of, &[]);
        assert_eq!(graph.chain_bytes(0), graph.frame_bytes(0) + graph.frame_bytes(1));
        // A cycle counts once, however its members are ordered.
        let cycle = [function(1, &[1]), function(50, &[0, 2]), function(7, &[])];
        let graph = CallGraph::new(&cycle, &[]);
        assert_eq!(graph.chain_bytes(0), graph.chain_bytes(1));
    }
}
