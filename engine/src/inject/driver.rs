//! What the host calls: the loop over bindings, and the migration of one.

use wasm_encoder::{BlockType, MemArg, ValType};

use super::Injector;
use super::body::Body;
use super::layout::{ANSWER_BYTES, ANSWERS_AT, Driven, LIST_ENTRY_BYTES, MAX_ANSWERS, VERDICT_AT};
use crate::limits::{FUEL_PER_CALL, FUEL_PER_EVALUATION};

/// Which bindings a driver evaluates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Selection {
    /// A table's slots from the first on. Parameters: params, state, count.
    Range,
    /// Those of a list. Parameters: list, nothing, count.
    Listed,
}

/// The locals of a driver, its parameters first.
const LIST: u32 = 0;
const COUNT: u32 = 2;
const SLOT: u32 = 3;
const ANSWER: u32 = 4;
const CODE: u32 = 5;
const PARAMS: u32 = 6;
const STATE: u32 = 7;
const FUEL_LEFT: u32 = 8;

impl Injector<'_> {
    /// A driver: evaluates `count` bindings, those from the first one of a table on or those of a list, and stops early
    /// when the answers fill the mailbox, or when [`FUEL_PER_CALL`] is burnt. An answer is written for every code but
    /// hold; an unwritten answer's verdict is zero when `evaluate` is called, as far as the host will read it.
    pub(super) fn driver(&self, selection: Selection) -> Body {
        let manifest = &self.inspection.manifest;
        let answers = self.mailbox() + ANSWERS_AT as i32;
        let mut body = Body::new([(5, ValType::I32), (1, ValType::I64)]);
        body.code().i32_const(answers).local_set(ANSWER);
        if self.metered() {
            body.code().i64_const(FUEL_PER_CALL as i64).local_set(FUEL_LEFT);
        }
        body.code().loop_(BlockType::Empty);
        if selection == Selection::Listed {
            for (offset, local) in [(0, PARAMS), (4, STATE)] {
                body.code().local_get(LIST).i32_load(at(offset)).local_set(local);
            }
        }
        if self.metered() {
            body.code().i64_const(FUEL_PER_EVALUATION as i64).global_set(self.fuel_global());
        }
        for word in consumed_words(manifest.evidence.len(), manifest.sleeps) {
            let place = MemArg { align: 3, ..at(VERDICT_AT + word * 8) };
            body.code().local_get(ANSWER).i64_const(0).i64_store(place);
        }
        let (params, state) = if selection == Selection::Listed { (PARAMS, STATE) } else { (0, 1) };
        self.evaluate(&mut body, params, state);
        if manifest.sleeps {
            body.code().if_(BlockType::Empty);
        } else {
            // Most ticks fire nothing, and there is no band to report.
            body.unlikely_if();
        }
        for (offset, local) in [(0, SLOT), (4, CODE)] {
            body.code().local_get(ANSWER).local_get(local).i32_store(at(offset));
        }
        add(&mut body, ANSWER, ANSWER_BYTES);
        // Where there is no room for another answer, this binding is the last one.
        body.code()
            .local_get(SLOT)
            .i32_const(1)
            .i32_add()
            .local_get(COUNT)
            .local_get(ANSWER)
            .i32_const(answers + (MAX_ANSWERS * ANSWER_BYTES) as i32)
            .i32_eq()
            .select()
            .local_set(COUNT)
            .end();
        match selection {
            Selection::Listed => add(&mut body, LIST, LIST_ENTRY_BYTES),
            Selection::Range => {
                add(&mut body, params, manifest.params.packed_bytes());
                add(&mut body, state, manifest.state_bytes);
            }
        }
        add(&mut body, SLOT, 1);
        body.code().local_get(SLOT).local_get(COUNT).i32_lt_u();
        if self.metered() {
            self.and_fuel_is_left(&mut body);
        }
        body.code().br_if(0).end();
        self.push_result(&mut body, answers);
        body.code().end();
        body
    }

    /// Subtracts the fuel of the last evaluation from what the call may burn, and adds to the condition on the stack that some
    /// of it is left.
    fn and_fuel_is_left(&self, body: &mut Body) {
        // What the evaluation has left of its own fuel was not burnt.
        body.code()
            .local_get(FUEL_LEFT)
            .i64_const(FUEL_PER_EVALUATION as i64)
            .i64_sub()
            .global_get(self.fuel_global())
            .i64_add()
            .local_tee(FUEL_LEFT)
            .i64_const(0)
            .i64_gt_s()
            .i32_and();
    }

    /// Evaluates one binding, whose code is left on the stack and in [`CODE`].
    fn evaluate(&self, body: &mut Body, params: u32, state: u32) {
        if self.guarded {
            body.code()
                .local_get(state)
                .global_set(self.state_global())
                .local_get(ANSWER)
                .i32_const(VERDICT_AT as i32)
                .i32_add()
                .global_set(self.verdict_global());
        }
        body.code()
            .i32_const(self.mailbox())
            .local_get(params)
            .local_get(state)
            .local_get(ANSWER)
            .i32_const(VERDICT_AT as i32)
            .i32_add()
            .call(self.inspection.evaluate)
            .local_tee(CODE);
    }

    /// Leaves what [`Driven`] unpacks on the stack.
    fn push_result(&self, body: &mut Body, answers: i32) {
        body.code()
            .local_get(SLOT)
            .i64_extend_i32_u()
            .i64_const(Driven::BINDINGS_SHIFT)
            .i64_shl()
            .local_get(ANSWER)
            .i32_const(answers)
            .i32_sub()
            .i32_const(ANSWER_BYTES.trailing_zeros() as i32)
            .i32_shr_u()
            .i64_extend_i32_u()
            .i64_const(Driven::ANSWERS_SHIFT)
            .i64_shl()
            .i64_or();
        if self.metered() {
            body.code().i64_const(FUEL_PER_CALL as i64).local_get(FUEL_LEFT).i64_sub().i64_or();
        }
    }

    /// Calls the module's `migrate` on a meter and under guard: it may write to the new state only.
    pub(super) fn migration(&self) -> Body {
        let mut body = Body::new([]);
        if self.metered() {
            body.code().i64_const(FUEL_PER_EVALUATION as i64).global_set(self.fuel_global());
        }
        let (from, old_state, params, state) = (0, 1, 2, 3);
        if self.guarded {
            // There is no verdict: nothing reads what is written to the tick's place.
            body.code().local_get(state).global_set(self.state_global());
            body.code().i32_const(self.mailbox()).global_set(self.verdict_global());
        }
        let migrate = self.inspection.migrate.expect("it is appended where there is one");
        body.code().local_get(from).local_get(old_state).local_get(params).local_get(state).call(migrate).end();
        body
    }
}

/// An aligned 32-bit word at an offset.
fn at(offset: usize) -> MemArg {
    MemArg { offset: offset as u64, align: 2, memory_index: 0 }
}

/// The 8-byte words of a verdict that the host reads: the named evidence and, if the rule sleeps, the wake band.
fn consumed_words(evidence: usize, sleeps: bool) -> impl Iterator<Item = usize> {
    (0..evidence).chain(if sleeps { 4..7 } else { 0..0 })
}

/// `local += bytes`, nothing if that is zero.
fn add(body: &mut Body, local: u32, bytes: usize) {
    if bytes > 0 {
        body.code().local_get(local).i32_const(bytes as i32).i32_add().local_set(local);
    }
}
