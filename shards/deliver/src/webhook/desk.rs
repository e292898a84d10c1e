//! Where a shard waits for what the services thread does for it.
//!
//! One desk serves all webhooks of a shard, and lives as long as the shard: its task is the only one whose waker the services
//! thread sees. Each piece of work has a number, under which its result comes back.
//!
//! Invariants: work that was handed over gives a result, also where it panics or the services thread is gone; it is ended
//! when nobody waits for it any more.

use ringpost_runtime::local::{Promise, promise};
use ringpost_runtime::{Inbox, InboxSender, inbox, spawn_vital};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// The desk of one shard, for results of one kind.
pub(super) struct Desk<T> {
    waiting: RefCell<HashMap<u64, Promise<T>>>,
    next: Cell<u64>,
    sender: InboxSender<(u64, Option<T>)>,
}

impl<T: Send + 'static> Desk<T> {
    /// Opens it, on the shard whose it is.
    pub(super) fn open() -> Rc<Self> {
        let (sender, inbox) = inbox();
        let desk = Rc::new(Self { waiting: RefCell::default(), next: Cell::new(0), sender });
        spawn_vital(desk.clone().collect(inbox));
        desk
    }

    /// Has work done on the services thread. Nothing, if it panicked there or the thread is gone. Dropped before there is
    /// a result, it ends the work where it waits.
    pub(super) async fn ask(&self, services: &Handle, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        let number = self.next.get();
        self.next.set(number + 1);
        let (promise, answer) = promise();
        self.waiting.borrow_mut().insert(number, promise);
        let debt = Debt { number, result: None, sender: self.sender.clone() };
        let task = services.spawn(async move {
            let mut debt = debt;
            debt.result = Some(work.await);
        });
        let _asked = Asked { desk: self, number, task: task.abort_handle() };
        answer.wait().await
    }

    async fn collect(self: Rc<Self>, mut inbox: Inbox<(u64, Option<T>)>) {
        loop {
            let (number, result) = inbox.receive().await;
            let promise = self.waiting.borrow_mut().remove(&number);
            if let (Some(promise), Some(result)) = (promise, result) {
                // Whoever asked may have given up.
                let _ = promise.keep(result);
            }
        }
    }
}

/// A result that is owed to a shard: it goes there when this is dropped, however that comes about.
struct Debt<T> {
    number: u64,
    result: Option<T>,
    sender: InboxSender<(u64, Option<T>)>,
}

impl<T> Drop for Debt<T> {
    fn drop(&mut self) {
        self.sender.send((self.number, self.result.take()));
    }
}

/// Work that somebody waits for.
struct Asked<'a, T> {
    desk: &'a Desk<T>,
    number: u64,
    task: AbortHandle,
}

impl<T> Drop for Asked<'_, T> {
    fn drop(&mut self) {
        // Nothing happens to what is done already.
        self.task.abort();
        self.desk.waiting.borrow_mut().remove(&self.number);
    }
}
