//! The allocator for the tables of groups in an instance's memory: power-of-two blocks behind the mailbox page. Its
//! bookkeeping is in the host, out of reach of the guest.

/// The smallest block, in bytes: a cache line, so that no two groups share one.
const MIN_BLOCK_BYTES: usize = 64;

/// The blocks of one instance's memory.
#[derive(Debug)]
pub(crate) struct Heap {
    /// The addresses of free blocks by size class: blocks of class c have `MIN_BLOCK_BYTES << c` bytes.
    free: Vec<Vec<usize>>,
    /// The first address that has never been part of a block.
    top: usize,
    /// The first address behind the usable ones.
    limit: usize,
}

impl Heap {
    /// Creates a heap of the addresses from `start` up to `limit`, exclusive.
    pub(crate) fn new(start: usize, limit: usize) -> Self {
        Self { free: Vec::new(), top: start, limit }
    }

    /// Allocates a block of at least `bytes` bytes. Returns `None` if the limit is reached. The block may lie behind the
    /// current end of the memory: see [`Self::top`].
    pub(crate) fn allocate(&mut self, bytes: usize) -> Option<usize> {
        let class = class_of(bytes);
        if let Some(at) = self.free.get_mut(class).and_then(Vec::pop) {
            return Some(at);
        }
        let (at, end) = (self.top, self.top.checked_add(MIN_BLOCK_BYTES << class)?);
        if end > self.limit {
            return None;
        }
        self.top = end;
        Some(at)
    }

    /// Frees a block that was allocated for `bytes` bytes.
    pub(crate) fn release(&mut self, at: usize, bytes: usize) {
        let class = class_of(bytes);
        if self.free.len() <= class {
            self.free.resize_with(class + 1, Vec::new);
        }
        self.free[class].push(at);
    }

    /// Returns the size of a block that is allocated for `bytes` bytes.
    pub(crate) fn block_bytes(bytes: usize) -> usize {
        MIN_BLOCK_BYTES << class_of(bytes)
    }

    /// Returns the address up to which the memory must reach.
    pub(crate) fn top(&self) -> usize {
        self.top
    }
}

fn class_of(bytes: usize) -> usize {
    bytes.next_power_of_two().max(MIN_BLOCK_BYTES).trailing_zeros() as usize - MIN_BLOCK_BYTES.trailing_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_overlap_and_are_used_again() {
        let mut heap = Heap::new(1000 * 64, 1010 * 64);
        let sizes = [1, 64, 65, 128, 200];
        let blocks: Vec<_> = sizes.iter().map(|bytes| heap.allocate(*bytes).unwrap()).collect();
        assert_eq!(blocks, [64000, 64064, 64128, 64256, 64384]);
        assert_eq!(heap.top(), 64640);
        assert_eq!(heap.allocate(1), None, "the limit holds");
        heap.release(blocks[2], 65);
        assert_eq!(heap.allocate(100), Some(blocks[2]));
        assert_eq!(heap.allocate(100), None);
    }
}
