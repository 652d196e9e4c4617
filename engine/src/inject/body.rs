//! The body of a generated function: its code, and its branch hints.

use wasm_encoder::{BlockType, BranchHint, BranchHints, CodeSection, Function, Instruction, InstructionSink, ValType};

/// A function body in progress. By the hints, Wasmtime moves unlikely branches out of the way of the others.
pub(super) struct Body {
    code: Function,
    hints: Vec<BranchHint>,
}

impl Body {
    pub(super) fn new(locals: impl IntoIterator<Item = (u32, ValType), IntoIter: ExactSizeIterator>) -> Self {
        Self { code: Function::new(locals), hints: Vec::new() }
    }

    /// Returns the sink to append instructions to.
    pub(super) fn code(&mut self) -> InstructionSink<'_> {
        self.code.instructions()
    }

    /// Appends a re-encoded instruction of the module.
    pub(super) fn instruction(&mut self, instruction: &Instruction<'_>) {
        self.code.instruction(instruction);
    }

    /// Appends an `if` without a result, with a condition that is hardly ever true.
    pub(super) fn unlikely_if(&mut self) -> InstructionSink<'_> {
        self.hinted_if(false, BlockType::Empty)
    }

    /// Appends an `if` with a result, with a condition that is nearly always true.
    pub(super) fn likely_if(&mut self, result: ValType) -> InstructionSink<'_> {
        self.hinted_if(true, BlockType::Result(result))
    }

    fn hinted_if(&mut self, is_likely: bool, ty: BlockType) -> InstructionSink<'_> {
        let branch_func_offset = self.code.byte_len() as u32;
        self.hints.push(BranchHint { branch_func_offset, branch_hint_value: is_likely.into() });
        let mut code = self.code();
        code.if_(ty);
        code
    }

    pub(super) fn put(self, index: u32, code: &mut CodeSection, hints: &mut BranchHints) {
        code.function(&self.code);
        hints.function_hints(index, self.hints);
    }
}
