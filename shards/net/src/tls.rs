//! TLS: which certificates, versions and suites; resumption; and what a handshake came to.
//!
//! An [`Acceptor`] is made from files, off the shards, and never changes. To reload is to make new ones and to swap them:
//! sessions under way keep what they began with, and tickets from before are still taken, since the key they are sealed
//! with is shared ([`Ticketing`]).

mod chains;
mod clients;
mod der;
mod staple;
mod suites;
#[cfg(test)]
mod tests;

pub use clients::{ClientCertificate, Fingerprint};
pub(crate) use suites::provider;

use crate::NetError;
use chains::{Chain, Chains};
use clients::Clients;
use ringpost_base::Timestamp;
use rustls::crypto::aws_lc_rs;
use rustls::server::{NoClientAuth, ProducesTickets, danger::ClientCertVerifier};
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection, SupportedProtocolVersion, version};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A certificate as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, PEM, the server's own certificate first.
    pub cert: PathBuf,
    /// Its private key, PEM, without a passphrase.
    pub key: PathBuf,
    /// An OCSP response for it, DER, to be stapled.
    pub ocsp: Option<PathBuf>,
}

/// The lowest protocol version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMin {
    /// TLS 1.2.
    #[default]
    V12,
    /// TLS 1.3.
    V13,
}

/// The shortest key that records may be encrypted with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    /// 128 bits.
    #[default]
    Bits128,
    /// 256 bits.
    Bits256,
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not.
    #[default]
    Off,
    /// They are, and none is required.
    Ask,
}

/// What TLS is set up from.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// The certificates; among those that fit a client, ECDSA before RSA, and else the first one first.
    pub certificates: Vec<CertificateFiles>,
    /// The lowest protocol version.
    pub min_version: TlsMin,
    /// The shortest key that records may be encrypted with.
    pub min_strength: Strength,
    /// Whether a key exchange that a quantum computer would not break is offered: X25519 joined with ML-KEM-768.
    pub post_quantum: bool,
    /// Whether clients are asked for a certificate.
    pub client_certificates: ClientCertificates,
    /// Roots, PEM, that a client's certificate is verified against. What comes of it is told, and nothing depends on it.
    pub client_ca: Option<PathBuf>,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self {
            certificates: Vec::new(),
            min_version: TlsMin::default(),
            min_strength: Strength::default(),
            post_quantum: true,
            client_certificates: ClientCertificates::default(),
            client_ca: None,
        }
    }
}

/// The key that session tickets are sealed with, shared by all shards so that any of them can resume a session, and kept
/// over a reload.
#[derive(Clone)]
pub struct Ticketing(Arc<dyn ProducesTickets>);

impl Ticketing {
    /// A fresh key; it changes by itself every few hours.
    pub fn new() -> Result<Self, NetError> {
        aws_lc_rs::Ticketer::new().map(Self).map_err(|error| NetError::Tls(error.to_string()))
    }
}

/// A finished TLS handshake.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// Protocol version, as `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite's name.
    pub cipher: &'static str,
    /// The key exchange group's name; `none` where a TLS 1.2 session was resumed, which exchanges no key.
    pub group: &'static str,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// The host that the client asked for, in lower case.
    pub server_name: Option<Box<str>>,
    /// The client's certificate, if it was asked for and showed one.
    pub client: Option<Box<ClientCertificate>>,
}

/// Makes the TLS sessions of one shard. Cheap to clone; clones belong to the same shard.
#[derive(Clone)]
pub struct Acceptor(Arc<Inner>);

struct Inner {
    config: Arc<ServerConfig>,
    /// What clients' certificates are judged by, if they are asked for any.
    clients: Option<Arc<Clients>>,
    expires: Option<Timestamp>,
}

/// When the certificate in a PEM file ends, the first one if there are several; nothing if that can't be read from it. Blocks,
/// so it is for a thread that may.
///
/// # Errors
/// If the file can't be read, or holds no certificate.
pub fn certificate_expires(path: &Path) -> Result<Option<Timestamp>, NetError> {
    let certificates = chains::certificates(path)?;
    Ok(certificates.first().and_then(|certificate| Some(der::Fields::read(certificate)?.not_after)))
}

impl Acceptor {
    /// Reads the files once and makes an acceptor for each shard. Each has a configuration and keys of its own, so that no
    /// shard shares a counter with another. Blocks, so it is for a thread that may.
    pub fn all(options: &TlsOptions, ticketing: &Ticketing, shards: usize) -> Result<Vec<Self>, NetError> {
        let now = ringpost_runtime::now().wall;
        let files = options.certificates.iter();
        let chains = files.map(|files| Chain::read(files, now)).collect::<Result<Vec<_>, _>>()?;
        if chains.is_empty() {
            return Err(NetError::Tls("no certificate is configured".into()));
        }
        let clients = match options.client_certificates {
            ClientCertificates::Off => None,
            ClientCertificates::Ask => Some(Clients::read(options.client_ca.as_deref())?),
        };
        (0..shards).map(|_| Self::new(options, ticketing, &chains, clients.as_ref())).collect()
    }

    fn new(
        options: &TlsOptions,
        ticketing: &Ticketing,
        chains: &[Chain],
        clients: Option<&Clients>,
    ) -> Result<Self, NetError> {
        let clients = clients.cloned().map(Arc::new);
        let verifier: Arc<dyn ClientCertVerifier> = match &clients {
            Some(clients) => clients.clone(),
            None => Arc::new(NoClientAuth),
        };
        let versions: &[&SupportedProtocolVersion] = match options.min_version {
            TlsMin::V12 => &[&version::TLS13, &version::TLS12],
            TlsMin::V13 => &[&version::TLS13],
        };
        let provider = suites::provider(options.min_strength, options.post_quantum);
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .map_err(|error| NetError::Tls(error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(Chains::new(chains)?));
        config.ticketer = ticketing.0.clone();
        config.send_tls13_tickets = 1;
        // Our order of suites is by strength; clients' orders are by what was fast on their hardware, or by accident.
        config.ignore_client_order = true;
        let expires = chains.iter().filter_map(Chain::expires).min();
        Ok(Self(Arc::new(Inner { config: Arc::new(config), clients, expires })))
    }

    /// When the first of the certificates expires, for a warning in time.
    pub fn expires(&self) -> Option<Timestamp> {
        self.0.expires
    }

    pub(crate) fn connection(&self) -> Result<ServerConnection, rustls::Error> {
        ServerConnection::new(self.0.config.clone())
    }

    /// What a handshake came to.
    pub(crate) fn describe(&self, tls: &ServerConnection, now: Timestamp) -> Handshake {
        let version = match tls.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        };
        let suite = tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        let group = tls.negotiated_key_exchange_group().and_then(|group| group.name().as_str());
        let chain = tls.peer_certificates();
        let client = self.0.clients.as_ref().and_then(|clients| clients.judge(chain?, now)).map(Box::new);
        Handshake {
            version,
            cipher: suite.unwrap_or("unknown"),
            group: group.unwrap_or("none"),
            resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
            server_name: tls.server_name().map(Into::into),
            client,
        }
    }
}
