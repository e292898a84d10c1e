//! What goes wrong with connections that we open: what, with whom, and what can be done about it.

use super::Endpoint;
use ringpost_base::Span;
use rustls::{CertificateError, Error as TlsError};
use std::{fmt, io, time::Duration};
use thiserror::Error;

/// What was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// That the connection comes about.
    Connection,
    /// The end of the TLS handshake.
    Handshake,
    /// That the peer says something.
    Bytes,
    /// That the peer takes what it is sent.
    Room,
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => "accept a connection",
            Self::Handshake => "finish a TLS handshake",
            Self::Bytes => "answer",
            Self::Room => "take what it was sent",
        })
    }
}

/// Why a connection that we open does not come about, or is over.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OutboundError {
    /// It can't be opened.
    #[error("can't connect to {endpoint}: {reason}{}", hint(.reason))]
    Connect {
        /// With whom.
        endpoint: Endpoint,
        /// What the kernel said.
        reason: io::Error,
    },
    /// The time was up.
    #[error("{endpoint} did not {awaited} within {}", Span(*.span))]
    Timeout {
        /// With whom.
        endpoint: Endpoint,
        /// What was waited for.
        awaited: Awaited,
        /// For how long.
        span: Duration,
    },
    /// It was there and is gone.
    #[error("the connection to {endpoint} was lost: {reason}")]
    Lost {
        /// With whom.
        endpoint: Endpoint,
        /// What the kernel said.
        reason: io::Error,
    },
    /// TLS does not come about, or is broken.
    #[error("TLS with {endpoint} failed: {reason}")]
    Tls {
        /// With whom.
        endpoint: Endpoint,
        /// Why, and what to do about it.
        reason: String,
    },
}

impl OutboundError {
    /// Whether it is for TLS that it failed: without it, the same server might be reached.
    pub fn is_of_tls(&self) -> bool {
        matches!(self, Self::Tls { .. } | Self::Timeout { awaited: Awaited::Handshake, .. })
    }
}

fn hint(reason: &io::Error) -> &'static str {
    match reason.kind() {
        io::ErrorKind::ConnectionRefused => " (nothing listens there: is the server running, and the port right?)",
        io::ErrorKind::NotFound => " (there is no such socket: is the server running, and the path right?)",
        io::ErrorKind::PermissionDenied => " (the user that this server runs as must be allowed to write to it)",
        io::ErrorKind::AddrNotAvailable => " (this host has no such address, or no port left to connect from)",
        _ => "",
    }
}

/// The same before it is known with whom.
pub(super) enum Failure {
    Connect(io::Error),
    Timeout(Awaited, Duration),
    Lost(io::Error),
    Tls(TlsError),
    /// With the name that was asked for.
    TlsOf(TlsError, Box<str>),
    /// The peer closed before TLS was there.
    Unshaken,
    /// It is no name that TLS could ask for.
    Name(Box<str>),
}

impl Failure {
    pub(super) fn named(self, name: &str) -> Self {
        match self {
            Self::Tls(error) => Self::TlsOf(error, name.into()),
            other => other,
        }
    }

    pub(super) fn at(self, endpoint: &Endpoint) -> OutboundError {
        let endpoint = endpoint.clone();
        match self {
            Self::Connect(reason) => OutboundError::Connect { endpoint, reason },
            Self::Timeout(awaited, span) => OutboundError::Timeout { endpoint, awaited, span },
            Self::Lost(reason) => OutboundError::Lost { endpoint, reason },
            Self::Tls(error) => OutboundError::Tls { endpoint, reason: error.to_string() },
            Self::TlsOf(error, name) => OutboundError::Tls { endpoint, reason: explain(&error, &name) },
            Self::Unshaken => {
                OutboundError::Tls { endpoint, reason: "the server closed the connection in the handshake".into() }
            }
            Self::Name(name) => OutboundError::Tls {
                endpoint,
                reason: format!(
                    "{name:?} is neither a host name nor an address (set tls_name to what is in its certificate)"
                ),
            },
        }
    }
}

/// Names of a certificate that are told, where it has another than it should: some have hundreds.
const NAMES_MAX: usize = 5;

/// Why a certificate was not taken, with what to do.
fn explain(error: &TlsError, name: &str) -> String {
    let TlsError::InvalidCertificate(reason) = error else { return error.to_string() };
    match reason {
        CertificateError::UnknownIssuer => {
            "its certificate is from an authority that is not trusted here (set tls_ca to \
             the file of that authority; for a certificate signed by itself, to the file of the certificate)"
                .into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            let names = match reason {
                CertificateError::NotValidForNameContext { presented, .. } if !presented.is_empty() => {
                    // The library writes them as `DnsName("mx.example.org")`.
                    let plain = presented.iter().map(|name| name.split('"').nth(1).unwrap_or(name));
                    format!(", but for {}", plain.take(NAMES_MAX).collect::<Vec<_>>().join(", "))
                }
                _ => String::new(),
            };
            format!("its certificate is not for {name}{names} (set tls_name to a name that is in the certificate)")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("its certificate has expired, and has to be renewed there ({error})")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("its certificate is not valid yet: is the clock of this host right? ({error})")
        }
        _ => error.to_string(),
    }
}
