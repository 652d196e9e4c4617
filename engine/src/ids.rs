//! Indexes of a shard's tables, each with a type of its own, so that none is taken for another.

use crate::slab::Key;

/// The index of a binding's records in the table of its group. The bindings of a table have the slots from 0 on, without
/// gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(u32);

impl Slot {
    #[inline]
    pub(crate) fn new(index: usize) -> Self {
        Self(index as u32)
    }

    #[inline]
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }

    /// Returns the slot that lies `count` slots behind this one.
    #[inline]
    pub(crate) fn plus(self, count: usize) -> Self {
        Self(self.0 + count as u32)
    }
}

macro_rules! slab_keys {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) struct $name(u32);

        impl Key for $name {
            #[inline]
            fn new(index: usize) -> Self {
                Self(index as u32)
            }

            #[inline]
            fn index(self) -> usize {
                self.0 as usize
            }
        }
    )+};
}

slab_keys! {
    /// Identifies a [`Group`](crate::group::Group) of a shard.
    GroupId,
    /// Identifies an [`Instance`](crate::instance::Instance) of a shard.
    InstanceId,
    /// Identifies a symbol that bindings of a shard watch, or once watched.
    SymbolId,
}
