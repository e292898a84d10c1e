//! The thread that writes the log, and the queue to it.
//!
//! Invariants: [`Sink::push`] never blocks and takes no lock; at most [`QUEUE_MAX`] buffers wait, so the log's memory is
//! bounded; the writer sleeps when there is nothing to write. A reader that goes away ends the writing, not the
//! process. Every lost line is counted, once for the process and once for whoever publishes the metric. The writer
//! refuses to format, to retry what was dropped, and to write anywhere but to the output it was given.

use crossbeam::queue::ArrayQueue;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

/// Buffers that may wait for the writer. With up to 32 KiB each: 8 MiB, a few seconds of a busy server's log.
pub(super) const QUEUE_MAX: usize = 256;

/// How long to let an output rest that is full and was opened non-blocking.
const FULL_OUTPUT_REST: Duration = Duration::from_millis(5);

static DROPPED: AtomicU64 = AtomicU64::new(0);
static UNCLAIMED: AtomicU64 = AtomicU64::new(0);

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

/// Whole lines of one thread.
pub(super) struct Chunk {
    pub(super) bytes: Box<[u8]>,
    pub(super) lines: u64,
}

/// Where threads put their chunks.
pub(super) struct Sink {
    queue: ArrayQueue<Chunk>,
    closed: AtomicBool,
    writer: std::sync::OnceLock<Thread>,
}

impl Sink {
    pub(super) fn new(chunks_max: usize) -> Self {
        Self { queue: ArrayQueue::new(chunks_max), closed: AtomicBool::new(false), writer: std::sync::OnceLock::new() }
    }

    /// Queues a chunk; if there is no room, drops it and returns its lines.
    pub(super) fn push(&self, chunk: Chunk) -> Result<(), u64> {
        if self.closed.load(Ordering::Acquire) {
            return Err(chunk.lines);
        }
        self.queue.push(chunk).map_err(|chunk| chunk.lines)?;
        self.wake();
        Ok(())
    }

    /// Takes no more; the writer ends once it has written what is queued.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
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
            // Read before the queue, so that what was queued before the closing is found.
            let closed = self.closed.load(Ordering::Acquire);
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
