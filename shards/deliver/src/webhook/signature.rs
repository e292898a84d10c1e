//! Signatures of requests: proof for the receiver that a request comes from who has the secret, and when it was made.

use aws_lc_rs::hmac;
use std::fmt::Write;
use std::path::Path;
use thiserror::Error;

/// Fewest bytes of a secret: with 128 random bits nobody guesses it.
const SECRET_BYTES_MIN: usize = 16;
/// Most bytes of a secret: a file with more was meant for something else.
const SECRET_BYTES_MAX: usize = 4096;

/// What is wrong with a secret.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum SecretError {
    /// Too short.
    #[error(
        "the secret has {0} bytes, and at least {SECRET_BYTES_MIN} are needed: make one with `openssl rand -hex 32`"
    )]
    Short(usize),
    /// Too long.
    #[error("the secret has {0} bytes, and {SECRET_BYTES_MAX} are the most: is it the right file?")]
    Long(usize),
}

/// What requests to a target are signed with.
#[derive(Clone)]
pub(super) struct Secret(hmac::Key);

impl Secret {
    /// The secret that a file holds: all of it, without the line end that editors leave behind.
    pub(super) fn new(file: &[u8]) -> Result<Self, SecretError> {
        let secret = file.strip_suffix(b"\n").unwrap_or(file);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        match secret.len() {
            len if len < SECRET_BYTES_MIN => Err(SecretError::Short(len)),
            len if len > SECRET_BYTES_MAX => Err(SecretError::Long(len)),
            _ => Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, secret))),
        }
    }

    /// Reads a file, and of one that is far too long no more than it takes to know that.
    pub(super) fn bytes_of(path: &Path) -> std::io::Result<Vec<u8>> {
        use std::io::Read;
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(SECRET_BYTES_MAX as u64 + 3).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Begins to sign a body, as of a second of the Unix epoch.
    pub(super) fn sign(&self, at: u64) -> Signing {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(format!("{at}.").as_bytes());
        Signing { at, context }
    }
}

/// A signature that is being made.
pub(super) struct Signing {
    at: u64,
    context: hmac::Context,
}

impl Signing {
    /// More of the body.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// The value of the header field.
    pub(super) fn finish(self) -> String {
        let mut value = format!("t={},v1=", self.at);
        put_hex(self.context.sign().as_ref(), &mut value);
        value
    }
}

/// Appends bytes in lower case hexadecimal.
pub(super) fn put_hex(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        // Writing into a String never fails.
        let _ = write!(out, "{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"0123456789abcdef";

    fn signed(secret: &[u8], at: u64, pieces: &[&[u8]]) -> String {
        let mut signing = Secret::new(secret).expect("a secret").sign(at);
        pieces.iter().for_each(|piece| signing.update(piece));
        signing.finish()
    }

    /// Computed by `printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac 0123456789abcdef`.
    #[test]
    fn signatures_are_those_of_another_implementation() {
        let want = "t=1700000000,v1=9eb18f493f8ec135d9eb2dad817c369bb4e9cbfa818657897a7437c1cd8c3a23";
        assert_eq!(signed(SECRET, 1_700_000_000, &[b"{\"a\":1}"]), want);
        assert_eq!(signed(SECRET, 1_700_000_000, &[b"{\"a", b"", b"\":1}"]), want, "in pieces");
        assert_eq!(signed(b"0123456789abcdef\n", 1_700_000_000, &[b"{\"a\":1}"]), want, "with a line end");
        assert_eq!(signed(b"0123456789abcdef\r\n", 1_700_000_000, &[b"{\"a\":1}"]), want, "with a line end of DOS");
        assert_ne!(signed(b"0123456789abcdef\n\n", 1_700_000_000, &[b"{\"a\":1}"]), want, "with more than that");
        assert_ne!(signed(SECRET, 1_700_000_001, &[b"{\"a\":1}"]), want, "at another time");
    }

    #[test]
    fn secrets_that_are_none() {
        for (bytes, want) in [
            (&b""[..], Err(SecretError::Short(0))),
            (b"0123456789abcde\n", Err(SecretError::Short(15))),
            (&[b'x'; SECRET_BYTES_MAX + 1], Err(SecretError::Long(SECRET_BYTES_MAX + 1))),
            (&[b'x'; SECRET_BYTES_MAX], Ok(())),
        ] {
            assert_eq!(Secret::new(bytes).map(drop), want);
        }
    }
}
