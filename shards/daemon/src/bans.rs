//! The bans on disk, so that they are in force again after a restart.

use anyhow::{Context, Result};
use ringpost_policy::BanBook;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The file that keeps the bans.
pub(crate) struct BanFile {
    path: PathBuf,
}

impl BanFile {
    /// Reads the file; a book without bans if there is none. Lines that can't be read are said and left out.
    pub(crate) fn open(path: PathBuf) -> Result<(Self, BanBook)> {
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok((Self { path }, BanBook::default())),
            Err(error) => return Err(error).with_context(|| format!("{}: the bans can't be read", path.display())),
        };
        // Bytes that are no text damage the line that they are in, and not the others.
        let (book, bad) = BanBook::decode(&String::from_utf8_lossy(&bytes));
        for line in bad {
            tracing::error!(file = %path.display(), line = line.line as u64, reason = line.reason,
                "a ban can't be read, and is not in force");
        }
        Ok((Self { path }, book))
    }

    /// Replaces the file: written beside it, synced, renamed over it, so that a crash leaves the old or the new one.
    pub(crate) fn save(&self, book: &BanBook) -> Result<()> {
        let beside = self.path.with_extension("new");
        let written = write_synced(&beside, book.encode().as_bytes())
            .and_then(|()| fs::rename(&beside, &self.path))
            .and_then(|()| self.path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all()));
        written.with_context(|| {
            format!("{}: the bans can't be written, and would be lost with a restart", self.path.display())
        })
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
