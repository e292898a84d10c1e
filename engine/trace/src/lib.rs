//! Traces of messages: which messages have one, the ids in it, and the spans that it is made of.
//!
//! A trace is one tree for each sampled message, from SMTP to its delivery. Its id is that of the message, the id of its root
//! span and whether it is sampled follow from that; so a delivery after a restart, on another shard or by another process
//! continues the same tree, without anything being stored or carried. The ids of the other spans come from a sequence of
//! each shard ([`SpanIds`]).
//!
//! Nothing here sends anything: spans are values. What a span is called and what it says of its message is in [`name`] and
//! [`key`], once for all who make spans.
//!
//! ```
//! use ringpost_base::SpoolId;
//! use ringpost_trace::{Sampler, parse_traceparent, root_span, trace_id, traceparent};
//! let message: SpoolId = "06EHV1C6E9N9PWRPA14GWQCX7C".parse().unwrap();
//! let header = traceparent(trace_id(message), root_span(message), true);
//! assert_eq!(header, "00-0674761619c9aa6dcc594124397674ec-55ad4528b1e9276d-01");
//! assert_eq!(parse_traceparent(&header), Some((trace_id(message), root_span(message), true)));
//! assert!(Sampler::new(1.0).takes(message) && !Sampler::new(0.0).takes(message));
//! ```

mod context;
mod ids;
mod names;
mod span;

pub use context::{parse_traceparent, traceparent};
pub use ids::{Sampler, SpanId, SpanIds, TraceId, root_span, trace_id};
pub use names::{key, name};
pub use span::{Attribute, Span, SpanKind};
