//! What the config says of telemetry.

use hyper::Uri;
use hyper::http::HeaderMap;
use rustls::ClientConfig;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Header fields of the config, which may be secrets.
pub type Headers = HeaderMap;

/// Where spans go, and of which messages there are any.
#[derive(Clone)]
pub struct Options {
    /// The collector, as `http://127.0.0.1:4318`. Nothing: there is none, and nothing is traced. It may hold a key.
    pub endpoint: Option<String>,
    /// The endpoint as it may be shown, in log lines and errors.
    pub shown: String,
    /// The share of messages that are traced, from 0 to 1.
    pub sample: f64,
    /// What the service is called (`service.name`).
    pub service: String,
    /// Its version (`service.version`).
    pub version: String,
    /// The name of this server (`host.name`).
    pub hostname: String,
    /// How long a request may take.
    pub timeout: Duration,
    /// Fields for each request, such as what the collector knows us by.
    pub headers: Headers,
    /// How an endpoint of `https://` is spoken to. Nothing is fine for any other.
    pub tls: Option<Arc<ClientConfig>>,
    /// Keys of attributes that are not sent.
    pub leave_out: Vec<&'static str>,
}

/// Why there can be no telemetry by these options.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The endpoint can't be used.
    #[error("the endpoint {0:?} can't be used: it begins neither with https:// nor with http://")]
    Scheme(String),
    /// The endpoint is no URL.
    #[error("the endpoint {0:?} is not a URL: {1}")]
    Endpoint(String, String),
    /// TLS can't be set up.
    #[error("TLS for the endpoint: {0}")]
    Tls(String),
}

/// Path of traces below an endpoint (OTLP specification 1.x, "OTLP/HTTP Request").
const PATH: &str = "/v1/traces";

impl Options {
    /// Options by which nothing is traced.
    pub fn off() -> Self {
        Self {
            endpoint: None,
            shown: String::new(),
            sample: 0.0,
            service: "ringpost".to_owned(),
            version: String::new(),
            hostname: String::new(),
            timeout: Duration::from_secs(5),
            headers: Headers::new(),
            tls: None,
            leave_out: Vec::new(),
        }
    }

    /// Where requests go; nothing where there is no endpoint.
    pub(crate) fn uri(&self) -> Result<Option<Uri>, Error> {
        let Some(endpoint) = &self.endpoint else { return Ok(None) };
        let url = format!("{}{PATH}", endpoint.trim_end_matches('/'));
        let uri: Uri = url.parse().map_err(|error| Error::Endpoint(self.shown.clone(), format!("{error}")))?;
        match uri.scheme_str() {
            Some("http" | "https") => Ok(Some(uri)),
            _ => Err(Error::Scheme(self.shown.clone())),
        }
    }
}
