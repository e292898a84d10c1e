//! The board as control threads see it: publish, and ask who has acknowledged.
//!
//! Invariants: the state word changes by compare-and-swap only; every change wakes every shard that has not departed;
//! after a [`Desk`] is closed no thread holds or wakes its waker. It refuses to block, except in
//! [`Board::wait_acknowledged`] and for the few instructions of another thread's wake when a seat is given up.

use crate::seat::Seat;
use crate::state::{Phase, State};
use crate::sync::{AtomicBool, AtomicU64, WakerSlot, yield_now};
use crossbeam::utils::CachePadded;
use ringpost_base::ShardId;
use std::sync::{
    Arc,
    atomic::Ordering::{AcqRel, Acquire, Release},
};
use std::time::{Duration, Instant};

/// How often a waiting control thread looks again. Phases change a few times in a process's life; a millisecond is
/// nothing to them, and the shards are spared a second wake-up path.
const ACKNOWLEDGE_POLL: Duration = Duration::from_millis(1);

/// Set in [`Desk::wakes`] once the shard takes no more wakes.
const CLOSED: u64 = 1;
/// One wake under way, in [`Desk::wakes`].
const ONE_WAKE: u64 = 2;

/// What the board keeps for one shard, on cache lines of its own.
pub(crate) struct Desk {
    /// The waker of the shard's control task.
    pub(crate) waker: WakerSlot,
    /// Wakes under way in steps of [`ONE_WAKE`], and [`CLOSED`]. One word, so that a wake is either counted before the
    /// closing or sees it.
    wakes: AtomicU64,
    /// The last state acknowledged. Written by the shard only.
    pub(crate) acknowledged: AtomicU64,
    taken: AtomicBool,
    departed: AtomicBool,
}

impl Desk {
    fn new() -> Self {
        Self {
            waker: WakerSlot::new(),
            wakes: AtomicU64::new(0),
            acknowledged: AtomicU64::new(State::FIRST.pack()),
            taken: AtomicBool::new(false),
            departed: AtomicBool::new(false),
        }
    }

    fn wake(&self) {
        if self.wakes.fetch_add(ONE_WAKE, AcqRel) & CLOSED == 0 {
            self.waker.wake();
        }
        self.wakes.fetch_sub(ONE_WAKE, AcqRel);
    }

    /// Lets no wake begin any more and waits for those under way, so that no other thread touches the waker after this.
    pub(crate) fn close(&self) {
        self.wakes.fetch_or(CLOSED, AcqRel);
        while self.wakes.load(Acquire) & !CLOSED != 0 {
            yield_now();
        }
    }
}

/// Phase and config epoch for all shards, and their acknowledgements. Shared in an [`Arc`] by the control threads and
/// the seats; all methods can be called from any thread.
pub struct Board {
    state: CachePadded<AtomicU64>,
    desks: Box<[CachePadded<Desk>]>,
}

impl Board {
    /// A board for shards 0 to `shards` - 1, at [`State::FIRST`]: starting, config epoch 0.
    pub fn new(shards: usize) -> Arc<Self> {
        let desks = (0..shards).map(|_| CachePadded::new(Desk::new())).collect();
        Arc::new(Self { state: CachePadded::new(AtomicU64::new(State::FIRST.pack())), desks })
    }

    /// The ids of all shards, those that departed included.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.desks.len()).map(|index| ShardId(index as u16))
    }

    /// The seat of a shard: once, to be carried to the shard's thread. None the second time, or if there is no such
    /// shard.
    pub fn seat(self: &Arc<Self>, shard: ShardId) -> Option<Seat> {
        let desk = self.desks.get(shard.index())?;
        if desk.taken.swap(true, AcqRel) { None } else { Some(Seat::new(Arc::clone(self), shard)) }
    }

    /// The state now.
    pub fn state(&self) -> State {
        State::unpack(self.state.load(Acquire))
    }

    /// Goes to `phase`, wakes every shard, and returns the state that is now in force. A phase before draining or
    /// stopping is ignored once the board is there; the state returned tells.
    pub fn publish_phase(&self, phase: Phase) -> State {
        self.publish(|state| state.with_phase(phase))
    }

    /// Says that there is a newer config: epoch + 1. Wakes every shard and returns the state now in force.
    pub fn publish_epoch(&self) -> State {
        self.publish(State::with_next_epoch)
    }

    fn publish(&self, change: impl Fn(State) -> State) -> State {
        let mut word = self.state.load(Acquire);
        loop {
            let next = change(State::unpack(word));
            if next.pack() == word {
                return next;
            }
            match self.state.compare_exchange(word, next.pack(), AcqRel, Acquire) {
                Ok(_) => {
                    self.desks.iter().for_each(|desk| desk.wake());
                    return next;
                }
                Err(newer) => word = newer,
            }
        }
    }

    /// The last state that the shard said it acted on; [`State::FIRST`] before it said anything. For a shard that has
    /// departed, its last word.
    ///
    /// # Panics
    /// If the board has no such shard.
    pub fn acknowledged(&self, shard: ShardId) -> State {
        State::unpack(self.desk(shard).acknowledged.load(Acquire))
    }

    /// Whether the shard has ended.
    ///
    /// # Panics
    /// If the board has no such shard.
    pub fn has_departed(&self, shard: ShardId) -> bool {
        self.desk(shard).departed.load(Acquire)
    }

    /// Whether every live shard has acted on `state` or on something newer: a later state, or the one now in force.
    pub fn all_acknowledged(&self, state: State) -> bool {
        self.shards().all(|shard| self.is_settled(shard, state))
    }

    /// Waits until every live shard has acknowledged `state`, and returns those that had not within `timeout`, lowest
    /// first; empty when all have. Blocks the calling thread: for control threads, never on a shard.
    pub fn wait_acknowledged(&self, state: State, timeout: Duration) -> Vec<ShardId> {
        let start = Instant::now();
        loop {
            let late: Vec<ShardId> = self.shards().filter(|shard| !self.is_settled(*shard, state)).collect();
            if late.is_empty() || start.elapsed() >= timeout {
                return late;
            }
            std::thread::sleep(ACKNOWLEDGE_POLL);
        }
    }

    /// Says that a shard has ended: it counts as having acknowledged everything, and is woken no more. Can't be undone.
    ///
    /// A waker that the shard left behind is leaked on purpose: its executor is gone, and dropping a task of a gone
    /// executor from another thread is not safe with every executor. A shard that drops its [`Seat`] leaves none.
    ///
    /// # Panics
    /// If the board has no such shard.
    pub fn depart(&self, shard: ShardId) {
        let desk = self.desk(shard);
        desk.close();
        std::mem::forget(desk.waker.take());
        desk.departed.store(true, Release);
    }

    fn is_settled(&self, shard: ShardId, asked: State) -> bool {
        // Departed is read after the acknowledgement could be: either order is right, since both only ever grow.
        let acknowledged = self.acknowledged(shard);
        acknowledged.covers(asked) || acknowledged == self.state() || self.has_departed(shard)
    }

    pub(crate) fn desk(&self, shard: ShardId) -> &Desk {
        &self.desks[shard.index()]
    }
}
