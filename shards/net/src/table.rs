//! The connections of a shard: their deadlines, their addresses, and what ends many of them at once.
//!
//! Each connection has an [`Entry`] for as long as it lives. A task sweeps the table once in a while: connections whose
//! deadline has passed are woken to end themselves. So are all when the server stops, and those whose address is
//! evicted.
//!
//! Deadlines stand in a vector of their own, by the number of the row: a sweep over 50,000 connections reads 400 KB in one
//! run, and touches the row of a connection only if its time is up.

use crate::gate::Gate;
use ringpost_base::{Deadline, Tick};
use slab::Slab;
use std::net::IpAddr;
use std::{cell::Cell, cell::RefCell, rc::Rc, task::Waker, time::Duration};

/// How often the table is swept; a deadline is kept to this exactness.
pub(crate) const SWEEP: Duration = Duration::from_millis(250);

struct Row {
    waker: Option<Waker>,
    /// Whom the connection is from, as limits and bans see it; nothing while that is still to be presented.
    address: Option<IpAddr>,
    evicted: bool,
}

#[derive(Default)]
struct Rows {
    rows: Slab<Row>,
    /// By the row's number; `NEVER` where there is no row.
    deadlines: Vec<Deadline>,
}

impl Rows {
    fn enter(&mut self, address: IpAddr) -> usize {
        let key = self.rows.insert(Row { waker: None, address: Some(address), evicted: false });
        if key == self.deadlines.len() {
            self.deadlines.push(Deadline::NEVER);
        }
        key
    }

    fn leave(&mut self, key: usize) {
        self.rows.remove(key);
        self.deadlines[key] = Deadline::NEVER;
    }

    fn due(&mut self, now: Tick) -> Vec<Waker> {
        let due = self.deadlines.iter().enumerate().filter(|(_, deadline)| deadline.passed(now));
        due.filter_map(|(key, _)| self.rows.get_mut(key)?.waker.take()).collect()
    }

    fn pass_all(&mut self) {
        self.rows.iter().for_each(|(key, _)| self.deadlines[key] = Deadline(Tick::from_nanos(0)));
    }
}

/// The connection table of one shard.
#[derive(Default)]
pub struct Table {
    rows: RefCell<Rows>,
    stopping: Cell<bool>,
    gate: Rc<Gate>,
}

