//! The connections of a shard, and their deadlines.
//!
//! Each connection has an [`Entry`] for as long as it lives. A task sweeps the table once in a while: connections whose
//! deadline has passed are woken to end themselves, and when the server stops all are woken to see whether they can.

use ringpost_base::{Deadline, Tick};
use slab::Slab;
use std::{cell::Cell, cell::RefCell, rc::Rc, task::Waker, time::Duration};

/// How often the table is swept; a deadline is kept to this exactness.
pub(crate) const SWEEP: Duration = Duration::from_millis(250);

struct Row {
    deadline: Cell<Deadline>,
    waker: RefCell<Option<Waker>>,
}

/// The connection table of one shard.
#[derive(Default)]
pub struct Table {
    rows: RefCell<Slab<Rc<Row>>>,
    stopping: Cell<bool>,
}

impl Table {
    /// An empty table.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Enters a connection.
    pub fn enter(self: &Rc<Self>) -> Entry {
        let row = Rc::new(Row { deadline: Cell::new(Deadline::NEVER), waker: RefCell::default() });
        let key = self.rows.borrow_mut().insert(row.clone());
        Entry { table: self.clone(), row, key }
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.rows.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// From now on connections end as soon as they are between two messages.
    pub fn stop(&self) {
        self.stopping.set(true);
        self.wake(|_| true);
    }

    /// Wakes the connections whose deadline has passed.
    pub fn sweep(&self, now: Tick) {
        self.wake(|row| row.deadline.get().passed(now));
    }

    /// Sweeps for as long as the shard lives.
    pub async fn keep_swept(self: Rc<Self>) {
        loop {
            ringpost_runtime::sleep(SWEEP).await;
            self.sweep(ringpost_runtime::tick());
        }
    }

    /// Makes every deadline pass: what has not ended by itself is cut off.
    pub fn cut_off(&self) {
        self.rows.borrow().iter().for_each(|(_, row)| row.deadline.set(Deadline(Tick::from_nanos(0))));
        self.wake(|_| true);
    }

    fn wake(&self, which: impl Fn(&Row) -> bool) {
        // Collected first: a woken task may enter or leave the table.
        let rows = self.rows.borrow();
        let wakers: Vec<Waker> =
            rows.iter().filter(|(_, row)| which(row)).filter_map(|(_, row)| row.waker.borrow_mut().take()).collect();
        drop(rows);
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A connection's place in the table; it leaves with this.
pub struct Entry {
    table: Rc<Table>,
    row: Rc<Row>,
    key: usize,
}

impl Entry {
    /// Sets the time by which something must have happened.
    pub fn set_deadline(&self, deadline: Deadline) {
        self.row.deadline.set(deadline);
    }

    pub(crate) fn expired(&self) -> bool {
        let deadline = self.row.deadline.get();
        deadline != Deadline::NEVER && deadline.passed(ringpost_runtime::tick())
    }

    pub(crate) fn stopping(&self) -> bool {
        self.table.stopping.get()
    }

    pub(crate) fn wait(&self, waker: &Waker) {
        let mut place = self.row.waker.borrow_mut();
        if !place.as_ref().is_some_and(|old| old.will_wake(waker)) {
            *place = Some(waker.clone());
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.table.rows.borrow_mut().remove(self.key);
    }
}
