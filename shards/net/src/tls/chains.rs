//! The server's certificates: read from files, and chosen by what a client asks for.

use super::der::Fields;
use super::staple::{self, Staple};
use super::{CertificateFiles, aws_lc_rs};
use crate::NetError;
use ringpost_base::Timestamp;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, SignatureAlgorithm};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

/// How large a file of certificates, a key or an OCSP response may be. The roots of all of the Web are a quarter of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A chain and its key as they were read, from which each shard makes its own.
pub(super) struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    staple: Option<Staple>,
    names: Vec<Box<str>>,
    expires: Option<Timestamp>,
}

impl Chain {
    /// Reads the files of a certificate and looks whether they go together.
    pub(super) fn read(files: &CertificateFiles, now: Timestamp) -> Result<Self, NetError> {
        let certificates = certificates(&files.cert)?;
        let key = private_key(&files.key)?;
        // The library makes the pair to compare its halves; the shards' are made later.
        CertifiedKey::from_der(certificates.clone(), key.clone_key(), &aws_lc_rs::default_provider())
            .map_err(|error| mismatch(files, &certificates, &key, &error))?;
        let end = &certificates[0];
        let names = names(end).ok_or_else(|| wrong(&files.cert, "the first certificate in it can't be read"))?;
        let staple = files.ocsp.as_deref().map(|path| staple(path, end, now)).transpose()?.flatten();
        let expires = Fields::read(end).map(|fields| fields.not_after);
        Ok(Self { certificates, key, staple, names, expires })
    }

    pub(super) fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    fn certified(&self) -> Result<CertifiedKey, NetError> {
        CertifiedKey::from_der(self.certificates.clone(), self.key.clone_key(), &aws_lc_rs::default_provider())
            .map_err(|error| NetError::Tls(error.to_string()))
    }
}

fn wrong(path: &Path, reason: impl Into<String>) -> NetError {
    NetError::Certificate { path: path.to_owned(), reason: reason.into() }
}

/// A file as a whole, if it is not unreasonably large.
pub(super) fn contents(path: &Path) -> Result<Vec<u8>, NetError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| wrong(path, format!("can't be read: {error}{}", hint(&error))))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong(path, format!("is larger than {FILE_BYTES_MAX} bytes: it is something else")));
    }
    Ok(bytes)
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => " (is the path in [tls] right?)",
        io::ErrorKind::PermissionDenied => " (the user that the server runs as must be able to read it)",
        _ => "",
    }
}

/// The certificates in a PEM file; at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, NetError> {
    let text = contents(path)?;
    let certificates = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(path, format!("can't be read as PEM certificates: {error}")))?;
    if certificates.is_empty() {
        return Err(wrong(path, "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, NetError> {
    let text = contents(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound if text.windows(9).any(|word| word == b"ENCRYPTED") => wrong(
            path,
            "holds a key that is locked with a passphrase, which nobody could give when the server starts: store it \
             without one (openssl pkey -in LOCKED -out KEY), readable by the server's user alone",
        ),
        pem::Error::NoItemsFound => wrong(path, "holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)"),
        error => wrong(path, format!("can't be read as a PEM private key: {error}")),
    })
}

/// Why a certificate and a key do not go together, and what to do.
fn mismatch(
    files: &CertificateFiles,
    certificates: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    error: &Error,
) -> NetError {
    let cert = files.cert.display();
    match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            let is_its = |certificate: &CertificateDer<'static>| {
                let alone = vec![certificate.clone()];
                CertifiedKey::from_der(alone, key.clone_key(), &aws_lc_rs::default_provider()).is_ok()
            };
            if certificates.iter().skip(1).any(is_its) {
                return wrong(&files.cert, "has its certificates in the wrong order: the server's own comes first");
            }
            wrong(&files.key, format!("is not the key of the certificate in {cert}: they must be renewed together"))
        }
        Error::InvalidCertificate(reason) => wrong(&files.cert, format!("the first certificate in it: {reason:?}")),
        error => wrong(&files.key, format!("holds a key that can't be used: {error} (RSA needs 2048 bits or more)")),
    }
}

