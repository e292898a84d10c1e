//! The thread that writes the log, and the queue to it.
//!
//! Invariants: [`Sink::push`] never blocks and takes no lock; once the sink is closed nothing comes in. At most
//! [`QUEUE_MAX`] buffers wait, so the log's memory is bounded; the writer sleeps when there is nothing to write. A reader that
//! goes away ends the writing, not the process. Every lost line is counted, once for the process and once for whoever
//! publishes the metric. The writer refuses to format, to retry what was dropped, and to write anywhere but to the output it
//! was given.

use crossbeam::queue::ArrayQueue;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread, ThreadId};
use std::time::{Duration, Instant};

/// Buffers that may wait for the writer. With up to 32 KiB each: 8 MiB, a few seconds of a busy server's log.
pub(super) const QUEUE_MAX: usize = 256;

/// How long to let an output rest that is full and was opened non-blocking.
const FULL_OUTPUT_REST: Duration = Duration::from_millis(5);

static DROPPED: AtomicU64 = AtomicU64::new(0);
static UNCLAIMED: AtomicU64 = AtomicU64::new(0);
static SAMPLED: AtomicU64 = AtomicU64::new(0);

/// Lines dropped since the process started, because standard output did not take them in time, or not at all.
pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Counts lines that the caller itself will hand to the metric.
pub(super) fn count_dropped(lines: u64) {
    DROPPED.fetch_add(lines, Ordering::Relaxed);
}

/// Counts lines that whoever asks next shall hand to the metric.
pub(super) fn count_unclaimed(lines: u64) {
    count_dropped(lines);
    leave_unclaimed(lines);
}

/// Leaves lines, counted already, to whoever asks next.
pub(super) fn leave_unclaimed(lines: u64) {
    if lines > 0 {
        UNCLAIMED.fetch_add(lines, Ordering::Relaxed);
    }
}

/// The lines left by others, once.
pub(super) fn take_unclaimed() -> u64 {
    // Asked often and by every shard: the shared line is written only when there is something.
    if UNCLAIMED.load(Ordering::Relaxed) == 0 { 0 } else { UNCLAIMED.swap(0, Ordering::Relaxed) }
}

/// Leaves lines, left out of a flood by a thread that ends, to whoever asks next.
pub(super) fn leave_sampled(lines: u64) {
    if lines > 0 {
        SAMPLED.fetch_add(lines, Ordering::Relaxed);
    }
}

/// The lines left out by threads that have ended, once.
pub(super) fn take_sampled() -> u64 {
    if SAMPLED.load(Ordering::Relaxed) == 0 { 0 } else { SAMPLED.swap(0, Ordering::Relaxed) }
}

/// Whole lines of one thread.
pub(super) struct Chunk {
    pub(super) bytes: Box<[u8]>,
    pub(super) lines: u64,
}

/// Nothing is taken any more.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// Only what one thread has to say is taken, the last.
const SEALED: usize = CLOSED >> 1;

/// Threads that are putting a chunk into the queue at the moment.
const PUSHING: usize = SEALED - 1;

/// Where threads put their chunks.
pub(super) struct Sink {
    queue: ArrayQueue<Chunk>,
    /// [`CLOSED`], [`SEALED`], and how many are [`PUSHING`]: in one word, so that nothing is put in behind the closing.
    gate: AtomicUsize,
    /// The thread that has the last word, once the sink is sealed.
    last: OnceLock<ThreadId>,
    writer: OnceLock<Thread>,
}

impl Sink {
    pub(super) fn new(chunks_max: usize) -> Self {
        Self {
            queue: ArrayQueue::new(chunks_max),
            gate: AtomicUsize::new(0),
            last: OnceLock::new(),
            writer: OnceLock::new(),
        }
    }

    /// Queues a chunk; if there is no room, or no more is taken, drops it and returns its lines.
    pub(super) fn push(&self, chunk: Chunk) -> Result<(), u64> {
        let enter = |gate: usize| {
            let is_open = gate & CLOSED == 0 && (gate & SEALED == 0 || self.has_last_word());
            is_open.then_some(gate + 1)
        };
        if self.gate.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter).is_err() {
            return Err(chunk.lines);
        }
        let pushed = self.queue.push(chunk).map_err(|chunk| chunk.lines);
        self.gate.fetch_sub(1, Ordering::Release);
        self.wake();
        pushed
    }

    fn has_last_word(&self) -> bool {
        self.last.get() == Some(&std::thread::current().id())
    }

    /// From now on takes from this thread only. What others have queued is in the queue when this returns.
    pub(super) fn seal(&self, patience: Duration) {
        self.last.get_or_init(|| std::thread::current().id());
        self.gate.fetch_or(SEALED, Ordering::AcqRel);
        let start = Instant::now();
        // They are within a few instructions of the end, unless the kernel has taken their core away.
        while self.gate.load(Ordering::Acquire) & PUSHING != 0 && start.elapsed() < patience {
            std::thread::yield_now();
        }
    }

    /// Takes no more; the writer ends once it has written what is queued.
    pub(super) fn close(&self) {
        self.gate.fetch_or(CLOSED, Ordering::AcqRel);
        self.wake();
    }

    fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    /// The next chunk; none when the sink is closed and empty. Sleeps in between.
    fn next(&self) -> Option<Chunk> {
        loop {
            // Read before the queue, so that what was queued before the closing is found. Who is still pushing wakes us.
            let gate = self.gate.load(Ordering::Acquire);
            let closed = gate & CLOSED != 0 && gate & PUSHING == 0;
            match self.queue.pop() {
                Some(chunk) => return Some(chunk),
                None if closed => return None,
                // A wake-up since the look into the queue makes this return at once.
                None => std::thread::park(),
            }
        }
    }
}

/// Where the writer writes.
pub(super) enum Output {
    /// File descriptor 1, past the standard library's line buffering and lock.
    Stdout,
    /// A test's.
    #[cfg(test)]
    Test(Box<dyn io::Write + Send>),
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout => Ok(rustix::io::write(rustix::stdio::stdout(), bytes)?),
            #[cfg(test)]
            Self::Test(output) => output.write(bytes),
        }
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(FULL_OUTPUT_REST),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Starts the writer thread. To be called before anything is pushed, so that every push wakes it.
pub(super) fn start(sink: &Arc<Sink>, mut output: Output) -> io::Result<JoinHandle<()>> {
    let source = Arc::clone(sink);
    let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
        let mut gone = false;
        while let Some(chunk) = source.next() {
            // EPIPE (the runtime ignores SIGPIPE) and the like: the reader is gone for good. Where would one say so?
            gone = gone || output.write_all(&chunk.bytes).is_err();
            if gone {
                count_unclaimed(chunk.lines);
            }
        }
    })?;
    sink.writer.get_or_init(|| thread.thread().clone());
    Ok(thread)
}
