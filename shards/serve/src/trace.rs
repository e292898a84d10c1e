//! The trace of a sampled message: the root span from MAIL to the final reply, and the steps in between.
//!
//! A message that is not sampled has none of this, and costs the question whether it is.

use crate::dialogue::Dialogue;
use crate::mx::Mx;
use ringpost_base::{Now, SpoolId, Tick, Timestamp};
use ringpost_runtime::tick;
use ringpost_telemetry::Tracer;
use ringpost_trace::{Attribute, Span, SpanKind, key, name, root_span, trace_id};
use std::rc::Rc;

/// What is said of a step.
pub(crate) type Attributes = Vec<(&'static str, Attribute)>;

/// The trace of one message. Its root span is recorded with its end, which is when the message is answered or forgotten.
pub(crate) struct MessageTrace {
    tracer: Rc<Tracer>,
    id: SpoolId,
    /// One moment by both clocks, the base of the times of all spans.
    base: Now,
    /// When MAIL came.
    since: Tick,
    /// Of the root.
    attributes: Attributes,
    /// The code of the final reply; nothing while there was none.
    reply: Option<u16>,
}

impl MessageTrace {
    /// Begins the trace of a message, if it is sampled. MAIL came at `since`, and the message was made at `made`.
    pub(crate) fn begin(mx: &Mx, id: SpoolId, made: Now, since: Tick) -> Option<Box<Self>> {
        mx.tracer.samples(id).then(|| {
            let tracer = mx.tracer.clone();
            Box::new(Self { tracer, id, base: made, since, attributes: Vec::with_capacity(8), reply: None })
        })
    }

    /// Whose it is.
    pub(crate) fn message(&self) -> SpoolId {
        self.id
    }

    /// Says something of the whole.
    pub(crate) fn tell(&mut self, key: &'static str, what: impl Into<Attribute>) {
        self.attributes.push((key, what.into()));
    }

    /// The final reply to the message.
    pub(crate) fn answered(&mut self, code: u16) {
        self.reply = Some(code);
    }

    /// A step that began at `since` is over.
    pub(crate) fn step(&self, name: &'static str, since: Tick, failed: bool, attributes: Attributes) {
        self.tracer.record(Span {
            trace: trace_id(self.id),
            id: self.tracer.child(),
            parent: Some(root_span(self.id)),
            name,
            kind: SpanKind::Internal,
            start: self.wall(since),
            took: tick().since(since),
            attributes,
            failed,
        });
    }

    /// A moment by the wall clock.
    fn wall(&self, at: Tick) -> Timestamp {
        let Now { wall, tick } = self.base;
        if at >= tick {
            return wall.after(at.since(tick));
        }
        let before = tick.since(at).as_micros();
        Timestamp::from_unix_micros(wall.unix_micros().saturating_sub(u64::try_from(before).unwrap_or(u64::MAX)))
    }
}

impl Drop for MessageTrace {
    fn drop(&mut self) {
        let mut attributes = std::mem::take(&mut self.attributes);
        attributes.push(match self.reply {
            Some(code) => (key::REPLY, u64::from(code).into()),
            None => (key::OUTCOME, "abandoned".into()),
        });
        self.tracer.record(Span {
            trace: trace_id(self.id),
            id: root_span(self.id),
            parent: None,
            name: name::MESSAGE,
            kind: SpanKind::Server,
            start: self.wall(self.since),
            took: tick().since(self.since),
            attributes,
            failed: self.reply.is_none_or(|code| code >= 400),
        });
    }
}

impl Dialogue<'_> {
    /// The trace of the message under way, if it has one.
    pub(crate) fn trace(&self) -> Option<&MessageTrace> {
        self.message.as_ref()?.trace.as_deref()
    }
}
