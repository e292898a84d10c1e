//! A thread's part of the log: its buffer, its clock, its name.
//!
//! Invariants: only whole lines leave the buffer; a thread that ends, also by a panic, hands over what it has left; the
//! buffer is handed over when it exceeds [`BUFFER_MAX`], and after each line if the thread is no shard, since nobody
//! flushes for it. Only a shard leaves lines out of a flood; they are told of by the first flush in a later second, or at
//! the end of the thread. Nothing here blocks. An event logged while another is being formatted on the same thread (by a
//! `Debug` that logs) is refused and counted as dropped.

use super::clean::{Cleaner, Scratch};
use super::clock::Clock;
use super::control::{LogControl, Settings};
use super::flood::Sites;
use super::writer::{self, Chunk, Sink};
use super::{Format, json, text};
use ringpost_base::ShardId;
use std::cell::RefCell;
use std::sync::Arc;
use tracing::Event;

/// Bytes of lines that a shard gathers before it hands them over without being asked.
const BUFFER_MAX: usize = 32 * 1024;

thread_local! {
    static LOCAL: RefCell<Local> = const { RefCell::new(Local::new()) };
}

struct Local {
    buffer: Vec<u8>,
    /// Whole lines in the buffer.
    lines: u64,
    /// Where the last whole line ends. What is beyond it was being formatted when a `Debug` panicked.
    whole: usize,
    /// Where this buffer goes: the log that the thread last wrote to.
    sink: Option<Arc<Sink>>,
    /// How that log wants its lines, and which of its settings these are.
    settings: Option<Arc<Settings>>,
    generation: u64,
    sites: Sites,
    scratch: Scratch,
    clock: Clock,
    shard: Option<ShardId>,
    /// The name in the text form; empty until the first line.
    speaker: String,
    /// Lines dropped and not yet taken by [`take_dropped`].
    dropped: u64,
}

/// Says which shard this thread is: its lines carry the number, and gather until [`flush`].
pub fn set_shard(shard: ShardId) {
    with(|local| {
        local.hand_over();
        local.shard = Some(shard);
        local.speaker = format!("shard {shard}");
    });
}

/// Hands this thread's lines to the writer. For the heartbeat of a shard; costs next to nothing when there are none.
pub fn flush() {
    with(|local| {
        local.tell_if_due();
        local.hand_over();
    });
}

/// The same at the end of the log: what was left out in this very second is told too.
pub(super) fn flush_all() {
    with(|local| {
        local.tell();
        local.hand_over();
    });
}

/// Lines dropped since the last call: those of this thread, and those of threads that don't ask. For the shard's metric;
/// over all callers the sum is [`dropped_lines`](super::dropped_lines).
pub fn take_dropped() -> u64 {
    with(|local| std::mem::take(&mut local.dropped)).unwrap_or_default() + writer::take_unclaimed()
}

/// Lines left out of floods since the last call: those of this thread, and those of threads that have ended. For the
/// shard's metric.
pub fn take_sampled() -> u64 {
    with(|local| local.sites.take_sampled()).unwrap_or_default() + writer::take_sampled()
}

/// Formats an event into the thread's buffer.
pub(super) fn record(control: &LogControl, sink: &Arc<Sink>, event: &Event<'_>) {
    let done = with(|local| local.record(control, sink, event));
    if done.is_none() {
        // Within another event, or when the thread's storage is gone already.
        writer::count_unclaimed(1);
    }
}

/// Runs `f` on the thread's part; not if that is in use already, or gone.
fn with<T>(f: impl FnOnce(&mut Local) -> T) -> Option<T> {
    LOCAL.try_with(|local| local.try_borrow_mut().ok().map(|mut local| f(&mut local))).ok().flatten()
}

impl Local {
    const fn new() -> Self {
        Self {
            buffer: Vec::new(),
            lines: 0,
            whole: 0,
            sink: None,
            settings: None,
            generation: 0,
            sites: Sites::new(),
            scratch: Scratch::new(),
            clock: Clock::new(),
            shard: None,
            speaker: String::new(),
            dropped: 0,
        }
    }

