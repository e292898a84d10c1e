//! TLS as a client: whom we believe, what we show of ourselves, and what a handshake came to.

use super::error::Failure;
use crate::NetError;
use crate::tls::{Strength, provider};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, ProtocolVersion, RootCertStore,
    SignatureScheme,
};
use std::{fmt, sync::Arc};

/// What we show of ourselves to servers that ask.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The certificate chain, PEM, our own certificate first.
    pub chain: Vec<u8>,
    /// Its private key, PEM, without a passphrase.
    pub key: Vec<u8>,
}

/// Without the key.
impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIdentity").field("chain", &String::from_utf8_lossy(&self.chain)).finish_non_exhaustive()
    }
}

/// What TLS is set up from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTlsOptions {
    /// Whether the server's certificate has to be right: from an authority that is trusted, for the name, valid now. If not,
    /// whoever answers is believed: who only listens is kept out, who stands between is not.
    pub verify: bool,
    /// The authorities that are trusted, PEM. None: those that the system trusts.
    pub ca: Option<Vec<u8>>,
    /// What is shown to servers that ask.
    pub identity: Option<ClientIdentity>,
}

/// What a TLS handshake came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// Protocol version, as `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite's name.
    pub cipher: &'static str,
    /// Whether the server is known to be the one that was asked for.
    pub verified: bool,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

/// Makes the TLS sessions of one shard with the servers of one target: those that share it resume each other's sessions.
/// Cheap to clone; clones belong to the same shard.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    verified: bool,
}

impl ClientTls {
    /// Sets it up. If the system's authorities are wanted their files are read, which takes some milliseconds.
    pub fn new(options: &ClientTlsOptions) -> Result<Self, NetError> {
        let provider = Arc::new(provider(Strength::default(), true));
        let verifier: Arc<dyn ServerCertVerifier> = if options.verify {
            let roots = Arc::new(roots(options.ca.as_deref())?);
            WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
                .build()
                .map_err(|error| NetError::Tls(format!("the trusted authorities can't be used: {error}")))?
        } else {
            Arc::new(Believing { algorithms: provider.signature_verification_algorithms })
        };
        let config = config(provider, verifier, options.identity.as_ref())?;
        Ok(Self { config: Arc::new(config), verified: options.verify })
    }

    /// What the sessions are made from, for connections that something else than an `Outbound` opens.
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    pub(super) fn session(&self, name: &str) -> Result<ClientConnection, Failure> {
        // A name may be written with the root's dot, which certificates leave out.
        let server = ServerName::try_from(name.trim_end_matches('.')).map_err(|_| Failure::Name(name.into()))?;
        ClientConnection::new(self.config.clone(), server.to_owned()).map_err(Failure::Tls)
    }

    pub(super) fn facts(&self, session: &ClientConnection) -> TlsFacts {
        let version = match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        };
        let suite = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        TlsFacts {
            version,
            cipher: suite.unwrap_or("unknown"),
            verified: self.verified,
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("verified", &self.verified).finish_non_exhaustive()
    }
}

fn config(
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Option<&ClientIdentity>,
) -> Result<ClientConfig, NetError> {
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| NetError::Tls(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let Some(identity) = identity else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(&identity.chain, "our certificate (tls_cert)")?;
    let key = PrivateKeyDer::from_pem_slice(&identity.key).map_err(|error| {
        NetError::Tls(format!("our key (tls_key) can't be read as a PEM private key without a passphrase: {error}"))
    })?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| NetError::Tls(format!("tls_cert and tls_key do not go together: {error}")))
}

fn roots(ca: Option<&[u8]>) -> Result<RootCertStore, NetError> {
    let mut roots = RootCertStore::empty();
    let Some(ca) = ca else {
        let found = rustls_native_certs::load_native_certs();
        // Some of a system's authorities are always of a kind that nobody can use.
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
            return Err(NetError::Tls(format!(
                "this system has no trusted authorities{why}: install its package ca-certificates, or set tls_ca"
            )));
        }
        return Ok(roots);
    };
    for (at, certificate) in certificates(ca, "the file of authorities (tls_ca)")?.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| {
            NetError::Tls(format!("certificate {} in tls_ca can't be used as an authority: {error}", at + 1))
        })?;
    }
    Ok(roots)
}

/// The certificates in PEM text; at least one.
fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, NetError> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| NetError::Tls(format!("{what} can't be read as PEM certificates: {error}")))?;
    if certificates.is_empty() {
        return Err(NetError::Tls(format!("{what} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")));
    }
    Ok(certificates)
}

/// Believes whoever answers (RFC 7435). What is signed in the handshake must still be signed with the key of the
/// certificate that is shown, unless that is one which can't be read: encrypted to nobody known is better than in clear.
#[derive(Debug)]
struct Believing {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Believing {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !is_readable(certificate) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !is_readable(certificate) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn is_readable(certificate: &CertificateDer<'_>) -> bool {
    webpki::EndEntityCert::try_from(certificate).is_ok()
}
