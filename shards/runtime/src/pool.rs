//! Buffers of one shard, used again and again.

use std::cell::RefCell;

/// Buffers kept for reuse, at most.
const KEPT_MAX: usize = 256;
/// Capacity above which a buffer is given back to the allocator, in bytes.
const CAPACITY_MAX: usize = 512 << 10;

/// A pool of byte buffers.
#[derive(Default)]
pub struct BufferPool {
    kept: RefCell<Vec<Vec<u8>>>,
}

impl BufferPool {
    /// An empty buffer, with room if one was given back.
    pub fn take(&self) -> Vec<u8> {
        self.kept.borrow_mut().pop().unwrap_or_default()
    }

    /// Gives a buffer back.
    pub fn give(&self, mut buffer: Vec<u8>) {
        let mut kept = self.kept.borrow_mut();
        if kept.len() < KEPT_MAX && (1..=CAPACITY_MAX).contains(&buffer.capacity()) {
            buffer.clear();
            kept.push(buffer);
        }
    }
}
