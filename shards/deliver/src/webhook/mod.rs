//! The target `webhook`: a server that takes messages by HTTP.
//!
//! A [`Webhook`] belongs to one shard; its requests run on the services thread (`exchange.rs`), and what comes of them returns
//! to the shard's desk (`desk.rs`). `request.rs` says what is sent, `verdict.rs` what the answer means.
//!
//! Invariants: nothing is waited for without a deadline; a recipient counts as delivered only by a status of 2xx that came
//! after all of the message had been sent; a message that is damaged in the spool is never sent to its end; of a message in
//! a file only a piece is in memory at a time.
//!
//! What it refuses: to follow redirections, to believe a server whose certificate is not right, and to take a message that
//! requires TLS over a network without it.
//!
//! # For who receives
//!
//! Each request is a POST with all recipients of a message that go to this target. Its body is, as the key `format` says,
//! - `json`: the envelope (`description.rs`) as an object, with the message in base64 as its field `message`;
//! - `multipart`: a form (multipart/form-data) with the envelope as its field `envelope` and the message, byte for byte, as its
//!   file `message`.
//!
//! ```text
//! POST /mail HTTP/1.1
//! Content-Type: application/json
//! User-Agent: ringpost/0.1.0
//! Ringpost-Host: mx.example.org
//! Ringpost-Id: 06EHV1C6E9N9PWRPA14GWQCX7C
//! Ringpost-Attempt: 1
//! Ringpost-Timestamp: 1700000000
//! Ringpost-Signature: t=1700000000,v1=9eb18f493f8ec135d9eb2dad817c369bb4e9cbfa818657897a7437c1cd8c3a23
//! Idempotency-Key: 06EHV1C6E9N9PWRPA14GWQCX7C-5f0c1d2ab33c9e10
//! Traceparent: 00-0674761619c9aa6dcc594124397674ec-55ad4528b1e9276d-01
//! ```
//!
//! A message may come more than once, where an answer was lost on its way. All attempts for the same recipients have the
//! same `Idempotency-Key`. The body of a later attempt differs: in the field `attempt`, and in the boundary of a form.
//!
//! `Traceparent` is there while the server has a collector (`[telemetry]`): the W3C's trace context of this attempt.
//!
//! The answer is the status:
//!
//! | status | meaning |
//! |---|---|
//! | 2xx | delivered, to all recipients |
//! | 207 | a JSON object tells recipients apart, see below |
//! | 408, 409, 423, 425, 429, 5xx | tried again later, as the queue's schedule has it; `Retry-After` is quoted and not followed |
//! | 3xx, 401 to 405, 407, 410, 421, 426 | the same: somebody's configuration is wrong |
//! | other 4xx, 501, 505 | refused for good: the sender gets a report, with the first line of the answer |
//!
//! With 207 the answer has for each recipient, by its address as it was sent, a code of SMTP: 2xx is delivered, 4xx is tried
//! again, 5xx is refused. Who is left out is tried again.
//!
//! ```json
//! {"recipients": {"a@example.org": {"code": 250},
//!                 "b@example.org": {"code": 550, "status": "5.1.1", "text": "no such user"}}}
//! ```
//!
//! # Signatures
//!
//! With `secret_file`, `v1` of `Ringpost-Signature` is the HMAC-SHA256, in hexadecimal, of `t`, a dot and the body as it was sent,
//! before anything is decoded. The secret is all of the file without the line end at its end. Who receives computes the same,
//! compares in constant time, and refuses what is signed for a time too far from its own. In Python:
//!
//! ```python
//! def is_genuine(secret: bytes, header: str, body: bytes) -> bool:
//!     fields = dict(field.split("=", 1) for field in header.split(","))
//!     want = hmac.new(secret, fields["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
//!     return hmac.compare_digest(want, fields["v1"]) and abs(time.time() - int(fields["t"])) < 300
//! ```

mod body;
mod content;
mod desk;
mod exchange;
mod request;
mod signature;
#[cfg(test)]
mod tests;
mod verdict;

use crate::parcel::{Done, Parcel};
use desk::Desk;
use exchange::{Came, Fault, FaultKind, HttpClient, Order};
use hyper::Uri;
use hyper::http::HeaderMap;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use ringpost_config::{WebhookFormat, WebhookOptions};
use ringpost_metrics::Block;
use ringpost_net::{ClientIdentity, ClientTls, ClientTlsOptions, NetError};
use ringpost_queue::{Outcome, Reason, Status};
use ringpost_runtime::{after, entropy, now};
use rustls::{ClientConfig, RootCertStore};
use signature::{Secret, SecretError};
use std::cell::OnceCell;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::runtime::Handle;

