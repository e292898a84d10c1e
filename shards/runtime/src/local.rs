//! Waiting between tasks of one shard: no atomics, nothing that crosses threads.

use std::{
    cell::RefCell,
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
};

struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
    sender_gone: bool,
}

/// Gives one value to whoever holds the [`Answer`].
pub struct Promise<T>(Rc<RefCell<Slot<T>>>);

/// One value to come.
pub struct Answer<T>(Rc<RefCell<Slot<T>>>);

/// A promise and its answer.
pub fn promise<T>() -> (Promise<T>, Answer<T>) {
    let slot = Rc::new(RefCell::new(Slot { value: None, waker: None, sender_gone: false }));
    (Promise(slot.clone()), Answer(slot))
}

impl<T> Promise<T> {
    /// Whether somebody still waits for it.
    pub fn is_wanted(&self) -> bool {
        Rc::strong_count(&self.0) > 1
    }

    /// Keeps the promise; gives the value back if nobody waits for it any more.
    pub fn keep(self, value: T) -> Result<(), T> {
        if Rc::strong_count(&self.0) == 1 {
            return Err(value);
        }
        self.0.borrow_mut().value = Some(value);
        // The drop below wakes.
        Ok(())
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        let waker = {
            let mut slot = self.0.borrow_mut();
            slot.sender_gone = true;
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Answer<T> {
    /// Waits for the value; nothing if the promise was dropped unkept.
    pub async fn wait(self) -> Option<T> {
        poll_fn(|cx| {
            let mut slot = self.0.borrow_mut();
            if slot.value.is_some() || slot.sender_gone {
                return Poll::Ready(slot.value.take());
            }
            slot.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// Wakes one waiting task; a ring before the wait is remembered.
#[derive(Default)]
pub struct Bell {
    state: RefCell<(bool, Option<Waker>)>,
}

impl Bell {
    /// Rings it.
    pub fn ring(&self) {
        let waker = {
            let mut state = self.state.borrow_mut();
            state.0 = true;
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits until it was rung.
    pub async fn heard(&self) {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if std::mem::take(&mut state.0) {
                return Poll::Ready(());
            }
            state.1 = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
