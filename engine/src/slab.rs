//! A slab with keys of a type of its own.

use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// A key of a [`Slab`].
pub(crate) trait Key: Copy {
    fn new(index: usize) -> Self;
    fn index(self) -> usize;
}

/// Values under small, stable keys: a key stays the same until its value is removed, and is then used again.
pub(crate) struct Slab<K, V> {
    values: slab::Slab<V>,
    key: PhantomData<K>,
}

impl<K, V> Default for Slab<K, V> {
    fn default() -> Self {
        Self { values: slab::Slab::new(), key: PhantomData }
    }
}

impl<K: Key, V> Slab<K, V> {
    pub(crate) fn insert(&mut self, value: V) -> K {
        K::new(self.values.insert(value))
    }

    /// Removes a value. Panics if there is none under the key.
    pub(crate) fn remove(&mut self, key: K) -> V {
        self.values.remove(key.index())
    }

    pub(crate) fn contains(&self, key: K) -> bool {
        self.values.contains(key.index())
    }

    /// Returns the value under a key, to be changed; `None` if there is none.
    #[inline]
    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        self.values.get_mut(key.index())
    }

    /// Returns the values in the order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &V> {
        self.values.iter().map(|(_, value)| value)
    }

    /// Returns the values in the order of their keys, to be changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.values.iter_mut().map(|(_, value)| value)
    }
}

impl<K: Key, V> Index<K> for Slab<K, V> {
    type Output = V;

    #[inline]
    fn index(&self, key: K) -> &V {
        &self.values[key.index()]
    }
}

impl<K: Key, V> IndexMut<K> for Slab<K, V> {
    #[inline]
    fn index_mut(&mut self, key: K) -> &mut V {
        &mut self.values[key.index()]
    }
}
