//! TLS for the client's side of a connection.
//!
//! Without `--ca` any certificate is taken: this is a test tool, and the server under test often has one that it made
//! itself. Signatures are still checked, since a server must compute them and the measurement is to contain that work.

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

/// Makes the connector that all sessions share.
pub(crate) fn connector(dial: &DialArgs) -> Result<TlsConnector> {
    client_config(dial.ca.as_deref(), dial.tls_version, dial.tls_resume).map(TlsConnector::from)
}

/// The client's side: whom it trusts (anyone, without a file of roots), what it speaks, whether it resumes sessions.
pub(crate) fn client_config(ca: Option<&Path>, version: Option<TlsVersion>, resume: bool) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = verifier(ca, &provider)?;
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

fn verifier(ca: Option<&Path>, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>> {
    let Some(path) = ca else {
        return Ok(Arc::new(TakeAny(provider.signature_verification_algorithms)));
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
struct TakeAny(WebPkiSupportedAlgorithms);

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
        verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
