//! Files that go when the test does, and signatures as a receiver makes them.

use super::shard::Content;
use aws_lc_rs::hmac;
use ringpost_store::BodyFile;
use std::path::PathBuf;
use tempfile::TempDir;

/// A file in a directory of its own.
pub(super) struct File {
    _folder: TempDir,
    path: PathBuf,
    stored: BodyFile,
}

impl File {
    pub(super) fn new(bytes: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, bytes).expect("written");
        let stored = BodyFile { len: bytes.len() as u64, crc: ringpost_spool::checksum(0, bytes) };
        Self { _folder: folder, path, stored }
    }

    /// As the config names it.
    pub(super) fn name(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    /// As a message that was in it when the file was made.
    pub(super) fn content(&self) -> Content {
        Content::File(self.path.clone(), self.stored)
    }

    pub(super) fn becomes(&self, bytes: &[u8]) {
        std::fs::write(&self.path, bytes).expect("written");
    }

    pub(super) fn goes(&self) {
        std::fs::remove_file(&self.path).expect("was there");
    }
}

/// What the field with the signature has to be.
pub(super) fn signed(secret: &[u8], at: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, &[at.as_bytes(), b".", body].concat());
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={at},v1={hex}")
}
