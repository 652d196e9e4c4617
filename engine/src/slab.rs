//! A collection of values under small, stable keys.

/// A vector with holes: a key stays the same until its value is removed, and is then used again.
pub(crate) struct Slab<T> {
    values: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { values: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(crate) fn insert(&mut self, value: T) -> usize {
        match self.free.pop() {
            Some(key) => {
                self.values[key] = Some(value);
                key
            }
            None => {
                self.values.push(Some(value));
                self.values.len() - 1
            }
        }
    }

    pub(crate) fn remove(&mut self, key: usize) -> T {
        self.free.push(key);
        self.values[key].take().expect("a key is used until its value is removed")
    }

    pub(crate) fn contains(&self, key: usize) -> bool {
        self.values.get(key).is_some_and(Option::is_some)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.values.iter().flatten()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.values.iter_mut().flatten()
    }
}

impl<T> std::ops::Index<usize> for Slab<T> {
    type Output = T;

    fn index(&self, key: usize) -> &T {
        self.values[key].as_ref().expect("a key is used until its value is removed")
    }
}

impl<T> std::ops::IndexMut<usize> for Slab<T> {
    fn index_mut(&mut self, key: usize) -> &mut T {
        self.values[key].as_mut().expect("a key is used until its value is removed")
    }
}
