//! The log: one line an event on standard output, behind the `tracing` facade.
//!
//! Every crate logs with `tracing::info!(session = %id, bytes = n, "message")` and knows nothing of this module. A line is
//! written straight into a buffer of the thread, as JSON or as text for a person; a thread of its own, `log`, writes
//! the buffers to standard output. The stock formatter allocates and locks per field, several times the cost that a line
//! per message may have on a shard.
//!
//! Invariants:
//! - Logging never blocks a shard and never panics: what the writer can't take is dropped, whole lines at a time, and
//!   counted. [`dropped_lines`] counts for the process; [`take_dropped`] hands each loss out once, for the metric.
//! - Lines of one thread come out in order. Lines of different shards mix as their buffers are handed over.
//! - One event is one line of at most about [`VALUE_MAX`] bytes a value: no value can forge a line, end a JSON string or
//!   send a terminal an escape sequence.
//! - No thread but the writer touches standard output, so shards share no lock; the queue of full buffers is touched
//!   when one is handed over (20 ms, or 32 KiB), not per event.
//!
//! - Secrets never show; addresses show as the rules of redaction let them, in fields and in free text.
//! - A flood of one kind of line is cut off and the number of what is left out told; lines of accepted messages and
//!   errors are never among it.
//!
//! What it refuses: spans (only events are recorded; ids travel as fields), files and rotation (who runs the server
//! does that with its standard output).
//!
//! ```
//! use ringpost_runtime::log;
//! let guard = log::install(log::LogOptions::plain(log::Format::Json, log::Level::INFO)).unwrap();
//! tracing::info!(port = 2525, "listening");
//! guard.finish();
//! ```

mod clean;
mod clock;
mod control;
mod escape;
mod fields;
mod flood;
mod json;
mod local;
mod redact;
mod text;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use clock::Clock;
pub use control::{LogControl, LogLevels};
pub use local::{flush, set_shard, take_dropped, take_sampled};
pub use tracing::Level;
pub use writer::dropped_lines;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::{Interest, Subscriber};
use tracing::{Event, Metadata, span};

/// Bytes of one value that a line shows; the rest is cut off and "…" put there. Longer than any SMTP line, so what is
/// cut is either hostile or a mistake.
pub const VALUE_MAX: usize = 4096;

/// How long [`LogGuard::finish`] waits for the reader of standard output before it gives the rest up.
const FINISH_PATIENCE: Duration = Duration::from_secs(1);

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line, for machines.
    Json,
    /// Time, level, shard, message and fields, for a person at a terminal.
    Text,
}

/// Which addresses a line does not show as they are. Secrets it never shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redaction {
    /// Addresses of mail: the domain stays, the part before it becomes a short hash, the same for an address as long as
    /// the process runs and another one afterwards.
    pub mail: bool,
    /// Addresses of hosts: the network stays, /24 of IPv4 and /48 of IPv6. Of a client's name the last two parts stay.
    pub client: bool,
}

/// How the process logs, from the config's `[log]`.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The form of a line.
    pub format: Format,
    /// The least severe level that is logged, of modules that have none of their own.
    pub level: Level,
    /// Whether the text form uses terminal colours. JSON never does.
    pub colour: bool,
    /// The least severe level of single modules, as in [`LogLevels::modules`].
    pub modules: Vec<(String, Level)>,
    /// Which addresses are not shown.
    pub redact: Redaction,
    /// Lines a second of one place in the code that a shard writes; what is above is left out. None: all of them.
    pub flood: Option<u32>,
}

impl LogOptions {
    /// This form and level, without colour, levels of modules, redaction and limit.
    pub fn plain(format: Format, level: Level) -> Self {
        Self { format, level, colour: false, modules: Vec::new(), redact: Redaction::default(), flood: None }
    }
}

/// Installs the log as the process's `tracing` subscriber and starts its writer thread.
///
/// # Errors
/// If the thread can't be started, or if the process has a subscriber already.
pub fn install(options: LogOptions) -> io::Result<LogGuard> {
    let sink = Arc::new(writer::Sink::new(writer::QUEUE_MAX));
    let thread = writer::start(&sink, writer::Output::Stdout)?;
    let control = LogControl::new(options);
    let guard = LogGuard { sink: Arc::clone(&sink), thread: Some(thread), control: control.clone() };
    tracing::subscriber::set_global_default(Log { control, sink }).map_err(io::Error::other)?;
    Ok(guard)
}

/// Keeps the log going. Dropped (or [`finish`](Self::finish)ed) after every other thread has ended, it writes out what
/// is left.
#[must_use = "the log ends when the guard is dropped"]
pub struct LogGuard {
    sink: Arc<writer::Sink>,
    thread: Option<JoinHandle<()>>,
    control: LogControl,
}

impl LogGuard {
    /// What changes the log while it runs.
    pub fn control(&self) -> LogControl {
        self.control.clone()
    }

    /// Writes out this thread's lines and those handed over by others, and ends the writer thread. Gives up after one
    /// second if standard output doesn't take them. Lines logged afterwards are dropped.
    pub fn finish(self) {}

    /// The same, with the lines of `last` as the very last of the log: those that other threads hand over from now on,
    /// as one may that ends late, are dropped and counted.
    pub fn finish_with(self, last: impl FnOnce()) {
        local::flush_all();
        self.sink.seal(FINISH_PATIENCE);
        last();
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        local::flush_all();
        let Some(thread) = self.thread.take() else { return };
        self.sink.close();
        let start = Instant::now();
        while !thread.is_finished() {
            if start.elapsed() > FINISH_PATIENCE {
                // Blocked in write(2) by a reader that doesn't read. The process is ending; it must not hang on its log.
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // The writer doesn't panic; if it did, its message went to standard error.
        let _ = thread.join();
    }
}

/// The subscriber: decides by level, and formats.
struct Log {
    control: LogControl,
    sink: Arc<writer::Sink>,
}

impl Log {
    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        !metadata.is_span() && self.control.wants(metadata.target(), *metadata.level())
    }
}

impl Subscriber for Log {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.wants(metadata) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.control.most()))
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.wants(metadata)
    }

    fn event(&self, event: &Event<'_>) {
        local::record(&self.control, &self.sink, event);
    }

    // Spans are not wanted, so none of these is called with a span of ours.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
