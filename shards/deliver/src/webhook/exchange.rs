//! One request and its response, on the services thread.

use super::body::{Progress, Sending, Whole};
use super::signature::Secret;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::http::HeaderMap;
use hyper::{Method, Request, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

/// Bytes of a response's body that are read: enough for an answer about each of a thousand recipients.
pub(super) const RESPONSE_BYTES_MAX: usize = 64 << 10;

/// How long the body of a response is waited for where it is no more than a reason: the message's fate is known by then.
const REASON_PATIENCE: Duration = Duration::from_secs(2);

/// Bodies larger than this are signed on a thread for what blocks: it takes longer than others on this one should wait.
const SIGNED_HERE_BYTES_MAX: u64 = 64 << 10;

/// The header field with the signature.
const SIGNATURE: &str = "ringpost-signature";

/// The status of a response that tells recipients apart: "Multi-Status".
pub(super) const MULTI_STATUS: u16 = 207;

/// Sends requests, over connections that it keeps for the next.
pub(super) type HttpClient = Client<HttpsConnector<HttpConnector>, Sending>;

/// A request to be made.
pub(super) struct Order {
    pub(super) client: HttpClient,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) whole: Whole,
    /// What it is signed with, and the second of the Unix epoch that it is signed as of.
    pub(super) secret: Option<(Secret, u64)>,
    /// How long it may take in all.
    pub(super) timeout: Duration,
}

/// What was answered.
pub(super) struct Response {
    pub(super) status: u16,
    /// How long to wait, in words of the server.
    pub(super) retry_after: Option<String>,
    /// Its text; without what is too long of it.
    pub(super) body: Vec<u8>,
    /// Whether that is all of it.
    pub(super) whole: bool,
    /// Whether it is for browsers.
    pub(super) html: bool,
    /// It came before all of the message had been sent.
    pub(super) early: bool,
}

/// Why there is no answer.
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    pub(super) text: String,
}

/// What there was instead of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FaultKind {
    /// No connection.
    Connection,
    /// TLS could not be agreed on.
    Tls,
    /// The connection ended, or what came was not HTTP.
    Broken,
    /// Nothing, for too long.
    Timeout,
    /// The message can't be read here.
    Unreadable,
    /// The services thread could not do it.
    Services,
}

impl Fault {
    pub(super) fn new(kind: FaultKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

/// How an exchange came out.
pub(super) type Came = Result<Response, Fault>;

impl Order {
    /// Makes the request. Dropped before it is done, it closes the connection.
    pub(super) async fn run(self) -> Came {
        let timeout = self.timeout;
        let deadline = Instant::now() + timeout;
        let progress = Arc::new(Progress::default());
        let answered = timeout_at(deadline, self.send(progress.clone())).await;
        let too_long = || Fault::new(FaultKind::Timeout, format!("no answer within {timeout:?}"));
        let response = answered.map_err(|_| too_long())??;
        let early = !progress.is_given();
        let (head, body) = response.into_parts();
        let status = head.status.as_u16();
        let patience = if status == MULTI_STATUS { deadline } else { deadline.min(Instant::now() + REASON_PATIENCE) };
        let mut read = Read::default();
        // What has come until then is what there is.
        let whole = timeout_at(patience, read.all(body)).await.unwrap_or(false);
        let is_html = |kind: &HeaderValue| kind.as_bytes().starts_with(b"text/html");
        Ok(Response {
            status,
            retry_after: head.headers.get(RETRY_AFTER).map(|value| String::from_utf8_lossy(value.as_bytes()).into()),
            body: read.bytes,
            whole,
            html: head.headers.get(CONTENT_TYPE).is_some_and(is_html),
            early,
        })
    }

    async fn send(self, progress: Arc<Progress>) -> Result<hyper::Response<Incoming>, Fault> {
        let Self { client, uri, mut headers, mut whole, secret, .. } = self;
        if let Some((secret, at)) = secret {
            let (read, value) = sign(whole, secret, at).await?;
            whole = read;
            headers.insert(SIGNATURE, value);
        }
        let mut request = Request::new(Sending::new(whole, progress.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        client.request(request).await.map_err(|error| match progress.fault() {
            Some(reason) => Fault::new(FaultKind::Unreadable, reason),
            None => Fault::new(kind_of(&error), in_words(&error)),
        })
    }
}

async fn sign(whole: Whole, secret: Secret, at: u64) -> Result<(Whole, HeaderValue), Fault> {
    let is_short = !whole.blocks() && whole.len() <= SIGNED_HERE_BYTES_MAX;
    let work = move || {
        let signed = whole.sign(secret.sign(at));
        (whole, signed)
    };
    let (whole, signed) = match is_short {
        true => work(),
        false => spawn_blocking(work).await.map_err(|error| Fault::new(FaultKind::Services, error.to_string()))?,
    };
    let signed = signed.map_err(|error| Fault::new(FaultKind::Unreadable, error.to_string()))?;
    let value = HeaderValue::try_from(signed).map_err(|error| Fault::new(FaultKind::Services, error.to_string()))?;
    Ok((whole, value))
}

/// The body of a response, as far as it was read.
#[derive(Default)]
struct Read {
    bytes: Vec<u8>,
}

impl Read {
    /// Reads on; false if there was more than is read, or the connection ended before the body did.
    async fn all(&mut self, mut body: impl Body<Data = hyper::body::Bytes> + Unpin) -> bool {
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            let Ok(data) = frame.into_data() else { continue };
            let room = RESPONSE_BYTES_MAX - self.bytes.len();
            self.bytes.extend_from_slice(&data[..data.len().min(room)]);
            if data.len() > room {
                return false;
            }
        }
        true
    }
}

fn kind_of(error: &hyper_util::client::legacy::Error) -> FaultKind {
    if causes(error).any(is_of_tls) {
        return FaultKind::Tls;
    }
    if error.is_connect() { FaultKind::Connection } else { FaultKind::Broken }
}

fn is_of_tls(error: &(dyn Error + 'static)) -> bool {
    let carried = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>() || carried.is_some_and(|carried| is_of_tls(carried))
}

/// An error and what lies behind it.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let behind = |error: &&'a (dyn Error + 'static)| -> Option<&'a (dyn Error + 'static)> { (*error).source() };
    std::iter::successors(Some(error), behind)
}

/// What lies behind an error: the client's own words say only that there is one.
fn in_words(error: &hyper_util::client::legacy::Error) -> String {
    let mut texts: Vec<String> = causes(error).skip(1).map(ToString::to_string).collect();
    // An error may repeat in its own words what lies behind it.
    texts.dedup_by(|later, earlier| earlier.ends_with(&**later));
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}
