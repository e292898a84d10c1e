//! Values from other threads to a task of a shard.
//!
//! The waker of the task that receives crosses threads, so that task must live as long as its executor: see the
//! crate's rules. The queue is unbounded; what bounds it is that every value answers a request of the shard.

use atomic_waker::AtomicWaker;
use crossbeam::queue::SegQueue;
use std::{future::poll_fn, sync::Arc, task::Poll};

struct Shared<T> {
    queue: SegQueue<T>,
    waker: AtomicWaker,
}

/// The other threads' end.
pub struct InboxSender<T>(Arc<Shared<T>>);

impl<T> Clone for InboxSender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> InboxSender<T> {
    /// Hands a value over and wakes the shard.
    pub fn send(&self, value: T) {
        self.0.queue.push(value);
        self.0.waker.wake();
    }
}

/// The shard's end, for one task that never ends.
pub struct Inbox<T>(Arc<Shared<T>>);

impl<T> Inbox<T> {
    /// The next value.
    pub async fn receive(&mut self) -> T {
        poll_fn(|cx| {
            if let Some(value) = self.0.queue.pop() {
                return Poll::Ready(value);
            }
            self.0.waker.register(cx.waker());
            // A value that came between the look and the registration would otherwise wait for the next one.
            self.0.queue.pop().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// A pair of ends.
pub fn inbox<T>() -> (InboxSender<T>, Inbox<T>) {
    let shared = Arc::new(Shared { queue: SegQueue::new(), waker: AtomicWaker::new() });
    (InboxSender(shared.clone()), Inbox(shared))
}
