//! Signs of life of one shard's thread.
//!
//! The shard says with each heartbeat when the next is due, in one store. The watchdog, the crash handler, the profiler and
//! a scrape read it from other threads. The thread is known by its number while it lives, so that it can be asked for its
//! stack and its CPU time read.
//!
//! Invariants: the shard writes, others read, and nobody waits for anybody. What a thread that has ended left behind is
//! never taken for a sign of life.

use crate::stack::Slot;
use ringpost_base::{ShardId, Tick};
use std::cell::Cell;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Signs of life of one shard's thread; shared by the shard, the watchdog, the crash handler, the profiler.
pub struct Pulse {
    shard: ShardId,
    /// The thread's number in the kernel; 0 before it has begun and after it has ended.
    thread: AtomicI32,
    /// The clock of the CPU time it takes.
    clock: AtomicI32,
    /// When the next heartbeat is due, in nanoseconds of the monotonic clock; 0 while none is expected.
    due: AtomicU64,
    /// Written by the watchdog.
    stalled: AtomicBool,
    /// Written by the watchdog.
    stalls: AtomicU64,
    /// Where the thread leaves its stack when it is asked for it.
    pub(crate) slot: Slot,
}

impl Pulse {
    /// Of a shard that has not been started yet.
    pub fn new(shard: ShardId) -> Arc<Self> {
        Arc::new(Self {
            shard,
            thread: AtomicI32::new(0),
            clock: AtomicI32::new(0),
            due: AtomicU64::new(0),
            stalled: AtomicBool::new(false),
            stalls: AtomicU64::new(0),
            slot: Slot::new(),
        })
    }

    /// Which shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// How long the heartbeat is overdue; nothing before the shard's first beat and after its end.
    pub fn silent_for(&self) -> Option<Duration> {
        let due = self.due.load(Relaxed);
        (due != 0).then(|| crate::tick().since(Tick::from_nanos(due)))
    }

    /// CPU time of the thread so far; nothing while there is no thread.
    pub fn cpu_time(&self) -> Option<Duration> {
        let clock = self.thread().and(Some(self.clock.load(Relaxed)))?;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes the one timespec it is given; a clock whose thread has ended is refused.
        let refused = unsafe { libc::clock_gettime(clock, &mut time) };
        (refused == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    /// How often the watchdog has found the shard stalled.
    pub fn stalls(&self) -> u64 {
        self.stalls.load(Relaxed)
    }

    /// Whether the watchdog finds the shard stalled now.
    pub fn is_stalled(&self) -> bool {
        self.stalled.load(Relaxed)
    }

    /// The watchdog's finding.
    pub(crate) fn set_stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Relaxed);
        if stalled {
            self.stalls.fetch_add(1, Relaxed);
        }
    }

    /// The thread's number, while it lives.
    pub(crate) fn thread(&self) -> Option<libc::pid_t> {
        Some(self.thread.load(Relaxed)).filter(|thread| *thread != 0)
    }

    /// The clock of the thread's CPU time.
    pub(crate) fn clock(&self) -> libc::clockid_t {
        self.clock.load(Relaxed)
    }

    /// The shard is alive, and will say so again within `next`.
    pub(crate) fn beat(&self, next: Duration) {
        let next = u64::try_from(next.as_nanos()).unwrap_or(u64::MAX);
        self.due.store(crate::tick().nanos().saturating_add(next), Relaxed);
    }

    /// No more beats are to be expected.
    pub(crate) fn rest(&self) {
        self.due.store(0, Relaxed);
    }
}

thread_local! {
    /// The pulse of the shard that this thread is. Without a destructor and made at compile time, so that a signal handler
    /// may read it.
    static OWN: Cell<*const Pulse> = const { Cell::new(ptr::null()) };
}

/// The pulse of the shard on whose thread this is asked, also from a signal handler.
pub(crate) fn own<T>(with: impl FnOnce(&Pulse) -> T) -> Option<T> {
    let pulse = OWN.try_with(Cell::get).ok()?;
    // SAFETY: the pointer is set by `Bearer::new`, which holds the pulse until after it has taken the pointer back, on the
    // same thread.
    unsafe { pulse.as_ref() }.map(with)
}

/// Ties a pulse to the thread that makes it, until it is dropped there.
pub(crate) struct Bearer(Arc<Pulse>);

impl Bearer {
    /// This thread is the shard.
    pub(crate) fn new(pulse: Arc<Pulse>) -> Self {
        let mut clock = 0;
        // SAFETY: both calls concern the thread that makes them; the second writes the one word it is given.
        let thread = unsafe {
            let refused = libc::pthread_getcpuclockid(libc::pthread_self(), &mut clock);
            debug_assert_eq!(refused, 0, "a thread that runs has a clock");
            libc::gettid()
        };
        pulse.clock.store(clock, Relaxed);
        OWN.set(Arc::as_ptr(&pulse));
        pulse.thread.store(thread, Relaxed);
        Self(pulse)
    }
}

impl Drop for Bearer {
    fn drop(&mut self) {
        self.0.thread.store(0, Relaxed);
        self.0.rest();
        // It fails where the thread's storage is gone already, and then nothing can be read from it either.
        let _ = OWN.try_with(|own| own.set(ptr::null()));
    }
}
