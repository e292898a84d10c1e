//! Clients' certificates: asked for, never required, and told of in the log.
//!
//! A certificate is no reason to refuse a session, whoever issued it and whatever is in it: mail from a host with a strange
//! certificate is as good as mail from one with none. What is refused is a proof that fails: a client that signs the
//! handshake with another key than its certificate's.

use super::chains::certificates;
use super::der::Fields;
use crate::NetError;
use ringpost_base::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme, SupportedCipherSuite};
use std::{fmt, path::Path, time::Duration};

/// Bytes of certificates that a client may show. They stay in memory for as long as the session and go into its ticket, which
/// has room for 64 KiB; chains of today are 2 to 6 KiB, with post-quantum signatures 20.
const CHAIN_BYTES_MAX: usize = 32 << 10;

/// Certificates between the client's and a root for which a path is looked for. What chains have is one to three; each
/// more multiplies the signatures that a malicious one makes us verify.
const INTERMEDIATES_MAX: usize = 4;

/// Characters of a certificate's name that are told: as many as a host name or a mail address has.
const SUBJECT_CHARS_MAX: usize = 255;

/// The SHA-256 of a certificate; printed in lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A certificate whose key the client has proved to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The first host or mail address it is for, else its common name; empty if it has neither.
    pub subject: Box<str>,
    /// Of the certificate as it was sent.
    pub fingerprint: Fingerprint,
    /// Whether it leads to one of the configured roots, at this time, for a client.
    pub verified: bool,
}

/// Asks clients for their certificate, and judges it.
#[derive(Clone, Debug)]
pub(super) struct Clients {
    roots: Vec<TrustAnchor<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Clients {
    /// Reads the roots. Without a file no certificate is ever verified.
    pub(super) fn read(roots: Option<&Path>) -> Result<Self, NetError> {
        let roots = roots.map(read_roots).transpose()?.unwrap_or_default();
        Ok(Self { roots, algorithms: aws_lc_rs::default_provider().signature_verification_algorithms })
    }

    /// What a chain is worth that a client has shown; nothing if it is such that its signature could not be checked.
    pub(super) fn judge(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Option<ClientCertificate> {
        let (end, intermediates) = chain.split_first()?;
        if !is_readable(end) {
            tracing::debug!("client certificate can't be read; it counts as none");
            return None;
        }
        let subject = Fields::read(end).and_then(|fields| fields.name()).unwrap_or_default();
        let subject = subject.chars().take(SUBJECT_CHARS_MAX).collect::<String>().into();
        let verified = self.verify(end, intermediates, now);
        Some(ClientCertificate { subject, fingerprint: fingerprint(end), verified })
    }

    fn verify(&self, end: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], now: Timestamp) -> bool {
        if self.roots.is_empty() || intermediates.len() > INTERMEDIATES_MAX {
            return false;
        }
        let Ok(end) = webpki::EndEntityCert::try_from(end) else { return false };
        let time = UnixTime::since_unix_epoch(Duration::from_secs(now.unix_seconds()));
        let usage = webpki::KeyUsage::client_auth();
        end.verify_for_usage(self.algorithms.all, &self.roots, intermediates, time, usage, None, None)
            .inspect_err(|error| tracing::debug!(%error, "client certificate does not verify"))
            .is_ok()
    }
}

fn read_roots(path: &Path) -> Result<Vec<TrustAnchor<'static>>, NetError> {
    let anchor = |(at, certificate): (usize, &CertificateDer<'_>)| {
        let anchor = webpki::anchor_from_trusted_cert(certificate).map_err(|error| NetError::Certificate {
            path: path.to_owned(),
            reason: format!("certificate {} in it can't be used as a root: {error}", at + 1),
        })?;
        Ok(anchor.to_owned())
    };
    certificates(path)?.iter().enumerate().map(anchor).collect()
}

/// Whether the library can read a certificate, and so check what is signed with its key.
fn is_readable(certificate: &CertificateDer<'_>) -> bool {
    webpki::EndEntityCert::try_from(certificate).is_ok()
}

fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    // The library's own SHA-256, which it names only by the suites that use it.
    let sha256 = match aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256 {
        SupportedCipherSuite::Tls12(suite) => suite.common.hash_provider,
        SupportedCipherSuite::Tls13(suite) => suite.common.hash_provider,
    };
    let digest = sha256.hash(certificate);
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest.as_ref());
    Fingerprint(fingerprint)
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: a client should show what it has, also if it is from elsewhere.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let bytes = intermediates.iter().fold(end.len(), |sum, certificate| sum + certificate.len());
        if bytes > CHAIN_BYTES_MAX {
            return Err(Error::General(format!("client shows {bytes} bytes of certificates")));
        }
        Ok(ClientCertVerified::assertion())
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
