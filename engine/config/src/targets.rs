//! Targets: where mail goes, and how it is taken there.

use crate::config::Certificate;
use ringpost_base::Span;
use ringpost_queue::DestinationOptions;
use std::fmt;

/// A place mail goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The name that domains and routes call it by.
    pub name: String,
    /// What it is.
    pub kind: TargetKind,
    /// How much of it is used at a time, and when it is left alone; for those that are elsewhere.
    pub destination: DestinationOptions,
}

impl Default for Target {
    fn default() -> Self {
        let kind = TargetKind::Maildir { path: MAILDIR_PATH.into() };
        Self { name: "local".into(), kind, destination: DestinationOptions::default() }
    }
}

/// The path of a Maildir target that gives none.
pub(crate) const MAILDIR_PATH: &str = "mail/{domain}/{local}";

/// What a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetKind {
    /// A Maildir for each recipient or domain.
    Maildir {
        /// The directory, relative to the state directory, with the placeholders `{domain}`, `{local}` and `{address}`.
        path: String,
    },
    /// A directory with a file for each message and one for its envelope.
    File {
        /// The directory, relative to the state directory.
        path: String,
    },
    /// Nowhere: for measurements.
    Discard,
    /// A server that speaks LMTP (RFC 2033).
    Lmtp(HopOptions),
    /// A server that speaks SMTP: the next hop.
    Smtp(HopOptions),
    /// A server that takes messages by HTTP.
    Webhook(WebhookOptions),
}

impl TargetKind {
    /// Whether it is on this machine, in the hands of the server itself: no other program has to answer.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Maildir { .. } | Self::File { .. } | Self::Discard)
    }
}

/// How mail is taken to a server over SMTP or LMTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HopOptions {
    /// The servers, any of which will do.
    pub hosts: Vec<HopHost>,
    /// How TLS is used.
    pub tls: HopTls,
    /// PEM file of the authorities that vouch for the servers. None: those that the system trusts.
    pub tls_ca: Option<String>,
    /// The name that their certificates must have. None: the name of the host.
    pub tls_name: Option<String>,
    /// What we show of ourselves, if they ask.
    pub tls_certificate: Option<Certificate>,
    /// Messages on one connection.
    pub messages_per_connection: u32,
    /// How long a connection is kept for a further message.
    pub idle_timeout: Span,
    /// How long a connection, and its TLS, may take to come about.
    pub connect_timeout: Span,
    /// How long is waited for a greeting (RFC 5321 section 4.5.3.2.1), for a reply to a command (RFC 5321 section 4.5.3.2.2,
    /// RFC 5321 section 4.5.3.2.3, RFC 5321 section 4.5.3.2.4), and for a piece of a message to be taken (RFC 5321
    /// section 4.5.3.2.5).
    pub command_timeout: Span,
    /// How long the reply to the end of a message is waited for (RFC 5321 section 4.5.3.2.6).
    pub data_timeout: Span,
}

impl Default for HopOptions {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            tls: HopTls::default(),
            tls_ca: None,
            tls_name: None,
            tls_certificate: None,
            messages_per_connection: 100,
            idle_timeout: Span::seconds(10),
            connect_timeout: Span::seconds(30),
            command_timeout: Span::seconds(300),
            data_timeout: Span::seconds(600),
        }
    }
}

/// One of the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HopHost {
    /// Where it is.
    pub place: HopPlace,
    /// Its share of the connections, beside the others' weights. 0: only where all others fail.
    pub weight: u32,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HopPlace {
    /// A name or an address, and a port.
    Tcp {
        /// The name, or the address without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A unix socket.
    Unix(String),
}

impl fmt::Display for HopHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)?;
        if self.weight == 1 { Ok(()) } else { write!(f, " weight={}", self.weight) }
    }
}

impl fmt::Display for HopPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// How TLS is used towards a next hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HopTls {
    /// Not.
    Off,
    /// Where it is offered; whoever answers is believed (RFC 7435).
    #[default]
    Opportunistic,
    /// Always; whoever answers is believed.
    Required,
    /// Always, and the certificate has to be right.
    Verified,
}

/// How mail is taken to a server over HTTP.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookOptions {
    /// Where it is posted to.
    pub url: String,
    /// What is posted.
    pub format: WebhookFormat,
    /// File with the secret that requests are signed with. None: they are not.
    pub secret_file: Option<String>,
    /// PEM file of the authorities that vouch for the server. None: those that the system trusts.
    pub ca: Option<String>,
    /// What we show of ourselves, if the server asks.
    pub certificate: Option<Certificate>,
    /// How long a request may take in all.
    pub timeout: Span,
    /// Further header fields: names, and values that may be secrets.
    pub headers: Vec<(String, String)>,
}

impl Default for WebhookOptions {
    fn default() -> Self {
        Self {
            url: String::new(),
            format: WebhookFormat::default(),
            secret_file: None,
            ca: None,
            certificate: None,
            timeout: Span::seconds(30),
            headers: Vec::new(),
        }
    }
}

/// Without the values of header fields.
impl fmt::Debug for WebhookOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, format, secret_file, ca, certificate, timeout, headers } = self;
        let headers: Vec<_> = headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("WebhookOptions")
            .field("url", url)
            .field("format", format)
            .field("secret_file", secret_file)
            .field("ca", ca)
            .field("certificate", certificate)
            .field("timeout", timeout)
            .field("headers", &headers)
            .finish()
    }
}

/// What is posted to a webhook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebhookFormat {
    /// A JSON object with the envelope, and the message in base64.
    #[default]
    Json,
    /// multipart/form-data: the envelope as JSON, and the message as it is.
    Multipart,
}
