//! The file of the audit log.
//!
//! Invariants: what [`AuditFile::append`] says was written is on the disk. A failed append leaves the file as it was, or is
//! followed by a line end. The file has another name once it is [`BYTES_MAX`] long; there is one such older file. Whoever
//! moves the file away finds a new one in its place with the next entry.

use super::lines::{LINES_BYTES_MAX, Lines};
use crate::api::AuditEntry;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of the file before it is put aside: tens of thousands of entries.
pub(super) const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// For its owner alone.
const MODE: u32 = 0o600;

pub(super) struct AuditFile {
    path: PathBuf,
    /// Nothing after a failure: it is opened anew.
    file: Option<File>,
    /// Whether the end of the file may be within a line.
    torn: bool,
    bytes_max: u64,
    /// The file as of which the last lines are known.
    known: Option<Identity>,
}

/// Device and inode of a file, and its length: another one whenever somebody has written.
type Identity = (u64, u64, u64);

fn identity(meta: &fs::Metadata) -> Identity {
    (meta.dev(), meta.ino(), meta.len())
}

impl AuditFile {
    /// Opens it. Where the disk is full or fails it is tried again with the first entry.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        Self::open_with(path, BYTES_MAX)
    }

    pub(super) fn open_with(path: PathBuf, bytes_max: u64) -> io::Result<Self> {
        let mut opened = Self { path, file: None, torn: false, bytes_max, known: None };
        match opened.reopen() {
            Ok(()) => {}
            Err(error) if is_of_the_config(&error) => return Err(error),
            Err(error) => tracing::error!(path = %opened.path.display(), %error, "the audit log can't be opened"),
        }
        Ok(opened)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The lines at its end, and at the end of the older file; nothing if they are known, or there is no such file.
    pub(super) fn last_lines(&mut self) -> Option<Lines> {
        let there = fs::metadata(&self.path).ok().filter(fs::Metadata::is_file).as_ref().map(identity)?;
        if self.known == Some(there) {
            return None;
        }
        let mut lines = Lines::default();
        for path in [older(&self.path), self.path.clone()] {
            let tail = tail(&path).unwrap_or_default();
            // The first line may be the end of one; what can't be read is nothing to show.
            for line in tail.split(|byte| *byte == b'\n') {
                if let (Ok(text), Ok(_)) = (std::str::from_utf8(line), serde_json::from_slice::<AuditEntry>(line)) {
                    lines.push(text);
                }
            }
        }
        // What came meanwhile is read with the next look.
        self.known = Some(there);
        Some(lines)
    }

    /// Writes whole lines, and syncs them.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let written = self.make_ready().and_then(|()| self.write(lines));
        if written.is_err() {
            self.file = None;
        }
        written
    }

    /// Opens the file if it is not open or no longer the one of that name, and puts a full one aside.
    fn make_ready(&mut self) -> io::Result<()> {
        let there = fs::metadata(&self.path).ok();
        let opened = self.file.as_ref().and_then(|file| file.metadata().ok());
        let file = |meta: fs::Metadata| (meta.dev(), meta.ino());
        let is_same = there.as_ref().is_some_and(|_| there.clone().map(file) == opened.map(file));
        if !is_same {
            self.reopen()?;
        }
        if there.is_some_and(|there| there.is_file() && there.len() >= self.bytes_max) {
            match fs::rename(&self.path, older(&self.path)) {
                Ok(()) => self.reopen()?,
                Err(error) => {
                    tracing::error!(path = %self.path.display(), %error, "a full audit log can't be put aside")
                }
            }
        }
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.file = None;
        let is_new = !self.path.exists();
        let file = OpenOptions::new().append(true).create(true).mode(MODE).open(&self.path)?;
        if is_new && let Some(parent) = self.path.parent() {
            File::open(parent)?.sync_all()?;
        }
        self.torn = !ends_a_line(&self.path);
        self.file = Some(file);
        Ok(())
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Err(ErrorKind::NotFound.into()) };
        let meta = file.metadata()?;
        let mut bytes = Vec::with_capacity(lines.len() + 1);
        if self.torn {
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(lines);
        if let Err(error) = file.write_all(&bytes) {
            // Half a line is no entry. Where it can't be taken back, opening the file anew finds it.
            if meta.is_file() {
                let _ = file.set_len(meta.len());
            }
            return Err(error);
        }
        self.torn = false;
        // Those who write here keep what they write in mind, unless others have written before.
        let alone = self.known == Some(identity(&meta));
        let grown = |now: &fs::Metadata| now.len() == meta.len() + bytes.len() as u64;
        if alone && let Some(now) = file.metadata().ok().filter(grown) {
            self.known = Some(identity(&now));
        }
        match file.sync_data() {
            // A pipe to a collector has no disk.
            Err(error) if error.kind() == ErrorKind::InvalidInput && !meta.is_file() => Ok(()),
            synced => synced,
        }
    }
}

/// Whether an operator has to do something about it before the file can ever be opened.
fn is_of_the_config(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::IsADirectory | ErrorKind::NotADirectory
    )
}

/// The name of the file that was put aside.
pub(super) fn older(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".1");
    name.into()
}

/// The end of a regular file; nothing of anything else, which could be waited for.
fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let length = fs::metadata(path).ok().filter(fs::Metadata::is_file).map_or(0, |meta| meta.len());
    let mut bytes = Vec::new();
    if length > 0 {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(length.saturating_sub(LINES_BYTES_MAX as u64)))?;
        file.take(LINES_BYTES_MAX as u64).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// Whether a line can be added, as far as that can be found out.
fn ends_a_line(path: &Path) -> bool {
    let length = fs::metadata(path).ok().filter(fs::Metadata::is_file).map_or(0, |meta| meta.len());
    let last = || {
        let mut file = File::open(path)?;
        let mut byte = [0];
        file.seek(SeekFrom::Start(length - 1))?;
        file.read_exact(&mut byte)?;
        Ok::<_, io::Error>(byte[0])
    };
    length == 0 || last().is_ok_and(|byte| byte == b'\n')
}
