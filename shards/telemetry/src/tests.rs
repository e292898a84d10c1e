//! The exporter against a collector on loopback.

use crate::{LANE_SPANS_MAX, Options, Telemetry, Tracer};
use hyper::header::{HeaderName, HeaderValue};
use opentelemetry_proto::tonic::collector::trace::v1 as otlp;
use prost::Message;
use ringpost_base::{Entropy, SpoolId, Timestamp};
use ringpost_runtime::Services;
use ringpost_trace::{Span, SpanKind, key, name, root_span, trace_id};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long what has to happen may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request as a collector gets it.
#[derive(Clone)]
struct Received {
    head: String,
    body: Vec<u8>,
}

impl Received {
    /// The numbers of its spans, by their attribute.
    fn numbers(&self) -> Vec<i64> {
        use opentelemetry_proto::tonic::common::v1::any_value::Value;
        let request = otlp::ExportTraceServiceRequest::decode(&self.body[..]).expect("is such a request");
        let spans = request.resource_spans.into_iter().flat_map(|all| all.scope_spans).flat_map(|all| all.spans);
        let number = |value: Option<Value>| match value {
            Some(Value::IntValue(number)) => Some(number),
            _ => None,
        };
        let sizes = spans.filter_map(|span| span.attributes.into_iter().find(|pair| pair.key == key::SIZE));
        sizes.filter_map(|pair| number(pair.value.and_then(|value| value.value))).collect()
    }
}

/// What a collector answers: status, header fields, body; by the number of the request, from 1.
type Answers = dyn Fn(usize) -> (u16, &'static str, Vec<u8>) + Send + Sync;

/// A collector that keeps what it gets.
struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Collector {
    fn start(answers: impl Fn(usize) -> (u16, &'static str, Vec<u8>) + Send + Sync + 'static) -> Self {
        Self::start_with(None, answers)
    }

    /// With TLS, if it has something to show.
    fn start_with(
        tls: Option<Arc<ServerConfig>>,
        answers: impl Fn(usize) -> (u16, &'static str, Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("is bound");
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let (kept, answers): (_, Arc<Answers>) = (received.clone(), Arc::new(answers));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, answers, tls) = (kept.clone(), answers.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    // A client that goes away in the middle is one that does not believe us.
                    None => drop(converse(stream, &kept, &*answers)),
                    Some(tls) => {
                        let session = ServerConnection::new(tls).expect("the config is sound");
                        drop(converse(StreamOwned::new(session, stream), &kept, &*answers));
                    }
                });
            }
        });
        Self { address, received }
    }

    fn obliging() -> Self {
        Self::start(|_| (200, "", Vec::new()))
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().expect("nobody panics with it").clone()
    }

    fn numbers(&self) -> Vec<i64> {
        self.received().iter().flat_map(Received::numbers).collect()
    }
}

fn converse(stream: impl Read + Write, kept: &Mutex<Vec<Received>>, answers: &Answers) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().expect("a number");
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let number = {
            let mut all = kept.lock().expect("nobody panics with it");
            all.push(Received { head, body });
            all.len()
        };
        let (status, fields, body) = answers(number);
        let stream = reader.get_mut();
        write!(stream, "HTTP/1.1 {status} X\r\n{fields}Content-Length: {}\r\n\r\n", body.len())?;
        stream.write_all(&body)?;
        stream.flush()?;
    }
}

#[track_caller]
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn options(endpoint: &str) -> Options {
    Options { endpoint: Some(endpoint.to_owned()), shown: endpoint.to_owned(), sample: 1.0, ..Options::off() }
}

fn message() -> SpoolId {
    "06EHV1C6E9N9PWRPA14GWQCX7C".parse().expect("an id")
}

/// A span that can be told from others by a number.
fn record(tracer: &Tracer, number: u64) {
    let id = message();
    tracer.record(Span {
        trace: trace_id(id),
        id: tracer.child(),
        parent: Some(root_span(id)),
        name: name::BODY,
        kind: SpanKind::Internal,
        start: Timestamp::from_unix_micros(1_700_000_000_000_000),
        took: Duration::from_millis(1),
        attributes: vec![(key::SIZE, number.into()), (key::FROM, "a@example.org".into())],
        failed: false,
    });
}

/// Telemetry with a services thread of its own, and tracers of two shards.
fn with(options: Options, test: impl FnOnce(&Telemetry, [&Tracer; 2])) {
    let services = Services::start().expect("starts");
    let telemetry = Telemetry::start(&services.handle(), options).expect("the endpoint is one");
    let tracers = [1, 2].map(|shard| telemetry.tracer(Entropy([shard; 16])));
    test(&telemetry, [&tracers[0], &tracers[1]]);
    services.stop();
}

