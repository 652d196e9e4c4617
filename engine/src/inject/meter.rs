//! The meter: fuel is charged in advance, and the module traps when it runs out.

use super::Injector;
use super::body::Body;
use crate::cost::BULK_BYTES_SHIFT;

impl Injector<'_> {
    /// Appends the charge of a fixed amount of fuel.
    pub(super) fn charge(&self, body: &mut Body, fuel: u64) {
        let meter = self.fuel_global();
        body.code().global_get(meter).i64_const(fuel as i64).i64_sub().global_set(meter);
        self.check_meter(body);
    }

    /// Appends the charge of a bulk operation by its length, which is on the stack.
    pub(super) fn charge_length(&self, body: &mut Body, length_local: u32) {
        let meter = self.fuel_global();
        body.code()
            .local_tee(length_local)
            .global_get(meter)
            .local_get(length_local)
            .i64_extend_i32_u()
            .i64_const(BULK_BYTES_SHIFT)
            .i64_shr_u()
            .i64_sub()
            .global_set(meter);
        self.check_meter(body);
    }

    fn check_meter(&self, body: &mut Body) {
        body.code().global_get(self.fuel_global()).i64_const(0).i64_lt_s();
        body.unlikely_if().unreachable().end();
    }
}
