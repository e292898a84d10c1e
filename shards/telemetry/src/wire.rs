//! The encoding: those messages of `opentelemetry.proto` that we send or read, and of their fields those that we use.
//!
//! Written by hand, since the crate that has all of them brings a whole tracing library; tests decode what is made here by
//! the types of that crate.

use prost::Message;
use ringpost_trace::{Attribute, Span, SpanKind};
use std::time::Duration;

/// `opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest`
#[derive(Clone, PartialEq, Message)]
struct ExportTraceServiceRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

/// `opentelemetry.proto.collector.trace.v1.ExportTraceServiceResponse`
#[derive(Clone, PartialEq, Message)]
struct ExportTraceServiceResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<ExportTracePartialSuccess>,
}

/// `opentelemetry.proto.collector.trace.v1.ExportTracePartialSuccess`
#[derive(Clone, PartialEq, Message)]
struct ExportTracePartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

/// `opentelemetry.proto.trace.v1.ResourceSpans`
#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

/// `opentelemetry.proto.resource.v1.Resource`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

/// `opentelemetry.proto.trace.v1.ScopeSpans`
#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<InstrumentationScope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<WireSpan>,
}

/// `opentelemetry.proto.common.v1.InstrumentationScope`
#[derive(Clone, PartialEq, Message)]
struct InstrumentationScope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

/// `opentelemetry.proto.trace.v1.Span`
#[derive(Clone, PartialEq, Message)]
struct WireSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

/// `opentelemetry.proto.trace.v1.Status`
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

/// `opentelemetry.proto.common.v1.KeyValue`
#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

/// `opentelemetry.proto.common.v1.AnyValue`
#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 2, 3")]
    value: Option<Value>,
}

/// What an `AnyValue` is.
#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Flag(bool),
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// `STATUS_CODE_ERROR`
const STATUS_ERROR: i32 = 2;

/// Sampled, in the lowest 8 bits, as in W3C Trace Context; and that the parent is known not to be in another service
/// (`SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`).
const FLAGS: u32 = 0x101;

/// Who sends.
pub(crate) fn resource(service: &str, version: &str, hostname: &str) -> Resource {
    let pairs = [("service.name", service), ("service.version", version), ("host.name", hostname)];
    let given = pairs.into_iter().filter(|(_, value)| !value.is_empty());
    Resource { attributes: given.map(|(key, value)| pair(key, Value::Text(value.to_owned()))).collect() }
}

