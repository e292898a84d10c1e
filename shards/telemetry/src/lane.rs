//! The lane that the spans of one shard wait in for the exporter.
//!
//! Each of its atomics is written by its shard and by the exporter, and by no other shard.

use crossbeam::queue::SegQueue;
use ringpost_trace::Span;
use std::sync::atomic::{AtomicU64, Ordering};

/// Spans that wait on one shard, at most, some 2 MB of them. A shard that samples every message has taken a thousand when this
/// is full, which is what it takes in a fraction of a second; a longer pause of the collector costs spans.
pub const LANE_SPANS_MAX: usize = 8192;

/// Spans of one shard.
#[derive(Default)]
pub(crate) struct Lane {
    /// Its segments are freed as they are emptied: a server that traces nothing keeps no memory for it.
    waiting: SegQueue<Span>,
    dropped: AtomicU64,
}

impl Lane {
    /// Adds a span, and says how many wait now. Nothing, if there is no room: then it is dropped and counted.
    pub(crate) fn add(&self, span: Span) -> Option<usize> {
        let waiting = self.waiting.len();
        if waiting >= LANE_SPANS_MAX {
            // Only its shard writes it.
            self.dropped.store(self.dropped.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            return None;
        }
        self.waiting.push(span);
        Some(waiting + 1)
    }

    /// The span that has waited the longest.
    pub(crate) fn take(&self) -> Option<Span> {
        self.waiting.pop()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Spans that found no room.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
