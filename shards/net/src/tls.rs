//! TLS: which certificate, which versions, resumption.

use crate::NetError;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection, SignatureAlgorithm, SupportedProtocolVersion, version};
use std::{path::Path, path::PathBuf, sync::Arc};

/// What TLS is set up from.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// Pairs of PEM files: certificate chain and key.
    pub certificates: Vec<(PathBuf, PathBuf)>,
    /// Whether TLS 1.2 is refused.
    pub only_13: bool,
}

/// The key that session tickets are sealed with, shared by all shards so that any of them can resume a session.
#[derive(Clone)]
pub struct Ticketing(Arc<dyn ProducesTickets>);

impl Ticketing {
    /// A fresh key; it changes by itself every few hours.
    pub fn new() -> Result<Self, NetError> {
        aws_lc_rs::Ticketer::new().map(Self).map_err(|error| NetError::Tls(error.to_string()))
    }
}

/// Makes the TLS sessions of one shard.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
}

impl Acceptor {
    /// Reads the certificates and builds the configuration. Each shard has one of its own, so that none shares a
    /// counter with another.
    pub fn new(options: &TlsOptions, ticketing: &Ticketing) -> Result<Self, NetError> {
        let resolver = Certificates::read(&options.certificates)?;
        let versions: &[&SupportedProtocolVersion] =
            if options.only_13 { &[&version::TLS13] } else { &[&version::TLS13, &version::TLS12] };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| NetError::Tls(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        config.ticketer = ticketing.0.clone();
        config.send_tls13_tickets = 1;
        Ok(Self { config: Arc::new(config) })
    }

    pub(crate) fn connection(&self) -> Result<ServerConnection, rustls::Error> {
        ServerConnection::new(self.config.clone())
    }
}

/// The certificates, ECDSA and Ed25519 before RSA: the first that fits the name and what the client can check is used.
#[derive(Debug)]
struct Certificates(Vec<Arc<CertifiedKey>>);

impl Certificates {
    fn read(files: &[(PathBuf, PathBuf)]) -> Result<Self, NetError> {
        let mut keys = files.iter().map(|(cert, key)| read_pair(cert, key)).collect::<Result<Vec<_>, _>>()?;
        keys.sort_by_key(|pair| pair.key.algorithm() == SignatureAlgorithm::RSA);
        Ok(Self(keys))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let fits = |pair: &&Arc<CertifiedKey>| pair.key.choose_scheme(hello.signature_schemes()).is_some();
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| self.0.iter().filter(fits).find(|pair| is_for(pair, &name)));
        // A name that no certificate is for gets the first: mail is rather sent over it than in the clear.
        named.or_else(|| self.0.iter().find(fits)).cloned()
    }
}

fn is_for(pair: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let Some(end) = pair.cert.first() else { return false };
    webpki::EndEntityCert::try_from(end).is_ok_and(|cert| cert.verify_is_valid_for_subject_name(name).is_ok())
}

fn read_pair(cert_path: &Path, key_path: &Path) -> Result<Arc<CertifiedKey>, NetError> {
    let wrong = |path: &Path, reason: String| NetError::Certificate { path: path.to_owned(), reason };
    let chain = CertificateDer::pem_file_iter(cert_path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(cert_path, format!("can't be read as PEM certificates: {error}")))?;
    if chain.is_empty() {
        return Err(wrong(cert_path, "holds no certificate".into()));
    }
    let key = PrivateKeyDer::from_pem_file(key_path)
        .map_err(|error| wrong(key_path, format!("can't be read as a PEM private key: {error}")))?;
    let pair = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map_err(|error| wrong(key_path, format!("does not go with {}: {error}", cert_path.display())))?;
    Ok(Arc::new(pair))
}
