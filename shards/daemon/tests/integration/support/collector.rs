//! A collector of traces: takes OTLP over HTTP and keeps the spans, decoded by types that were made from the specification.

use super::http::{Http, Request};
use super::wait_until;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;
use ringpost_base::SpoolId;
use ringpost_trace::{root_span, trace_id};

/// A running collector.
pub(crate) struct Collector {
    http: Http,
}

/// A span that came.
#[derive(Clone, Debug)]
pub(crate) struct Came(Span);

impl Collector {
    pub(crate) fn start() -> Self {
        Self { http: Http::start(|_, _| (200, String::new())) }
    }

    /// The line of the config that names it.
    pub(crate) fn endpoint(&self) -> String {
        format!("endpoint = \"http://{}\"", self.http.address)
    }

    /// All spans so far, in the order in which they came.
    pub(crate) fn spans(&self) -> Vec<Came> {
        self.http.requests().iter().flat_map(spans).collect()
    }

    /// The spans of a message.
    pub(crate) fn of(&self, message: &str) -> Vec<Came> {
        let trace = trace_id(id(message)).0;
        self.spans().into_iter().filter(|span| span.0.trace_id == trace).collect()
    }

    /// Waits until a message has so many spans of a name; gives all of its spans.
    #[track_caller]
    pub(crate) fn wait_for(&self, message: &str, name: &str, count: usize) -> Vec<Came> {
        let named = |spans: &[Came]| spans.iter().filter(|span| span.name() == name).count();
        wait_until(&format!("{count} spans {name}"), || named(&self.of(message)) >= count);
        let spans = self.of(message);
        assert_eq!(named(&spans), count, "{spans:#?}");
        spans
    }
}

fn id(message: &str) -> SpoolId {
    message.parse().expect("the id of a message")
}

/// The spans of a request, all of which must be of a ringpost.
fn spans(request: &Request) -> Vec<Came> {
    assert_eq!(request.line, "POST /v1/traces HTTP/1.1");
    assert_eq!(request.field("content-type"), "application/x-protobuf");
    let decoded = ExportTraceServiceRequest::decode(&request.body[..]).expect("is such a request");
    let mut spans = Vec::new();
    for resource in decoded.resource_spans {
        let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
        let service = attributes.iter().find(|pair| pair.key == "service.name").and_then(|pair| pair.value.clone());
        assert_eq!(service.and_then(|value| value.value), Some(Value::StringValue("ringpost".to_owned())));
        spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans).map(Came));
    }
    spans
}

/// The one span of a name.
#[track_caller]
pub(crate) fn one<'a>(spans: &'a [Came], name: &str) -> &'a Came {
    let [span] = &spans.iter().filter(|span| span.name() == name).collect::<Vec<_>>()[..] else {
        panic!("not one {name}: {spans:#?}")
    };
    span
}

impl Came {
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// An attribute as text; empty if it is not there.
    pub(crate) fn attribute(&self, key: &str) -> String {
        let value = self.0.attributes.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.clone());
        match value.and_then(|value| value.value) {
            Some(Value::StringValue(text)) => text,
            Some(Value::IntValue(number)) => number.to_string(),
            Some(Value::BoolValue(flag)) => flag.to_string(),
            _ => String::new(),
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.0.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
    }

    /// Whether it is the root of a message's trace.
    pub(crate) fn is_root_of(&self, message: &str) -> bool {
        self.0.parent_span_id.is_empty() && self.0.span_id == root_span(id(message)).0
    }

    /// Whether it hangs on that root.
    pub(crate) fn is_child_of(&self, message: &str) -> bool {
        self.0.parent_span_id == root_span(id(message)).0
    }

    /// The field that tells a server of this span.
    pub(crate) fn traceparent(&self) -> String {
        let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        format!("00-{}-{}-01", hexadecimal(&self.0.trace_id), hexadecimal(&self.0.span_id))
    }

    /// When it began and ended, in nanoseconds since 1970.
    pub(crate) fn times(&self) -> (u64, u64) {
        (self.0.start_time_unix_nano, self.0.end_time_unix_nano)
    }
}
