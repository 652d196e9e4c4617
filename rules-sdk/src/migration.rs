//! The state that an older version of a rule left: bytes of the host's, of a type that only the function which takes them
//! over knows.

#[cfg(not(target_arch = "wasm32"))]
use core::any::{Any, type_name};
use core::marker::PhantomData;
#[cfg(target_arch = "wasm32")]
use core::ptr::NonNull;

use crate::State;

/// A state of an older version, on its way to the function that `migrates` names for it.
pub struct OldState<'a> {
    #[cfg(target_arch = "wasm32")]
    address: usize,
    #[cfg(not(target_arch = "wasm32"))]
    state: (&'a dyn Any, &'static str),
    borrowed: PhantomData<&'a ()>,
}

#[cfg(target_arch = "wasm32")]
impl<'a> OldState<'a> {
    /// The state at an address.
    ///
    /// # Safety
    /// As many bytes as the type has that [`Self::get`] is asked for are there for as long as this lives, at a multiple of
    /// [`RECORD_ALIGN`](crate::abi::RECORD_ALIGN).
    #[inline(always)]
    pub unsafe fn at(address: usize) -> Self {
        Self { address, borrowed: PhantomData }
    }

    /// The state as what it was to its own version.
    #[inline(always)]
    pub fn get<T: State>(&self) -> &'a T {
        // Of a record without bytes the host passes any address, which no reference may hold.
        if size_of::<T>() == 0 {
            // SAFETY: a reference to nothing needs only to be aligned.
            return unsafe { NonNull::dangling().as_ref() };
        }
        // SAFETY: `at` was promised the bytes and their alignment, and a `State` is valid whatever its bytes are.
        unsafe { &*(self.address as *const T) }
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl<'a> OldState<'a> {
    /// A state in a test.
    pub fn of<T: State>(state: &'a T) -> Self {
        Self { state: (state, type_name::<T>()), borrowed: PhantomData }
    }

    /// The state as what it was to its own version.
    ///
    /// # Panics
    /// Where the test gave a state of another type.
    pub fn get<T: State>(&self) -> &'a T {
        let (state, given) = self.state;
        let wanted = type_name::<T>();
        state.downcast_ref().unwrap_or_else(|| panic!("the migration takes a `{wanted}`, the test gives a `{given}`"))
    }
}
