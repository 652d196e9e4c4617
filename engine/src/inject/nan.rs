//! Makes NaNs canonical: `if x >= -infinity { x } else { NaN }`. For numbers this is one comparison and a branch that is
//! always taken.

use wasm_encoder::ValType;

use super::body::Body;

/// The only NaN with bits that a guest can observe.
const CANONICAL_F64: f64 = f64::from_bits(0x7ff8_0000_0000_0000);
const CANONICAL_F32: f32 = f32::from_bits(0x7fc0_0000);

/// Appends code that makes the f64 on the stack canonical.
pub(super) fn canonical_f64(body: &mut Body, scratch: u32) {
    body.code().local_tee(scratch).f64_const(f64::NEG_INFINITY.into()).f64_ge();
    body.likely_if(ValType::F64).local_get(scratch).else_().f64_const(CANONICAL_F64.into()).end();
}

/// Appends code that makes the f32 on the stack canonical.
pub(super) fn canonical_f32(body: &mut Body, scratch: u32) {
    body.code().local_tee(scratch).f32_const(f32::NEG_INFINITY.into()).f32_ge();
    body.likely_if(ValType::F32).local_get(scratch).else_().f32_const(CANONICAL_F32.into()).end();
}
