//! The state of an older version of a rule: bytes of the host, with a type that only the function that migrates it knows.

#[cfg(not(target_arch = "wasm32"))]
use core::any::{Any, type_name};
use core::marker::PhantomData;
#[cfg(target_arch = "wasm32")]
use core::ptr::NonNull;

use crate::State;

/// A state of an older version, for the function that `migrates` names for that version.
pub struct OldState<'a> {
    #[cfg(target_arch = "wasm32")]
    address: usize,
    #[cfg(not(target_arch = "wasm32"))]
    state: (&'a dyn Any, &'static str),
    borrowed: PhantomData<&'a ()>,
}

#[cfg(target_arch = "wasm32")]
impl<'a> OldState<'a> {
    /// Returns the state at an address.
    ///
    /// # Safety
    /// The address must be a multiple of [`RECORD_ALIGN`](crate::abi::RECORD_ALIGN), and the bytes of the type that
    /// [`Self::get`] is called with must be valid there for `'a`.
    #[inline(always)]
    pub unsafe fn at(address: usize) -> Self {
        Self { address, borrowed: PhantomData }
    }

    /// Returns the state as the type that its own version gave it.
    #[inline(always)]
    pub fn get<T: State>(&self) -> &'a T {
        // For a record without bytes the host passes any address, which may be invalid as a reference.
        if size_of::<T>() == 0 {
            // SAFETY: a reference to a type without bytes needs only to be aligned.
            return unsafe { NonNull::dangling().as_ref() };
        }
        // SAFETY: the caller of `at` ensured the bytes and their alignment, and any bytes are a valid `State`.
        unsafe { &*(self.address as *const T) }
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl<'a> OldState<'a> {
    /// Wraps a state, for tests.
    pub fn of<T: State>(state: &'a T) -> Self {
        Self { state: (state, type_name::<T>()), borrowed: PhantomData }
    }

    /// Returns the state as the type that its own version gave it.
    ///
    /// # Panics
    /// If the test passed a state of another type.
    pub fn get<T: State>(&self) -> &'a T {
        let (state, given) = self.state;
        let wanted = type_name::<T>();
        state.downcast_ref().unwrap_or_else(|| panic!("the migration takes a `{wanted}`, the test gives a `{given}`"))
    }
}
