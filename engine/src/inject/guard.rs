//! The guard: a store with an unproven address traps unless it is inside the guest's own pages, or inside the state or the
//! verdict of the evaluated binding. The addresses of those are in two globals, which only the drivers can write, since they
//! are appended to the module's own.

use tocsin_rules_sdk::abi::VERDICT_BYTES;
use wasm_encoder::ValType;
use wasmparser::Operator;

use super::body::Body;
use super::layout::STRAY_WRITE;
use super::{Appended, Injector};
use crate::inspect::Access;

/// The locals that are added to each function.
pub(super) struct ScratchLocals {
    pub(super) address: u32,
    pub(super) middle: u32,
    pub(super) length: u32,
    pub(super) i64: u32,
    pub(super) f32: u32,
    pub(super) f64: u32,
}

impl ScratchLocals {
    /// The number and type of the locals.
    pub(super) const TYPES: [(u32, ValType); 4] =
        [(3, ValType::I32), (1, ValType::I64), (1, ValType::F32), (1, ValType::F64)];

    /// Returns the indices of the locals behind `count` others.
    pub(super) fn after(count: u32) -> Self {
        Self { address: count, middle: count + 1, length: count + 2, i64: count + 3, f32: count + 4, f64: count + 5 }
    }

    /// Returns the local that can hold the value of a store.
    fn value(&self, store: &Operator<'_>) -> u32 {
        match store {
            Operator::F32Store { .. } => self.f32,
            Operator::F64Store { .. } => self.f64,
            Operator::I32Store { .. } | Operator::I32Store8 { .. } | Operator::I32Store16 { .. } => self.middle,
            _ => self.i64,
        }
    }
}

impl Injector<'_> {
    /// Appends the guard of a store, with its address and value on the stack.
    pub(super) fn guard_store(&self, body: &mut Body, scratch: &ScratchLocals, store: &Operator<'_>, access: Access) {
        let value = scratch.value(store);
        body.code()
            .local_set(value)
            .local_tee(scratch.address)
            .i64_const(access.offset as i64)
            .i64_const(access.bytes as i64)
            .call(self.index_of(Appended::Guard))
            .local_get(scratch.address)
            .local_get(value);
    }

    /// Appends the guard of a bulk operation, with its operands on the stack: the destination, the source or value, and the
    /// number of bytes.
    pub(super) fn guard_bulk(&self, body: &mut Body, scratch: &ScratchLocals) {
        body.code()
            .local_set(scratch.length)
            .local_set(scratch.middle)
            .local_tee(scratch.address)
            .i64_const(0)
            .local_get(scratch.length)
            .i64_extend_i32_u()
            .call(self.index_of(Appended::Guard))
            .local_get(scratch.address)
            .local_get(scratch.middle)
            .local_get(scratch.length);
    }

    /// Generates the function `guard(address: i32, offset: i64, bytes: i64)`, which traps unless the bytes are in the
    /// guest's own pages, or in the state or the verdict of the evaluated binding.
    pub(super) fn guard(&self) -> Body {
        let (address, offset, bytes, start, end) = (0, 1, 2, 3, 4);
        let mut body = Body::new([(2, ValType::I64)]);
        body.code()
            .local_get(address)
            .i64_extend_i32_u()
            .local_get(offset)
            .i64_add()
            .local_tee(start)
            .local_get(bytes)
            .i64_add()
            .local_tee(end)
            .i64_const(self.mailbox().into())
            .i64_le_u()
            .local_get(bytes)
            .i64_eqz()
            .i32_or();
        let records =
            [(self.state_global(), self.inspection.manifest.state_bytes), (self.verdict_global(), VERDICT_BYTES)];
        for (record, record_bytes) in records {
            body.code()
                .local_get(start)
                .global_get(record)
                .i64_extend_i32_u()
                .i64_ge_u()
                .local_get(end)
                .global_get(record)
                .i64_extend_i32_u()
                .i64_const(record_bytes as i64)
                .i64_add()
                .i64_le_u()
                .i32_and()
                .i32_or();
        }
        body.code().i32_eqz();
        body.unlikely_if().i64_const(STRAY_WRITE).global_set(self.fuel_global()).unreachable().end();
        body.code().end();
        body
    }
}
