//! TLS for the client's side of a connection.
//!
//! Without `--ca` any certificate is taken: this is a test tool, and the server under test often has one that it made
//! itself. Signatures are still checked but in a flood, so that what a sender of mail does is what is measured.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};
use tokio_rustls::TlsConnector;

use crate::args::{DialArgs, TlsVersion};

static ONLY_12: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS12];
static ONLY_13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];

/// Whom a client trusts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trust<'a> {
    /// Whom the roots in a PEM file vouch for.
    Roots(&'a Path),
    /// Anyone who has the key of the certificate shown.
    Anyone,
    /// Anyone, and nothing is computed to find out. For floods: who sends one doesn't care, and a client that
    /// works harder than the server can't keep it busy.
    Unchecked,
}

impl<'a> Trust<'a> {
    /// What a dial asks for.
    pub(crate) fn of(dial: &'a DialArgs) -> Self {
        dial.ca.as_deref().map_or(Self::Anyone, Self::Roots)
    }

    /// The same for a flood, where nothing is checked unless it is asked for.
    pub(crate) fn of_flood(dial: &'a DialArgs) -> Self {
        dial.ca.as_deref().map_or(Self::Unchecked, Self::Roots)
    }
}

/// Makes the connector that all sessions share.
pub(crate) fn connector(dial: &DialArgs, trust: Trust<'_>) -> Result<TlsConnector> {
    client_config(trust, dial.tls_version, dial.tls_resume).map(TlsConnector::from)
}

/// The client's side: whom it trusts, what it speaks, whether it resumes sessions.
pub(crate) fn client_config(trust: Trust<'_>, version: Option<TlsVersion>, resume: bool) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = verifier(trust, &provider)?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions(version))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    if !resume {
        config.resumption = Resumption::disabled();
    }
    Ok(Arc::new(config))
}

/// The versions to offer.
pub(crate) fn versions(only: Option<TlsVersion>) -> &'static [&'static SupportedProtocolVersion] {
    match only {
        None => rustls::ALL_VERSIONS,
        Some(TlsVersion::Tls12) => &ONLY_12,
        Some(TlsVersion::Tls13) => &ONLY_13,
    }
}

/// Version, cipher suite and group of a session, as they stand in reports.
pub(crate) fn label(session: &ClientConnection) -> String {
    let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS");
    let suite = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown");
    let group = session.negotiated_key_exchange_group().and_then(|group| group.name().as_str()).unwrap_or("-");
    format!("{version} {suite} {group}")
}

/// The name a server is expected to have.
pub(crate) fn server_name(dial: &DialArgs, target: &str) -> Result<ServerName<'static>> {
    let host = target.rsplit_once(':').map_or(target, |(host, _)| host).trim_matches(['[', ']']);
    let name = dial.server_name.as_deref().unwrap_or(host);
    ServerName::try_from(name.to_owned()).map_err(|_| anyhow!("'{name}' can't be a server's name in TLS"))
}

fn verifier(trust: Trust<'_>, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>> {
    let algorithms = provider.signature_verification_algorithms;
    let path = match trust {
        Trust::Roots(path) => path,
        Trust::Anyone => return Ok(Arc::new(TakeAny { algorithms, checks: true })),
        Trust::Unchecked => return Ok(Arc::new(TakeAny { algorithms, checks: false })),
    };
    let what = || format!("can't read the roots of --ca {}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(anyhow::Error::new).with_context(what)? {
        roots.add(certificate.map_err(anyhow::Error::new).with_context(what)?).with_context(what)?;
    }
    ensure!(!roots.is_empty(), "--ca {} holds no certificate", path.display());
    Ok(WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build()?)
}

/// Takes any certificate, for whatever name.
#[derive(Debug)]
struct TakeAny {
    algorithms: WebPkiSupportedAlgorithms,
    /// Whether the server must have the key of its certificate.
    checks: bool,
}

impl ServerCertVerifier for TakeAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.checks {
            verify_tls12_signature(message, cert, dss, &self.algorithms)
        } else {
            Ok(HandshakeSignatureValid::assertion())
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.checks {
            verify_tls13_signature(message, cert, dss, &self.algorithms)
        } else {
            Ok(HandshakeSignatureValid::assertion())
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