    fn record(&mut self, control: &LogControl, sink: &Arc<Sink>, event: &Event<'_>) {
        if !self.sink.as_ref().is_some_and(|mine| Arc::ptr_eq(mine, sink)) {
            self.tell();
            self.hand_over();
            self.sink = Some(Arc::clone(sink));
        }
        if self.generation != control.generation() {
            let (generation, settings) = control.settings();
            (self.generation, self.settings) = (generation, Some(settings));
        }
        self.clock.now();
        self.write(event);
        if self.shard.is_none() || self.whole > BUFFER_MAX {
            self.hand_over();
        }
    }

    fn write(&mut self, event: &Event<'_>) {
        let Self { buffer, settings, sites, scratch, clock, speaker, .. } = self;
        let Some(settings) = settings else { return };
        // What clients bring about is told of by shards; the lines of other threads are few, and each is worth reading.
        let limit = settings.flood.filter(|_| self.shard.is_some());
        let Some(site) = sites.admit(event, limit, clock.second()) else { return };
        let cleaner = Cleaner { kinds: &site.kinds, rules: settings.redact, scratch };
        buffer.truncate(self.whole);
        match settings.format {
            Format::Json => {
                let head = json::Head { time: clock.last(), shard: self.shard.map(|shard| shard.0) };
                json::line(buffer, &head, cleaner, event);
            }
            Format::Text => {
                let head = text::Head { time: clock.last(), speaker: name(speaker), colour: settings.colour };
                text::line(buffer, &head, cleaner, event);
            }
        }
        self.whole = buffer.len();
        self.lines += 1;
    }

    fn tell_if_due(&mut self) {
        let Self { sites, clock, .. } = self;
        let now = || {
            clock.now();
            clock.second()
        };
        if sites.is_due(now) {
            self.tell();
        }
    }

    /// Writes what was left out of floods.
    fn tell(&mut self) {
        let Self { buffer, lines, whole, settings, sites, scratch, clock, speaker, shard, .. } = self;
        let Some(settings) = settings else { return };
        buffer.truncate(*whole);
        sites.take_notices(|notice| {
            let cleaner = Cleaner { kinds: &[], rules: settings.redact, scratch };
            match settings.format {
                Format::Json => {
                    let head = json::Head { time: clock.last(), shard: shard.map(|shard| shard.0) };
                    json::notice(buffer, &head, cleaner, &notice);
                }
                Format::Text => {
                    let head = text::Head { time: clock.last(), speaker: name(speaker), colour: settings.colour };
                    text::notice(buffer, &head, cleaner, &notice);
                }
            }
            *whole = buffer.len();
            *lines += 1;
        });
    }

    fn hand_over(&mut self) {
        if self.whole == 0 {
            return;
        }
        if let Some(sink) = &self.sink {
            // A copy of just the lines; the buffer keeps its capacity. One allocation for many lines.
            let chunk = Chunk { bytes: self.buffer[..self.whole].into(), lines: self.lines };
            if let Err(dropped) = sink.push(chunk) {
                // The metric of a thread that is no shard is nobody's to publish.
                match self.shard {
                    Some(_) => {
                        self.dropped += dropped;
                        writer::count_dropped(dropped);
                    }
                    None => writer::count_unclaimed(dropped),
                }
            }
        }
        self.buffer.clear();
        self.whole = 0;
        self.lines = 0;
    }
}

/// The name of the thread that speaks, found out once.
fn name(speaker: &mut String) -> &str {
    if speaker.is_empty() {
        std::thread::current().name().unwrap_or("-").clone_into(speaker);
    }
    speaker
}

impl Drop for Local {
    fn drop(&mut self) {
        self.tell();
        self.hand_over();
        writer::leave_sampled(self.sites.take_sampled());
        writer::leave_unclaimed(self.dropped);
    }
}