#[track_caller]
fn same(numbers: Vec<i64>, wanted: std::ops::Range<i64>) {
    assert_eq!(numbers.len(), wanted.clone().count(), "none is lost or sent twice");
    assert_eq!(numbers.into_iter().collect::<BTreeSet<_>>(), wanted.collect::<BTreeSet<_>>());
}

#[test]
fn all_spans_of_all_shards_come_once_in_batches_that_are_bounded() {
    let collector = Collector::obliging();
    with(options(&format!("{}/", collector.endpoint())), |telemetry, tracers| {
        (0..2000).for_each(|number| record(tracers[number % 2], number as u64));
        wait_until("all are sent", || telemetry.readings().0 == 2000);
        assert_eq!(telemetry.readings().1, 0);
    });
    same(collector.numbers(), 0..2000);
    assert!(collector.received().iter().all(|request| request.numbers().len() <= 512));
    for request in collector.received() {
        assert!(request.head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{}", request.head);
        assert!(request.head.contains("content-type: application/x-protobuf\r\n"), "{}", request.head);
    }
}

#[test]
fn what_a_collector_takes_later_is_sent_again_as_it_was() {
    let statuses = [503, 429, 502, 504, 200];
    let collector = Collector::start(move |number| (statuses[(number - 1).min(4)], "Retry-After: 0\r\n", Vec::new()));
    with(options(&collector.endpoint()), |telemetry, [tracer, _]| {
        record(tracer, 7);
        wait_until("it is taken", || telemetry.readings() == (1, 0));
    });
    let received = collector.received();
    assert_eq!(received.len(), 5);
    assert!(received.iter().all(|request| request.body == received[0].body));
}

#[test]
fn what_a_collector_refuses_is_counted_and_not_sent_again() {
    for status in [400, 401, 404, 413, 500, 301] {
        let collector =
            Collector::start(move |number| (if number == 1 { status } else { 200 }, "Location: /\r\n", Vec::new()));
        with(options(&collector.endpoint()), |telemetry, [tracer, _]| {
            record(tracer, 1);
            wait_until("it is dropped", || telemetry.readings() == (0, 1));
            record(tracer, 2);
            wait_until("the next is taken", || telemetry.readings() == (1, 1));
        });
        assert_eq!(collector.received().len(), 2, "{status}");
        assert_eq!(collector.numbers(), [1, 2], "{status}");
    }
}

#[test]
fn spans_that_a_collector_rejects_of_a_batch_are_counted() {
    let partial = otlp::ExportTracePartialSuccess { rejected_spans: 3, error_message: "too old".into() };
    let answer = otlp::ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let collector = Collector::start(move |_| (200, "", answer.clone()));
    with(options(&collector.endpoint()), |telemetry, [tracer, _]| {
        // A batch at once, since each answer rejects three.
        (0..512).for_each(|number| record(tracer, number));
        wait_until("all are accounted for", || {
            let (taken, dropped) = telemetry.readings();
            taken + dropped == 512
        });
        assert_eq!(telemetry.readings().1, 3 * collector.received().len() as u64);
    });
}

/// A collector that is away costs spans beyond a bound and nothing else; one that comes in its place gets the others.
#[test]
fn a_collector_that_is_away() {
    let away = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("is bound");
    let collector = Collector::obliging();
    with(options(&format!("http://{away}")), |telemetry, [tracer, _]| {
        let many = LANE_SPANS_MAX as u64 + 2000;
        (0..many).for_each(|number| record(tracer, number));
        let dropped = telemetry.readings().1;
        assert!(dropped > 0, "the lane is bounded");
        telemetry.change(options(&collector.endpoint())).expect("the endpoint is one");
        wait_until("the others come", || telemetry.readings().0 + dropped == many);
        assert_eq!(telemetry.readings().1, dropped);
        assert_eq!(collector.numbers().len() as u64, many - dropped);
    });
}

#[test]
fn a_collector_that_never_answers_is_left_after_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("is bound"));
    let collector = Collector::obliging();
    let short = Options { timeout: Duration::from_millis(100), ..options(&endpoint) };
    with(short, |telemetry, [tracer, _]| {
        record(tracer, 1);
        let (mut stream, _) = listener.accept().expect("a request");
        let mut start = [0; 4];
        stream.read_exact(&mut start).expect("begins");
        assert_eq!(&start, b"POST");
        telemetry.change(options(&collector.endpoint())).expect("the endpoint is one");
        wait_until("another gets it", || telemetry.readings() == (1, 0));
    });
    assert_eq!(collector.numbers(), [1]);
}

