//! The records that the host keeps for a rule, params and state, and the types that they may contain.
//!
//! A rule accesses both in place, by reference, since a state may have kilobytes. These traits guarantee that such references
//! are sound. That is why they are `unsafe` to implement by hand: derive them.

use crate::manifest::Param;

/// A record of params: derive it for a `#[repr(C)]` struct.
///
/// # Safety
/// `FIELDS` lists every field, with its type and offset, and each type is one of [`Kind`](crate::manifest::Kind).
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the params of a rule",
    label = "params are a struct with `#[derive(Params)] #[repr(C)]`"
)]
pub unsafe trait Params: Sized + 'static {
    /// The fields, in the order of declaration.
    const FIELDS: &'static [Param];
}

// SAFETY: it has no fields.
unsafe impl Params for () {
    const FIELDS: &'static [Param] = &[];
}

/// A fieldless enum as the type of a param: derive it for a `#[repr(u32)]` enum.
///
/// # Safety
/// The type is a `u32` enum without fields whose discriminants are the indices of `NAMES`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a param of a rule",
    label = "not a type of a param",
    note = "a param is an f64, f32, i64, i32, u32 or bool, written as such, or a fieldless enum with \
            `#[derive(Choice)] #[repr(u32)]`",
    note = "in place of text, let the alert choose from an enum"
)]
pub unsafe trait Choice: Copy + 'static {
    /// The names of the choices, as they appear in alerts.
    const NAMES: &'static [&'static str];
}

/// Plain bytes that the host keeps between ticks: a number, an array, or a `#[repr(C)]` struct that derives this.
///
/// # Safety
/// The type has no padding, an alignment of at most [`RECORD_ALIGN`](crate::abi::RECORD_ALIGN), and the same layout on every
/// target, and any bytes are a valid value of it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be part of a rule's state",
    label = "not plain bytes",
    note = "the host stores, moves and restores state as bytes, and starts it as zeroes: use f64, f32, integers of \
            8 to 64 bits, arrays of them, and structs with `#[derive(State)] #[repr(C)]`",
    note = "in place of a bool or an enum keep a u32; in place of a Vec, a String or a reference keep an array"
)]
pub unsafe trait State: Sized + 'static {
    /// The value of all-zero bytes, with which a state starts.
    const ZERO: Self;
}

macro_rules! plain_numbers {
    ($($number:ty),*) => {$(
        // SAFETY: a number has no padding and at most 8 bytes, and any bytes are a valid value.
        unsafe impl State for $number {
            const ZERO: Self = 0 as $number;
        }
    )*};
}
// No usize, whose size differs between targets, and no 128-bit integers, whose alignment does.
plain_numbers!(f64, f32, i64, i32, i16, i8, u64, u32, u16, u8);

// SAFETY: an array consists of its elements, without padding.
unsafe impl<T: State, const N: usize> State for [T; N] {
    const ZERO: Self = [T::ZERO; N];
}

// SAFETY: it has no bytes.
unsafe impl State for () {
    const ZERO: Self = ();
}