/// Where results of a shard's webhooks come back; one for all of them. It is opened when the first request is made, and
/// then stays for as long as the shard: to make a webhook that is thrown away again leaves nothing behind.
#[derive(Clone, Default)]
pub(crate) struct WebhookDesk(Rc<OnceCell<Rc<Desk<Came>>>>);

impl WebhookDesk {
    fn opened(&self) -> &Desk<Came> {
        self.0.get_or_init(Desk::open)
    }

    /// Whether a request was made.
    #[cfg(test)]
    pub(crate) fn is_open(&self) -> bool {
        self.0.get().is_some()
    }
}

/// How long a connection waits for a further message. Most servers close it after a minute or less, and a message that is
/// sent at that moment is lost to the attempt.
const IDLE: Duration = Duration::from_secs(15);

/// Connections that wait, at most: of one shard, to one server.
const IDLE_CONNECTIONS_MAX: usize = 16;

/// How much longer than a request may take its result is waited for: then the services thread is stuck.
const SLACK: Duration = Duration::from_secs(5);

/// What a webhook is made of.
pub(crate) struct WebhookSetup {
    /// The target's name.
    pub(crate) name: Rc<str>,
    /// What the config says.
    pub(crate) options: WebhookOptions,
    /// What we call ourselves.
    pub(crate) host: Rc<str>,
    /// Where HTTP runs.
    pub(crate) handle: Handle,
    /// Where its results come back.
    pub(crate) desk: WebhookDesk,
    /// Where is counted.
    pub(crate) block: Arc<Block>,
}

/// Why a webhook can't be made.
#[derive(Debug, Error)]
pub(crate) enum WebhookError {
    /// The URL can't be used.
    #[error("the url can't be used: {0}")]
    Url(String),
    /// A header field can't be sent.
    #[error("the header field {0:?} can't be sent")]
    Header(String),
    /// A file can't be read.
    #[error("can't read {path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        reason: std::io::Error,
    },
    /// The secret is none.
    #[error("{path}: {reason}")]
    Secret {
        /// Its file.
        path: PathBuf,
        /// Why not.
        reason: SecretError,
    },
    /// TLS can't be set up from what the files hold.
    #[error("{0}")]
    Tls(String),
}

/// A server that takes messages by HTTP, as one shard sees it.
pub(crate) struct Webhook {
    name: Rc<str>,
    format: WebhookFormat,
    timeout: Duration,
    uri: Uri,
    /// Host and port, for the log and for reports.
    remote: Rc<str>,
    /// Whether what is sent there can be read by nobody else.
    private: bool,
    headers: HeaderMap,
    secret: Option<Secret>,
    client: HttpClient,
    handle: Handle,
    desk: WebhookDesk,
    block: Arc<Block>,
}

impl Webhook {
    /// Sets a webhook up; nothing is connected yet. Reads the files that its options name.
    ///
    /// # Errors
    /// If one of them can't be used.
    pub(crate) fn new(setup: WebhookSetup) -> Result<Rc<Self>, WebhookError> {
        let WebhookSetup { name, options, host, handle, desk, block } = setup;
        let Loaded { uri, headers, secret, tls, private } = load(&options, &host)?;
        let remote: Rc<str> = uri.authority().map_or("", |authority| authority.as_str()).into();
        let (format, timeout) = (options.format, options.timeout.0);
        let client = client(tls, timeout);
        Ok(Rc::new(Self { name, format, timeout, uri, remote, private, headers, secret, client, handle, desk, block }))
    }

    /// Takes a message there. Dropped before it is done, it closes its connection; what has become of the message is
    /// then unknown.
    pub(crate) async fn deliver(&self, parcel: &Parcel) -> Done {
        if parcel.envelope.require_tls && !self.private {
            // RFC 8689 section 4.2.1: not at all rather than in clear.
            let text = "the message requires TLS, and the url of the target does not begin with https:";
            let outcome = Outcome::Failed(Reason::ours(Status(5, 7, 30), text));
            return Done::all(&parcel.recipients, &outcome, false);
        }
        let order = self.order(parcel);
        // Boxed: it is large, and whoever waits for it should not be.
        let asked = Box::pin(self.desk.opened().ask(&self.handle, order.run()));
        let came = after(self.timeout.saturating_add(SLACK), asked).await;
        let came =
            came.unwrap_or_else(|| Some(Err(Fault::new(FaultKind::Services, "the thread for HTTP does not answer"))));
        if let Some(Err(Fault { kind: FaultKind::Unreadable, text })) = &came {
            tracing::error!(id = %parcel.id, destination = &*self.name, reason = text, "a message can't be read; kept in the spool");
        }
        let (mut done, row) = verdict::verdict(parcel, came, &self.remote);
        done.remote = Some(self.remote.clone());
        self.block.add(row, 1);
        self.log(parcel, &done);
        done
    }