/// The host names that a certificate is for.
fn names(certificate: &CertificateDer<'_>) -> Option<Vec<Box<str>>> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    Some(certificate.valid_dns_names().map(|name| name.to_ascii_lowercase().into()).collect())
}

/// A response that is of no use is left out and said so: a server without a staple is better than one that does not start.
fn staple(path: &Path, end: &CertificateDer<'_>, now: Timestamp) -> Result<Option<Staple>, NetError> {
    match staple::read(contents(path)?, end, now) {
        staple::Read::Good(staple) => Ok(Some(staple)),
        staple::Read::Useless(why) => {
            tracing::warn!(file = %path.display(), why, "OCSP response is not stapled");
            Ok(None)
        }
        staple::Read::Malformed(why) => Err(wrong(path, why)),
    }
}

/// A chain as one shard uses it.
#[derive(Debug)]
struct Pair {
    bare: Arc<CertifiedKey>,
    /// The same with its OCSP response, and when that gets too old.
    stapled: Option<(Arc<CertifiedKey>, Option<Timestamp>)>,
}

impl Pair {
    fn new(chain: &Chain) -> Result<Self, NetError> {
        let bare = chain.certified()?;
        let with = |staple: &Staple| {
            let stapled = CertifiedKey { ocsp: Some(staple.response.clone()), ..bare.clone() };
            (Arc::new(stapled), staple.stale)
        };
        let stapled = chain.staple.as_ref().map(with);
        Ok(Self { bare: Arc::new(bare), stapled })
    }

    fn fits(&self, hello: &ClientHello<'_>) -> bool {
        self.bare.key.choose_scheme(hello.signature_schemes()).is_some()
    }

    fn at(&self, now: Timestamp) -> Arc<CertifiedKey> {
        match &self.stapled {
            Some((stapled, stale)) if stale.is_none_or(|stale| now < stale) => stapled.clone(),
            _ => self.bare.clone(),
        }
    }
}

/// The certificates, ECDSA and Ed25519 before RSA: the first that fits the name and what the client can check is used.
#[derive(Debug)]
pub(super) struct Chains {
    pairs: Vec<Pair>,
    /// Which pairs are for a name, in order. Wildcards are in it as they are written.
    by_name: HashMap<Box<str>, Vec<usize>>,
}

impl Chains {
    pub(super) fn new(chains: &[Chain]) -> Result<Self, NetError> {
        let pairs = chains.iter().map(|chain| Ok((Pair::new(chain)?, chain.names.clone())));
        let mut pairs = pairs.collect::<Result<Vec<_>, NetError>>()?;
        pairs.sort_by_key(|(pair, _)| pair.bare.key.algorithm() == SignatureAlgorithm::RSA);
        let mut by_name = HashMap::<Box<str>, Vec<usize>>::new();
        for (at, (_, names)) in pairs.iter().enumerate() {
            for name in names {
                by_name.entry(name.clone()).or_default().push(at);
            }
        }
        Ok(Self { pairs: pairs.into_iter().map(|(pair, _)| pair).collect(), by_name })
    }

    /// The pairs for a name, those that name it before those with a wildcard, which stands for one label.
    fn for_name(&self, name: &str) -> impl Iterator<Item = &Pair> {
        let wildcard = name.split_once('.').map(|(_, domain)| format!("*.{domain}"));
        let exact = self.by_name.get(name);
        let wild = wildcard.and_then(|wildcard| self.by_name.get(&*wildcard));
        exact.into_iter().chain(wild).flatten().map(|at| &self.pairs[*at])
    }
}

impl ResolvesServerCert for Chains {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| {
            // A name may be written with the root's dot, which certificates leave out.
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            self.for_name(&name).find(|pair| pair.fits(&hello))
        });
        // A name that no certificate is for gets the first: mail is rather sent over it than in the clear. Where none fits,
        // the library finds that too, and then gives the reason and the alert that belong to it.
        let pair = named.or_else(|| self.pairs.iter().find(|pair| pair.fits(&hello))).or(self.pairs.first())?;
        Some(pair.at(ringpost_runtime::now().wall))
    }
}
