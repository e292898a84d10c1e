//! The atomics of the crate: those of the standard library, or loom's when a model runs.
//!
//! The two `AtomicWaker`s differ in a few names; [`WakerSlot`] is what both can do. It refuses nothing and adds no
//! invariant of its own.

#[cfg(loom)]
pub(crate) use loom::{
    sync::atomic::{AtomicBool, AtomicU64},
    thread::yield_now,
};
#[cfg(not(loom))]
pub(crate) use std::{
    sync::atomic::{AtomicBool, AtomicU64},
    thread::yield_now,
};

use std::task::Waker;

#[cfg(loom)]
type Inner = loom::future::AtomicWaker;
#[cfg(not(loom))]
type Inner = atomic_waker::AtomicWaker;

/// A place for one waker, filled by one task and woken from any thread.
pub(crate) struct WakerSlot(Inner);

impl WakerSlot {
    pub(crate) fn new() -> Self {
        Self(Inner::new())
    }

    pub(crate) fn register(&self, waker: &Waker) {
        #[cfg(loom)]
        self.0.register_by_ref(waker);
        #[cfg(not(loom))]
        self.0.register(waker);
    }

    pub(crate) fn wake(&self) {
        self.0.wake();
    }

    pub(crate) fn take(&self) -> Option<Waker> {
        #[cfg(loom)]
        return self.0.take_waker();
        #[cfg(not(loom))]
        self.0.take()
    }
}
