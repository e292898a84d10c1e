//! The self-signed certificate that is made where none is configured, so that STARTTLS works from the first start.

use crate::NetError;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A certificate chain and its key, both as PEM text.
pub struct Pem {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// Makes a self-signed ECDSA P-256 certificate for a name.
pub fn self_signed(name: &str) -> Result<Pem, NetError> {
    let wrong = |error: rcgen::Error| NetError::Tls(format!("no self-signed certificate for {name}: {error}"));
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(wrong)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(wrong)?;
    let certificate = params.self_signed(&key).map_err(wrong)?;
    Ok(Pem { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// The paths of the self-signed pair in `directory`, made first if it is not there. The key is readable by its owner only.
pub fn stored_or_made(directory: &Path, name: &str) -> Result<(PathBuf, PathBuf), NetError> {
    let (certificate, key) = (directory.join("self-signed.crt"), directory.join("self-signed.key"));
    if !(is_for(&certificate, name) && key.exists()) {
        let pem = self_signed(name)?;
        let written = fs::create_dir_all(directory)
            .and_then(|()| write(&key, &pem.key, 0o600))
            .and_then(|()| write(&certificate, &pem.certificate, 0o644));
        written.map_err(|error| NetError::Certificate {
            path: directory.to_owned(),
            reason: format!("the self-signed certificate can't be stored there: {error}"),
        })?;
    }
    Ok((certificate, key))
}

/// Whether the file holds a certificate for the name: the server may have got another since it was made.
fn is_for(certificate: &Path, name: &str) -> bool {
    let (Ok(der), Ok(name)) = (CertificateDer::from_pem_file(certificate), ServerName::try_from(name)) else {
        return false;
    };
    webpki::EndEntityCert::try_from(&der).is_ok_and(|cert| cert.verify_is_valid_for_subject_name(&name).is_ok())
}

fn write(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
