//! Stacks on their way from the signal handler of a shard to the thread that counts them.
//!
//! One writer, the handler on the shard's thread, and one reader. The ring is made once and stays, so that a signal that comes
//! late finds it; whose it is at the moment says the pulse that it is begun with.

use crate::pulse::Pulse;
use crate::stack::DEPTH_MAX;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering::*};
use std::time::{Duration, Instant};

/// Stacks that the ring holds: a quarter of a second's at a thousand a second, in 256 KiB.
const ROOM: usize = 256;

/// How long the end waits for a handler that is writing.
const END_PATIENCE: Duration = Duration::from_secs(1);

static RING: OnceLock<Box<Ring>> = OnceLock::new();

struct Entry {
    depth: AtomicUsize,
    frames: [AtomicUsize; DEPTH_MAX],
}

pub(super) struct Ring {
    /// Whose stacks are taken; null while none are.
    of: AtomicPtr<Pulse>,
    /// Handlers at work: one, unless a signal of an earlier profile is late.
    writing: AtomicUsize,
    written: AtomicUsize,
    read: AtomicUsize,
    lost: AtomicU64,
    entries: Box<[Entry]>,
}

impl Ring {
    pub(super) fn of_the_process() -> &'static Self {
        RING.get_or_init(|| Box::new(Self::new()))
    }

    /// The same from a signal handler, which can't make it.
    pub(super) fn of_the_process_if_made() -> Option<&'static Self> {
        RING.get().map(|ring| &**ring)
    }

    fn new() -> Self {
        let entry = |_| Entry { depth: AtomicUsize::new(0), frames: [const { AtomicUsize::new(0) }; DEPTH_MAX] };
        Self {
            of: AtomicPtr::new(ptr::null_mut()),
            writing: AtomicUsize::new(0),
            written: AtomicUsize::new(0),
            read: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            entries: (0..ROOM).map(entry).collect(),
        }
    }

    /// From now on the stacks of this pulse's thread are taken. Nothing if a handler of an earlier profile has not come to its
    /// end yet.
    pub(super) fn begin(&self, pulse: &Pulse) -> Option<()> {
        if self.writing.load(SeqCst) != 0 {
            return None;
        }
        self.read.store(self.written.load(Acquire), Release);
        self.lost.store(0, Relaxed);
        self.of.store(ptr::from_ref(pulse).cast_mut(), SeqCst);
        Some(())
    }

    /// No more stacks are taken, and none is being written, or else for longer than anybody should wait.
    pub(super) fn end(&self) {
        self.of.store(ptr::null_mut(), SeqCst);
        let until = Instant::now() + END_PATIENCE;
        while self.writing.load(SeqCst) != 0 && Instant::now() < until {
            std::thread::yield_now();
        }
    }

    /// Samples that found no room, or that the timer could not send one by one.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Called in the handler: `walk` calls what it is given with each address, until that says false.
    pub(super) fn push(&self, pulse: &Pulse, missed: i32, walk: impl FnOnce(&mut dyn FnMut(usize) -> bool)) {
        self.writing.fetch_add(1, SeqCst);
        if ptr::eq(self.of.load(SeqCst), pulse) {
            let missed = u64::try_from(missed).unwrap_or_default();
            let room = self.written.load(Relaxed).wrapping_sub(self.read.load(Acquire)) < ROOM;
            self.lost.store(self.lost.load(Relaxed) + missed + u64::from(!room), Relaxed);
            if room {
                self.write(walk);
            }
        }
        self.writing.fetch_sub(1, SeqCst);
    }

    fn write(&self, walk: impl FnOnce(&mut dyn FnMut(usize) -> bool)) {
        let written = self.written.load(Relaxed);
        let entry = &self.entries[written % ROOM];
        let mut depth = 0;
        walk(&mut |address| {
            entry.frames[depth].store(address, Relaxed);
            depth += 1;
            depth < DEPTH_MAX
        });
        entry.depth.store(depth, Relaxed);
        self.written.store(written.wrapping_add(1), Release);
    }

    /// The oldest stack, the innermost address first.
    pub(super) fn pop(&self) -> Option<Vec<usize>> {
        let read = self.read.load(Relaxed);
        if read == self.written.load(Acquire) {
            return None;
        }
        let entry = &self.entries[read % ROOM];
        let frames = &entry.frames[..entry.depth.load(Relaxed).min(DEPTH_MAX)];
        let stack = frames.iter().map(|frame| frame.load(Relaxed)).collect();
        self.read.store(read.wrapping_add(1), Release);
        Some(stack)
    }
}