/// The body of a request with these spans, without the attributes of these keys.
pub(crate) fn request(resource: &Resource, spans: &[Span], leave_out: &[&str]) -> Vec<u8> {
    let scope = InstrumentationScope { name: "ringpost".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let spans = spans.iter().map(|span| wire_span(span, leave_out)).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
    let resource_spans = vec![ResourceSpans { resource: Some(resource.clone()), scope_spans }];
    ExportTraceServiceRequest { resource_spans }.encode_to_vec()
}

/// How many spans an answer says were rejected, and why. None, if it is no such answer.
pub(crate) fn rejected(answer: &[u8]) -> (u64, String) {
    let partial = ExportTraceServiceResponse::decode(answer).ok().and_then(|answer| answer.partial_success);
    let partial = partial.unwrap_or_default();
    (u64::try_from(partial.rejected_spans).unwrap_or(0), partial.error_message)
}

fn wire_span(span: &Span, leave_out: &[&str]) -> WireSpan {
    let start = Duration::from_micros(span.start.unix_micros());
    let nanos = |since: Duration| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
    let told = span.attributes.iter().filter(|(key, _)| !leave_out.contains(key));
    WireSpan {
        trace_id: span.trace.0.to_vec(),
        span_id: span.id.0.to_vec(),
        parent_span_id: span.parent.map(|id| id.0.to_vec()).unwrap_or_default(),
        name: span.name.to_owned(),
        kind: match span.kind {
            SpanKind::Internal => 1,
            SpanKind::Server => 2,
            SpanKind::Client => 3,
        },
        start_time_unix_nano: nanos(start),
        end_time_unix_nano: nanos(start.saturating_add(span.took)),
        attributes: told.map(|(key, value)| pair(key, value.into())).collect(),
        status: span.failed.then_some(Status { code: STATUS_ERROR }),
        flags: FLAGS,
    }
}

impl From<&Attribute> for Value {
    fn from(attribute: &Attribute) -> Self {
        match attribute {
            Attribute::Text(text) => Self::Text(text.to_string()),
            Attribute::Number(number) => Self::Number(*number),
            Attribute::Flag(flag) => Self::Flag(*flag),
        }
    }
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::collector::trace::v1 as collector;
    use opentelemetry_proto::tonic::common::v1::{KeyValue as TheirPair, any_value::Value as Theirs};
    use opentelemetry_proto::tonic::trace::v1::{Span as TheirSpan, span::SpanKind as TheirKind, status::StatusCode};
    use ringpost_base::Timestamp;
    use ringpost_trace::{SpanId, TraceId};

    fn span(kind: SpanKind) -> Span {
        Span {
            trace: TraceId([1; 16]),
            id: SpanId([2; 8]),
            parent: Some(SpanId([3; 8])),
            name: "delivery.attempt",
            kind,
            start: Timestamp::from_unix_micros(1_700_000_000_000_001),
            took: Duration::from_nanos(1_500),
            attributes: vec![("a", "text".into()), ("b", 7_u64.into()), ("c", true.into()), ("secret", "x".into())],
            failed: true,
        }
    }

    /// Decoded by types that were made from the specification.
    fn sent(spans: &[Span]) -> (Vec<TheirPair>, Vec<TheirSpan>) {
        let bytes = request(&resource("ringpost", "0.1.0", ""), spans, &["secret"]);
        let decoded = collector::ExportTraceServiceRequest::decode(&bytes[..]).expect("is such a request");
        let [resource] = &decoded.resource_spans[..] else { panic!("{decoded:?}") };
        let [scope] = &resource.scope_spans[..] else { panic!("{decoded:?}") };
        assert_eq!(scope.scope.as_ref().map(|scope| scope.name.as_str()), Some("ringpost"));
        (resource.resource.clone().expect("a resource").attributes, scope.spans.clone())
    }

    fn told(pairs: &[TheirPair]) -> Vec<(String, Option<Theirs>)> {
        pairs.iter().map(|pair| (pair.key.clone(), pair.value.clone().and_then(|value| value.value))).collect()
    }

    #[test]
    fn others_read_what_is_written() {
        let root = Span { parent: None, failed: false, attributes: Vec::new(), ..span(SpanKind::Server) };
        let (resource, spans) = sent(&[span(SpanKind::Client), root, span(SpanKind::Internal)]);
        let text = |text: &str| Some(Theirs::StringValue(text.to_owned()));
        assert_eq!(
            told(&resource),
            [("service.name".to_owned(), text("ringpost")), ("service.version".to_owned(), text("0.1.0"))]
        );
        let kinds: Vec<TheirKind> = spans.iter().map(TheirSpan::kind).collect();
        assert_eq!(kinds, [TheirKind::Client, TheirKind::Server, TheirKind::Internal]);
        let first = &spans[0];
        assert_eq!((&first.trace_id[..], &first.span_id[..]), (&[1; 16][..], &[2; 8][..]));
        assert_eq!((&first.parent_span_id[..], first.name.as_str()), (&[3; 8][..], "delivery.attempt"));
        assert_eq!(first.start_time_unix_nano, 1_700_000_000_000_001_000);
        assert_eq!(first.end_time_unix_nano, 1_700_000_000_000_002_500);
        assert_eq!(first.flags & 0xff, 1);
        assert_eq!(first.status.as_ref().map(|status| status.code()), Some(StatusCode::Error));
        let want = [("a", text("text")), ("b", Some(Theirs::IntValue(7))), ("c", Some(Theirs::BoolValue(true)))];
        assert_eq!(told(&first.attributes), want.map(|(key, value)| (key.to_owned(), value)));
        assert!(spans[1].parent_span_id.is_empty() && spans[1].status.is_none(), "{:?}", spans[1]);
    }

    #[test]
    fn rejections_of_others_are_read() {
        let answer = collector::ExportTraceServiceResponse {
            partial_success: Some(collector::ExportTracePartialSuccess {
                rejected_spans: 5,
                error_message: "too old".to_owned(),
            }),
        };
        assert_eq!(rejected(&answer.encode_to_vec()), (5, "too old".to_owned()));
        assert_eq!(rejected(&collector::ExportTraceServiceResponse::default().encode_to_vec()), (0, String::new()));
        assert_eq!(rejected(b"\xff\xff"), (0, String::new()));
    }
}
