//! The shard's read buffers: one for what comes from the socket, one for what TLS makes of it.
//!
//! They are borrowed within one poll and never across an await, so all connections of a shard can share them.

use std::cell::RefCell;

/// Size of each scratch buffer, in bytes: four TLS records of the largest size.
pub(crate) const SCRATCH: usize = 64 << 10;

pub(crate) struct Scratch {
    pub(crate) socket: Box<[u8]>,
    pub(crate) plain: Box<[u8]>,
}

impl Scratch {
    fn new() -> Self {
        Self { socket: vec![0; SCRATCH].into(), plain: vec![0; SCRATCH].into() }
    }
}

thread_local! {
    static OF_SHARD: RefCell<Scratch> = RefCell::new(Scratch::new());
}

pub(crate) fn with<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    OF_SHARD.with_borrow_mut(work)
}
