//! The bytes of a backup's files, each in a file named by its SHA-256.

use super::manifest::Saved;
use super::{BackupError, file_error, make_directory, sync_directory};
use aws_lc_rs::digest::{Context, SHA256};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes read and written at a time.
const PIECE: usize = 1 << 20;

/// The name of an object that is being written. There is one at a time: the backup's lock sees to it.
const FRESH: &str = "fresh";

/// An object that was written.
pub(super) struct Object {
    pub(super) len: u64,
    pub(super) sha256: String,
}

/// Why a file was not stored: what can't be read is its own affair, what can't be written that of the whole backup.
#[derive(Debug)]
pub(super) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// The objects of a backup.
pub(super) struct Objects {
    directory: PathBuf,
    /// Bytes written.
    pub(super) copied: u64,
    /// Bytes that were there already.
    pub(super) known: u64,
}

impl Objects {
    pub(super) fn open(backup: &Path) -> Result<Self, BackupError> {
        let directory = backup.join("objects");
        make_directory(&directory)?;
        Ok(Self { directory, copied: 0, known: 0 })
    }

    /// What can't be written when [`CopyError::Write`] says so.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn path(&self, sha256: &str) -> PathBuf {
        self.directory.join(sha256)
    }

    /// Whether the object of a file is there, and as long as it should be. Its bytes are checked when it is restored.
    pub(super) fn has(&self, saved: &Saved) -> bool {
        is_digest(&saved.sha256)
            && fs::metadata(self.path(&saved.sha256)).is_ok_and(|metadata| metadata.len() == saved.stored())
    }

    /// Stores what a reader gives.
    pub(super) fn store(&mut self, from: &mut impl Read) -> Result<Object, CopyError> {
        let fresh = self.directory.join(FRESH);
        let mut options = OpenOptions::new();
        let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh);
        let mut to = opened.map_err(CopyError::Write)?;
        let mut digest = Context::new(&SHA256);
        let (mut len, mut piece) = (0, vec![0; PIECE]);
        loop {
            let read = from.read(&mut piece).map_err(CopyError::Read)?;
            if read == 0 {
                break;
            }
            digest.update(&piece[..read]);
            to.write_all(&piece[..read]).map_err(CopyError::Write)?;
            len += read as u64;
        }
        let sha256 = hexadecimal(digest.finish().as_ref());
        to.sync_all().and_then(|()| fs::rename(&fresh, self.path(&sha256))).map_err(CopyError::Write)?;
        self.copied += len;
        Ok(Object { len, sha256 })
    }

    /// Makes the names of all objects durable.
    pub(super) fn sync(&self) -> Result<(), BackupError> {
        sync_directory(&self.directory)
    }

    /// Removes all objects but these; gives how many went.
    pub(super) fn keep_only(&self, needed: &BTreeSet<String>) -> Result<usize, BackupError> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.directory).map_err(file_error(&self.directory))? {
            let entry = entry.map_err(file_error(&self.directory))?;
            if !entry.file_name().to_str().is_some_and(|name| needed.contains(name)) {
                fs::remove_file(entry.path()).map_err(file_error(&entry.path()))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Opens an object whose bytes are those of the file; says what is wrong otherwise.
    pub(super) fn checked(&self, saved: &Saved) -> Result<File, BackupError> {
        let path = self.path(&saved.sha256);
        let wrong = |what: &str| BackupError::Refused(format!("{}, of {}: {what}", path.display(), saved.path));
        if !is_digest(&saved.sha256) {
            return Err(wrong("not the name of an object"));
        }
        let mut file = File::open(&path).map_err(file_error(&path))?;
        let (mut digest, mut len, mut piece) = (Context::new(&SHA256), 0, vec![0; PIECE]);
        loop {
            let read = file.read(&mut piece).map_err(file_error(&path))?;
            if read == 0 {
                break;
            }
            digest.update(&piece[..read]);
            len += read as u64;
        }
        if len != saved.stored() || hexadecimal(digest.finish().as_ref()) != saved.sha256 {
            return Err(wrong("the bytes are not those that were backed up"));
        }
        File::open(&path).map_err(file_error(&path))
    }
}

fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
