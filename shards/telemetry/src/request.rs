//! One request to a collector, and what its answer means (OTLP specification, "OTLP/HTTP").

use crate::options::{Error, Options};
use crate::wire::{self, Resource};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::http::HeaderMap;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use ringpost_trace::Span;
use rustls::{ClientConfig, RootCertStore};
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Bytes of an answer that are read: it says in a few how many spans were rejected, and why.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// How long the connection waits for the next batch, of which there is one a second while there is mail.
const IDLE: Duration = Duration::from_secs(15);

/// Characters of a collector's own words that are kept.
const REASON_CHARS_MAX: usize = 200;

const AGENT: &str = concat!("ringpost/", env!("CARGO_PKG_VERSION"));

const PROTOBUF: &str = "application/x-protobuf";

/// What became of a batch.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    /// The collector has it, but for some spans of it.
    Taken { rejected: u64, why: String },
    /// It may take it at another time: after this time, if it said so.
    Later { why: String, after: Option<Duration> },
    /// It does not take it.
    Refused(String),
}

/// A collector that spans are sent to.
pub(crate) struct Collector {
    /// The endpoint as it may be shown.
    shown: String,
    /// The path of requests, if it may not be shown: answers like to repeat it.
    hidden: Option<String>,
    uri: Uri,
    headers: HeaderMap,
    timeout: Duration,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    resource: Resource,
    leave_out: Vec<&'static str>,
}

impl Collector {
    /// The collector of some options; nothing where they have none.
    ///
    /// # Errors
    /// If its endpoint can't be used.
    pub(crate) fn new(options: Options) -> Result<Option<Self>, Error> {
        let Some(uri) = options.uri()? else { return Ok(None) };
        let tls = match &options.tls {
            Some(tls) => ClientConfig::clone(tls),
            None => trusting_nobody()?,
        };
        let mut headers = options.headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        Ok(Some(Self {
            hidden: options.endpoint.is_some_and(|url| url != options.shown).then(|| uri.path().to_owned()),
            shown: options.shown,
            uri,
            headers,
            timeout: options.timeout,
            client: client(tls, options.timeout),
            resource: wire::resource(&options.service, &options.version, &options.hostname),
            leave_out: options.leave_out,
        }))
    }

    /// The endpoint, as it may be shown.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// The body of a request.
    pub(crate) fn encoded(&self, batch: &[Span]) -> Bytes {
        wire::request(&self.resource, batch, &self.leave_out).into()
    }

    /// Sends a request. It ends within the time that the config gives it.
    pub(crate) async fn post(&self, body: Bytes) -> Answer {
        match timeout(self.timeout, self.exchange(body)).await {
            Ok(answer) => answer,
            Err(_) => Answer::Later { why: format!("no answer within {:?}", self.timeout), after: None },
        }
    }

    async fn exchange(&self, body: Bytes) -> Answer {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        match self.client.request(request).await {
            Ok(response) => read(response, self.hidden.as_deref()).await,
            // "If the server disconnects without returning a response, the client SHOULD retry"; so with one that is away.
            Err(error) => Answer::Later { why: in_words(&error), after: None },
        }
    }
}

async fn read(response: Response<Incoming>, hidden: Option<&str>) -> Answer {
    let (head, body) = response.into_parts();
    // Of an answer that is too long or cut off the status still holds.
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let after = |name: &HeaderName| head.headers.get(name).and_then(|value| seconds(value.as_bytes()));
    judge(head.status, after(&RETRY_AFTER), &body, hidden)
}

fn judge(status: StatusCode, after: Option<Duration>, body: &[u8], hidden: Option<&str>) -> Answer {
    match status.as_u16() {
        200..=299 => {
            let (rejected, why) = wire::rejected(body);
            Answer::Taken { rejected, why: clean(&why, hidden) }
        }
        // "Retryable Response Codes"; "all other 4xx or 5xx response status codes MUST NOT be retried".
        429 | 502 | 503 | 504 => Answer::Later { why: format!("HTTP {status}"), after },
        _ => Answer::Refused(format!("HTTP {status}: {}", clean(&String::from_utf8_lossy(body), hidden))),
    }
}

/// A number of seconds. The other form of `Retry-After`, a date, depends on two clocks; our own pauses serve as well.
fn seconds(value: &[u8]) -> Option<Duration> {
    std::str::from_utf8(value).ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// A stranger's text for the log: one line, not too long, and without what may not be shown.
fn clean(text: &str, hidden: Option<&str>) -> String {
    let text = hidden.map_or_else(|| text.to_owned(), |hidden| text.replace(hidden, "***"));
    let visible = text.chars().map(|c| if c.is_control() || c == char::REPLACEMENT_CHARACTER { ' ' } else { c });
    visible.take(REASON_CHARS_MAX).collect::<String>().trim().to_owned()
}

/// What lies behind an error: the client's own words say only that there is one.
fn in_words(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(behind) = last.source() {
        last = behind;
    }
    last.to_string()
}

fn client(tls: ClientConfig, timeout: Duration) -> Client<HttpsConnector<HttpConnector>, Full<Bytes>> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    // Shared out among the addresses of a host: one that is dead leaves time for another.
    http.set_connect_timeout(Some(timeout / 2));
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(1)
        .build(connector)
}

/// For an endpoint without TLS, where it is never asked.
fn trusting_nobody() -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| Error::Tls(error.to_string()))?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: u16, body: &[u8], want: Answer) {
        let status = StatusCode::from_u16(status).expect("a status");
        assert_eq!(judge(status, Some(Duration::from_secs(7)), body, Some("/key/v1/traces")), want, "{status}");
    }

    #[test]
    fn answers() {
        let after = Some(Duration::from_secs(7));
        let later = |why: &str| Answer::Later { why: why.to_owned(), after };
        let taken = |rejected, why: &str| Answer::Taken { rejected, why: why.to_owned() };
        check(200, b"", taken(0, ""));
        check(202, b"no protobuf", taken(0, ""));
        // Field 1, 6 bytes: in it field 1, the number 3, and field 2, the text "no".
        check(200, b"\x0a\x06\x08\x03\x12\x02no", taken(3, "no"));
        check(429, b"", later("HTTP 429 Too Many Requests"));
        check(502, b"", later("HTTP 502 Bad Gateway"));
        check(503, b"", later("HTTP 503 Service Unavailable"));
        check(504, b"", later("HTTP 504 Gateway Timeout"));
        for (status, why) in [
            (301, "HTTP 301 Moved Permanently: why"),
            (400, "HTTP 400 Bad Request: why"),
            (401, "HTTP 401 Unauthorized: why"),
            (408, "HTTP 408 Request Timeout: why"),
            (413, "HTTP 413 Payload Too Large: why"),
            (500, "HTTP 500 Internal Server Error: why"),
        ] {
            check(status, b"why\r\n", Answer::Refused(why.to_owned()));
        }
        let repeated = Answer::Refused("HTTP 404 Not Found: Cannot POST ***".to_owned());
        check(404, b"Cannot POST /key/v1/traces", repeated);
    }

    #[test]
    fn pauses_that_a_collector_asks_for() {
        for (value, want) in [("0", Some(0)), (" 12 ", Some(12)), ("", None), ("-1", None), ("Fri, 31 Dec 1999", None)]
        {
            assert_eq!(seconds(value.as_bytes()), want.map(Duration::from_secs), "{value:?}");
        }
    }
}
