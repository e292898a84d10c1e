//! The spans of deliveries: one for each attempt, one for each report.
//!
//! They hang on the root of their message's trace, whose id follows from the message's; so an attempt after a restart is in the
//! same tree as the session that the message came in.

use crate::parcel::Done;
use crate::runner::Runner;
use ringpost_base::{Now, SpoolId};
use ringpost_queue::{Outcome, Reason};
use ringpost_runtime::{now, tick};
use ringpost_trace::{Attribute, Span, SpanId, SpanKind, key, name, root_span, trace_id};
use std::rc::Rc;

/// An attempt whose span is still open.
pub(crate) struct Traced {
    id: SpoolId,
    span: SpanId,
    since: Now,
    destination: Rc<str>,
    number: u32,
}

/// A report that was made about a message.
pub(crate) struct Reported {
    /// The message.
    pub(crate) about: SpoolId,
    /// The message of the report.
    pub(crate) id: SpoolId,
    /// Its kind.
    pub(crate) kind: &'static str,
    /// How many recipients it is about.
    pub(crate) recipients: usize,
    /// When it was begun.
    pub(crate) since: Now,
}

impl Runner {
    /// Opens the span of an attempt; nothing if its message is not sampled.
    pub(crate) fn trace(&self, id: SpoolId, destination: &Rc<str>, number: u32) -> Option<Traced> {
        let sampled = self.tracer.samples(id);
        sampled.then(|| Traced {
            id,
            span: self.tracer.child(),
            since: now(),
            destination: destination.clone(),
            number,
        })
    }

    /// The trace context that another server is told, where it can be told one.
    pub(crate) fn context(&self, id: SpoolId, traced: Option<&Traced>) -> Option<String> {
        if !self.tracer.is_on() {
            return None;
        }
        self.tracer.traceparent(id, traced.map_or_else(|| self.tracer.child(), |traced| traced.span))
    }

    /// Ends the span of an attempt, with what came of it.
    pub(crate) fn traced(&self, traced: Option<Traced>, kind: SpanKind, done: &Done) {
        let Some(Traced { id, span, since, destination, number }) = traced else { return };
        let (word, reason) = in_a_word(&done.outcomes);
        let mut attributes: Vec<(&'static str, Attribute)> = vec![
            (key::MESSAGE_ID, id.to_string().into()),
            (key::DESTINATION, (&*destination).into()),
            (key::ATTEMPT, u64::from(number).into()),
            (key::RECIPIENTS, (done.outcomes.len() as u64).into()),
            (key::OUTCOME, word.into()),
        ];
        attributes.extend(reason.map(|reason| (key::REASON, reason.into())));
        attributes.extend(done.remote.as_deref().map(|remote| (key::REMOTE, remote.into())));
        self.tracer.record(Span {
            trace: trace_id(id),
            id: span,
            parent: Some(root_span(id)),
            name: name::ATTEMPT,
            kind,
            start: since.wall,
            took: tick().since(since.tick),
            attributes,
            failed: matches!(word, DEFERRED | FAILED),
        });
    }

    /// A report is durable: a step in the trace of the message that it is about, and the root of its own.
    pub(crate) fn trace_report(&self, report: &Reported) {
        let Reported { about, id, kind, recipients, since } = *report;
        let span = |trace: SpoolId, span, parent, other: (&'static str, SpoolId)| Span {
            trace: trace_id(trace),
            id: span,
            parent,
            name: name::REPORT,
            kind: SpanKind::Internal,
            start: since.wall,
            took: tick().since(since.tick),
            attributes: vec![
                (key::MESSAGE_ID, trace.to_string().into()),
                (key::REPORT_KIND, kind.into()),
                (key::RECIPIENTS, (recipients as u64).into()),
                (other.0, other.1.to_string().into()),
            ],
            failed: false,
        };
        if self.tracer.samples(about) {
            let child = self.tracer.child();
            self.tracer.record(span(about, child, Some(root_span(about)), (key::REPORT_ID, id)));
        }
        if self.tracer.samples(id) {
            self.tracer.record(span(id, root_span(id), None, (key::REPORT_ABOUT, about)));
        }
    }
}

const DELIVERED: &str = "delivered";
const DEFERRED: &str = "deferred";
const FAILED: &str = "failed";
const MOVED: &str = "moved";

/// How bad an outcome is, its word, and why it came to that.
fn rank(outcome: &Outcome) -> (u8, &'static str, Option<&Reason>) {
    match outcome {
        Outcome::Failed(reason) => (3, FAILED, Some(reason)),
        Outcome::Deferred(reason) => (2, DEFERRED, Some(reason)),
        Outcome::Delivered(_) => (1, DELIVERED, None),
        Outcome::Moved { .. } => (0, MOVED, None),
    }
}

/// What became of an attempt: the worst of its outcomes, and the reason of that one. Nobody who was served: put off.
fn in_a_word(outcomes: &[(u32, Outcome)]) -> (&'static str, Option<String>) {
    let worst = outcomes.iter().map(|(_, outcome)| rank(outcome)).max_by_key(|(rank, ..)| *rank);
    worst.map_or((DEFERRED, None), |(_, word, reason)| (word, reason.map(ToString::to_string)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_queue::{How, Status};

    #[track_caller]
    fn check(outcomes: &[Outcome], word: &str, reason: Option<&str>) {
        let outcomes: Vec<(u32, Outcome)> = (0..).zip(outcomes.iter().cloned()).collect();
        let (got, why) = in_a_word(&outcomes);
        assert_eq!((got, why.as_deref()), (word, reason));
    }

    #[test]
    fn an_attempt_is_called_by_the_worst_of_its_outcomes() {
        let deferred = Outcome::Deferred(Reason::ours(Status(4, 3, 0), "later"));
        let failed = Outcome::Failed(Reason::ours(Status(5, 1, 1), "never"));
        let delivered = Outcome::Delivered(How::Final);
        let moved = Outcome::Moved { destination: "b".into(), local: true };
        check(&[], "deferred", None);
        check(std::slice::from_ref(&moved), "moved", None);
        check(&[moved.clone(), delivered.clone()], "delivered", None);
        check(&[delivered.clone(), deferred.clone(), moved], "deferred", Some("4.3.0 later"));
        check(&[failed, delivered, deferred], "failed", Some("5.1.1 never"));
    }
}