impl Table {
    /// An empty table.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Enters a connection.
    pub(crate) fn enter(self: &Rc<Self>, address: IpAddr) -> Entry {
        Entry { table: self.clone(), key: self.rows.borrow_mut().enter(address) }
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.rows.borrow().rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many TLS handshakes wait for their turn to compute.
    pub fn handshakes_waiting(&self) -> usize {
        self.gate.waiting()
    }

    /// From now on connections end as soon as they are between two messages.
    pub fn stop(&self) {
        self.stopping.set(true);
        self.wake_all();
    }

    /// Ends the connections whose address matches, as soon as they wait for their peer; gives how many. The address is the
    /// presented one, and a connection whose address is still to be presented matches nothing.
    pub fn evict(&self, matches: impl Fn(IpAddr) -> bool) -> usize {
        let mut wakers = Vec::new();
        let mut evicted = 0;
        for (_, row) in &mut self.rows.borrow_mut().rows {
            if !row.evicted && row.address.is_some_and(&matches) {
                row.evicted = true;
                evicted += 1;
                wakers.extend(row.waker.take());
            }
        }
        wakers.into_iter().for_each(Waker::wake);
        evicted
    }

    /// Wakes the connections whose deadline has passed.
    pub fn sweep(&self, now: Tick) {
        // Collected first: a woken task may enter or leave the table.
        let wakers = self.rows.borrow_mut().due(now);
        wakers.into_iter().for_each(Waker::wake);
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
        self.rows.borrow_mut().pass_all();
        self.wake_all();
    }

    fn wake_all(&self) {
        let wakers: Vec<Waker> =
            self.rows.borrow_mut().rows.iter_mut().filter_map(|(_, row)| row.waker.take()).collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// A connection's place in the table; it leaves with this.
pub(crate) struct Entry {
    table: Rc<Table>,
    key: usize,
}

impl Entry {
    /// Sets the time by which something must have happened.
    pub(crate) fn set_deadline(&self, deadline: Deadline) {
        self.table.rows.borrow_mut().deadlines[self.key] = deadline;
    }

    /// Sets a deadline that comes no later than the one that is set.
    pub(crate) fn shorten_deadline(&self, latest: Deadline) {
        let deadline = &mut self.table.rows.borrow_mut().deadlines[self.key];
        *deadline = latest.min(*deadline);
    }

    /// Whom the connection is from; nothing until that is presented.
    pub(crate) fn set_address(&self, address: Option<IpAddr>) {
        if let Some(row) = self.table.rows.borrow_mut().rows.get_mut(self.key) {
            row.address = address;
        }
    }

    pub(crate) fn expired(&self) -> bool {
        let deadline = self.table.rows.borrow().deadlines[self.key];
        deadline != Deadline::NEVER && deadline.passed(ringpost_runtime::tick())
    }

    pub(crate) fn evicted(&self) -> bool {
        self.table.rows.borrow().rows.get(self.key).is_some_and(|row| row.evicted)
    }

    pub(crate) fn stopping(&self) -> bool {
        self.table.stopping.get()
    }

    /// Where the shard's handshakes take turns.
    pub(crate) fn gate(&self) -> Rc<Gate> {
        self.table.gate.clone()
    }

    pub(crate) fn wait(&self, waker: &Waker) {
        let mut table = self.table.rows.borrow_mut();
        let Some(row) = table.rows.get_mut(self.key) else { return };
        if !row.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            row.waker = Some(waker.clone());
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.table.rows.borrow_mut().leave(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A table of waiting connections from addresses.
    fn table(addresses: &[&str]) -> (Rc<Table>, Vec<(Entry, Arc<Woken>)>) {
        let table = Table::new();
        let enter = |address: &&str| {
            let entry = table.enter(address.parse().expect("address"));
            let woken = Arc::new(Woken::default());
            entry.wait(&Waker::from(woken.clone()));
            (entry, woken)
        };
        let entries = addresses.iter().map(enter).collect();
        (table, entries)
    }

    fn woken(entries: &[(Entry, Arc<Woken>)]) -> Vec<usize> {
        entries.iter().map(|(_, woken)| woken.0.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn a_sweep_wakes_whose_time_is_up_and_only_once() {
        let (table, entries) = table(&["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        entries[0].0.set_deadline(Deadline(Tick::from_nanos(10)));
        entries[1].0.set_deadline(Deadline(Tick::from_nanos(20)));
        for (now, expected) in [(10, [0, 0, 0]), (11, [1, 0, 0]), (30, [1, 1, 0]), (u64::MAX, [1, 1, 0])] {
            table.sweep(Tick::from_nanos(now));
            assert_eq!(woken(&entries), expected, "at {now}");
        }
    }

    #[test]
    fn eviction_goes_by_the_presented_address_and_spares_the_proxy() {
        let (table, entries) = table(&["192.0.2.1", "10.0.0.1", "10.0.0.1"]);
        entries[1].0.set_address(Some("192.0.2.1".parse().expect("address")));
        entries[2].0.set_address(None);
        let ban = |address: IpAddr| address.to_string() == "192.0.2.1";
        assert_eq!(table.evict(ban), 2);
        assert_eq!(woken(&entries), [1, 1, 0]);
        assert_eq!(table.evict(|address| address.to_string() == "10.0.0.1"), 0, "behind a proxy, or nameless yet");
        assert_eq!(entries.iter().map(|(entry, _)| entry.evicted()).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(table.evict(ban), 0, "nobody is evicted twice");
    }

    #[test]
    fn rows_are_used_again_without_what_was_in_them() {
        let (table, mut entries) = table(&["192.0.2.1", "192.0.2.2"]);
        entries[0].0.set_deadline(Deadline(Tick::from_nanos(1)));
        table.evict(|_| true);
        entries.clear();
        assert!(table.is_empty());
        let entry = table.enter("192.0.2.9".parse().expect("address"));
        assert!(!entry.evicted() && !entry.expired());
        assert_eq!(table.rows.borrow().deadlines.len(), 2, "no more deadlines than there ever were connections");
    }

    #[test]
    fn cut_off_passes_every_deadline() {
        let (table, entries) = table(&["192.0.2.1", "192.0.2.2"]);
        table.cut_off();
        assert!(entries.iter().all(|(entry, _)| entry.expired()));
        assert_eq!(woken(&entries), [1, 1]);
    }
}
