//! What a shard makes spans with.

use crate::exporter::BATCH_SPANS_MAX;
use crate::lane::Lane;
use crate::telemetry::Shared;
use ringpost_base::{Entropy, SpoolId};
use ringpost_trace::{Sampler, Span, SpanId, SpanIds, trace_id, traceparent};
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The tracer of one shard, for all its parts.
pub struct Tracer {
    ids: RefCell<SpanIds>,
    /// The share as it was last seen, as bits, and what it comes to.
    sampler: Cell<(u64, Sampler)>,
    out: Option<(Arc<Shared>, Arc<Lane>)>,
}

impl Tracer {
    /// A tracer that samples nothing, for where there is no telemetry.
    pub fn off() -> Self {
        Self::with(Entropy([0; 16]), None)
    }

    /// A tracer whose spans go into a lane.
    pub(crate) fn new(entropy: Entropy, shared: Arc<Shared>, lane: Arc<Lane>) -> Self {
        Self::with(entropy, Some((shared, lane)))
    }

    fn with(entropy: Entropy, out: Option<(Arc<Shared>, Arc<Lane>)>) -> Self {
        let nothing = (0.0_f64.to_bits(), Sampler::new(0.0));
        Self { ids: RefCell::new(SpanIds::new(entropy)), sampler: Cell::new(nothing), out }
    }

    /// Whether there is a collector.
    pub fn is_on(&self) -> bool {
        self.out.as_ref().is_some_and(|(shared, _)| shared.is_on.load(Ordering::Relaxed))
    }

    /// Whether spans of this message are wanted.
    pub fn samples(&self, id: SpoolId) -> bool {
        let Some((shared, _)) = &self.out else { return false };
        // 0 while there is no collector.
        let share = shared.share.load(Ordering::Relaxed);
        if share != self.sampler.get().0 {
            self.sampler.set((share, Sampler::new(f64::from_bits(share))));
        }
        self.sampler.get().1.takes(id)
    }

    /// The id of a span that is not the root of its trace.
    pub fn child(&self) -> SpanId {
        self.ids.borrow_mut().next_id()
    }

    /// Has a span sent. It never waits: what finds no room is dropped and counted.
    pub fn record(&self, span: Span) {
        let Some((shared, lane)) = &self.out else { return };
        // Once for each batch, so that a flood of spans does not become one of wake-ups.
        if lane.add(span).is_some_and(|waiting| waiting.is_multiple_of(BATCH_SPANS_MAX)) {
            shared.full.notify_one();
        }
    }

    /// The trace context of a message for another server, as the field `traceparent` has it, where `span` is what asks that
    /// server. Nothing where nobody traces.
    pub fn traceparent(&self, id: SpoolId, span: SpanId) -> Option<String> {
        self.is_on().then(|| traceparent(trace_id(id), span, self.samples(id)))
    }
}