    fn order(&self, parcel: &Parcel) -> Order {
        let at = now().wall.unix_micros() / 1_000_000;
        let mut headers = self.headers.clone();
        request::add_headers(&mut headers, &self.name, parcel, at);
        let whole = request::body(&mut headers, self.format, parcel, entropy());
        let secret = self.secret.clone().map(|secret| (secret, at));
        Order { client: self.client.clone(), uri: self.uri.clone(), headers, whole, secret, timeout: self.timeout }
    }

    fn log(&self, parcel: &Parcel, done: &Done) {
        let (id, target, host, count) = (parcel.id, &*self.name, &*self.remote, parcel.recipients.len() as u64);
        let reason = done.outcomes.iter().find_map(|(_, outcome)| match outcome {
            Outcome::Deferred(reason) | Outcome::Failed(reason) => Some(reason.to_string()),
            Outcome::Delivered(_) | Outcome::Moved { .. } => None,
        });
        let reason = reason.unwrap_or_default();
        if done.hop_failed {
            tracing::warn!(id = %id, destination = target, host, reason, "a webhook does not work");
        } else {
            tracing::debug!(id = %id, destination = target, host, recipients = count, reason, "request");
        }
    }
}

/// Reads what a webhook is made of, as making it does.
///
/// # Errors
/// If something of it can't be used.
pub(crate) fn check(options: &WebhookOptions, host: &str) -> Result<(), WebhookError> {
    load(options, host).map(drop)
}

/// What options come to, with the files that they name.
struct Loaded {
    uri: Uri,
    headers: HeaderMap,
    secret: Option<Secret>,
    tls: ClientConfig,
    /// Whether what is sent there can be read by nobody else.
    private: bool,
}

fn load(options: &WebhookOptions, host: &str) -> Result<Loaded, WebhookError> {
    let uri: Uri = options.url.parse().map_err(|error| WebhookError::Url(format!("{error}")))?;
    let headers = request::standing_headers(host, &options.headers).map_err(WebhookError::Header)?;
    let secret = options.secret_file.as_ref().map(|path| secret(Path::new(path))).transpose()?;
    let (tls, private) = match uri.scheme_str() {
        Some("https") => (tls(options)?, true),
        Some("http") => (trusting_nobody()?, is_this_machine(&uri)),
        _ => return Err(WebhookError::Url("it begins neither with https:// nor with http://".into())),
    };
    Ok(Loaded { uri, headers, secret, tls, private })
}

fn secret(path: &Path) -> Result<Secret, WebhookError> {
    let bytes = Secret::bytes_of(path).map_err(|reason| WebhookError::File { path: path.to_owned(), reason })?;
    Secret::new(&bytes).map_err(|reason| WebhookError::Secret { path: path.to_owned(), reason })
}

fn tls(options: &WebhookOptions) -> Result<ClientConfig, WebhookError> {
    let read =
        |path: &String| std::fs::read(path).map_err(|reason| WebhookError::File { path: PathBuf::from(path), reason });
    let ca = options.ca.as_ref().map(read).transpose()?;
    let identity = match &options.certificate {
        Some(files) => Some(ClientIdentity { chain: read(&files.cert)?, key: read(&files.key)? }),
        None => None,
    };
    // The keys of a webhook are called like those of the other targets, without `tls_`.
    let in_words = |error: NetError| WebhookError::Tls(error.to_string().replace("tls_", ""));
    let tls = ClientTls::new(&ClientTlsOptions { verify: true, ca, identity }).map_err(in_words)?;
    Ok(tls.config().clone())
}

fn client(tls: ClientConfig, timeout: Duration) -> HttpClient {
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
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .build(connector)
}

/// For a URL without TLS, where it is never asked.
fn trusting_nobody() -> Result<ClientConfig, WebhookError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| WebhookError::Tls(error.to_string()))?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// Whether a URL leads over no network.
fn is_this_machine(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
