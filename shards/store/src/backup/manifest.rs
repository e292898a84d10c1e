//! What a backup holds, as its manifest says it.

use super::objects::Object;
use super::{BackupError, file_error, refused, sync_directory};
use crate::segments::segment_name;
use ringpost_base::Timestamp;
use ringpost_spool::Slot;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The manifest's name.
pub(super) const MANIFEST: &str = "manifest.json";

/// The form of the manifest. A newer one is refused, not guessed at.
const FORMAT: u32 = 1;

/// Everything in a backup.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    pub(super) hostname: String,
    /// When, in microseconds since 1970.
    pub(super) made_unix_micros: u64,
    pub(super) files: Vec<Saved>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    /// Where it stood, below the state directory.
    pub(super) path: String,
    /// Its length in bytes.
    pub(super) len: u64,
    /// How many of them the object has; behind them the file was zeros.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stored: Option<u64>,
    /// The digest of the object's bytes, which is its name.
    pub(super) sha256: String,
    /// When the file was changed last, in nanoseconds since 1970: with the same length, it is the same file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) modified: Option<i64>,
    /// For a segment of a log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) segment: Option<SavedSegment>,
}

/// A segment, as its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedSegment {
    pub(super) slot: u32,
    pub(super) sequence: u64,
    pub(super) key: u64,
    /// Whether nothing was written into it any more when it was copied.
    pub(super) sealed: bool,
}

impl Saved {
    pub(super) fn of(path: String, object: Object) -> Self {
        Self { path, len: object.len, stored: None, sha256: object.sha256, modified: None, segment: None }
    }

    /// Bytes of its object.
    pub(super) fn stored(&self) -> u64 {
        self.stored.unwrap_or(self.len)
    }

    pub(super) fn segment_name(&self) -> String {
        segment_name(Slot(self.segment.map_or(0, |segment| segment.slot)))
    }
}

impl Manifest {
    pub(super) fn new(hostname: &str, at: Timestamp, files: Vec<Saved>) -> Self {
        Self { format: FORMAT, hostname: hostname.to_owned(), made_unix_micros: at.unix_micros(), files }
    }

    /// Reads the manifest of a backup; nothing if there is none yet.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, BackupError> {
        let path = directory.join(MANIFEST);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file_error(&path)(error)),
        };
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        let unreadable = |error: serde_json::Error| {
            BackupError::Refused(format!("{}: the backup's manifest can't be read: {error}", path.display()))
        };
        let form: Form = serde_json::from_slice(&text).map_err(unreadable)?;
        if form.format != FORMAT {
            return refused(format!(
                "{}: the backup is of form {}, and this program knows form {FORMAT}",
                path.display(),
                form.format
            ));
        }
        serde_json::from_slice(&text).map(Some).map_err(unreadable)
    }

    /// Puts it in the place of an earlier one, at once or not at all.
    pub(super) fn write(&self, directory: &Path) -> Result<(), BackupError> {
        let (fresh, path) = (directory.join(format!("{MANIFEST}.new")), directory.join(MANIFEST));
        let written = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            let mut file: File = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&fresh, &path)
        };
        written().map_err(file_error(&fresh))?;
        sync_directory(directory)
    }

    pub(super) fn by_path(self) -> BTreeMap<String, Saved> {
        self.files.into_iter().map(|saved| (saved.path.clone(), saved)).collect()
    }
}