#[test]
fn the_stop_sends_what_is_left_and_does_not_wait_for_who_is_away() {
    let collector = Collector::obliging();
    with(options(&collector.endpoint()), |telemetry, tracers| {
        (0..3000).for_each(|number| record(tracers[number % 2], number as u64));
        telemetry.clone().stop();
        assert_eq!(telemetry.readings(), (3000, 0));
    });
    same(collector.numbers(), 0..3000);
    let away = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("is bound");
    with(options(&format!("http://{away}")), |telemetry, [tracer, _]| {
        (0..600).for_each(|number| record(tracer, number));
        telemetry.clone().stop();
        assert_eq!(telemetry.readings(), (0, 600));
    });
}

#[test]
fn without_a_collector_nothing_is_sampled() {
    let collector = Collector::obliging();
    let none = Options { sample: 1.0, ..Options::off() };
    let never = Tracer::off();
    assert!(!never.samples(message()) && !never.is_on());
    never.record(Span { id: never.child(), ..sample_span() });
    with(none.clone(), |telemetry, [tracer, _]| {
        let span = tracer.child();
        assert!(!tracer.samples(message()) && !tracer.is_on());
        assert_eq!(tracer.traceparent(message(), span), None);
        telemetry.change(options(&collector.endpoint())).expect("the endpoint is one");
        assert!(tracer.samples(message()) && tracer.is_on());
        let sampled = tracer.traceparent(message(), span).expect("traced");
        assert!(sampled.ends_with("-01") && sampled.contains(&trace_id(message()).to_string()), "{sampled}");
        telemetry.change(Options { sample: 0.0, ..options(&collector.endpoint()) }).expect("the endpoint is one");
        assert!(!tracer.samples(message()) && tracer.is_on());
        assert!(tracer.traceparent(message(), span).is_some_and(|value| value.ends_with("-00")));
        telemetry.change(none).expect("needs no endpoint");
        assert!(!tracer.samples(message()) && !tracer.is_on());
    });
}

fn sample_span() -> Span {
    let id = message();
    Span {
        trace: trace_id(id),
        id: root_span(id),
        parent: None,
        name: name::MESSAGE,
        kind: SpanKind::Server,
        start: Timestamp::default(),
        took: Duration::ZERO,
        attributes: Vec::new(),
        failed: false,
    }
}

#[test]
fn header_fields_go_with_each_request_and_addresses_stay_where_they_should() {
    let collector = Collector::obliging();
    let mut asked = options(&collector.endpoint());
    asked.headers.insert(HeaderName::from_static("x-token"), HeaderValue::from_static("secret"));
    asked.leave_out = key::OF_MAIL.to_vec();
    with(asked, |telemetry, [tracer, _]| {
        record(tracer, 1);
        wait_until("it is taken", || telemetry.readings() == (1, 0));
    });
    let request = collector.received().remove(0);
    assert!(request.head.contains("x-token: secret\r\n"), "{}", request.head);
    assert!(!request.body.windows(3).any(|part| part == b"a@e"), "an address is left out");
}

#[test]
fn endpoints_that_are_none() {
    let services = Services::start().expect("starts");
    for (endpoint, want) in [
        ("127.0.0.1:4318", "the endpoint \"127.0.0.1:4318\" is not a URL: invalid format"),
        ("ftp://a", "the endpoint \"ftp://a\" can't be used: it begins neither with https:// nor with http://"),
        ("http://a b", "the endpoint \"http://a b\" is not a URL: invalid uri character"),
    ] {
        let error = Telemetry::start(&services.handle(), options(endpoint)).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some(want));
    }
    for (endpoint, reason) in [("ftp://a/key", "can't be used"), ("http://a b/key", "is not a URL")] {
        let hiding = Options { shown: "ftp://a/***".to_owned(), ..options(endpoint) };
        let error =
            Telemetry::start(&services.handle(), hiding).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("\"ftp://a/***\"") && error.contains(reason) && !error.contains("key"), "{error}");
    }
    services.stop();
}

/// A collector whose certificate nobody vouches for gets nothing.
#[test]
fn over_tls_only_who_is_vouched_for_is_believed() {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
    let server = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let server = server.expect("versions").with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key);
    let collector = Collector::start_with(Some(Arc::new(server.expect("a pair"))), |_| (200, "", Vec::new()));
    let trusting = |roots: RootCertStore| {
        let client = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let client = client.expect("versions").with_root_certificates(roots).with_no_client_auth();
        let endpoint = format!("https://{}", collector.address);
        Options { tls: Some(Arc::new(client)), ..options(&endpoint) }
    };
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    with(trusting(RootCertStore::empty()), |telemetry, [tracer, _]| {
        record(tracer, 1);
        telemetry.clone().stop();
        assert_eq!(telemetry.readings(), (0, 1));
    });
    with(trusting(roots), |telemetry, [tracer, _]| {
        record(tracer, 2);
        wait_until("it is taken", || telemetry.readings() == (1, 0));
    });
    assert_eq!(collector.numbers(), [2]);
}
