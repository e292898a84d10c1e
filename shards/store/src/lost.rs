//! Files that no record names although they may belong to a message: kept aside, not deleted, where the log is damaged.
//!
//! ```text
//! STATE/spool/shard-0000/lost/ID.body, segment-00000003.log, shard-0001/ ...
//! ```
//!
//! A body file whose record can't be read looks like one whose message was settled a moment before a crash, and a segment
//! whose header was lost like one that was never used. While anything of a log is damaged, missing or can't be read, the first
//! of each may be mail that was acknowledged. Nothing here is looked at again: an operator does that, and removes it.

use crate::disk::Disk;
use crate::error::{StoreError, io_error};
use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The directory of what is kept aside, below a shard's.
pub(crate) const LOST: &str = "lost";

/// Bytes of a file looked through at a time.
const PIECE: usize = 1 << 20;

/// What a shard keeps aside.
pub(crate) struct LostFiles {
    disk: Disk,
    directory: PathBuf,
    count: Cell<u64>,
}

impl LostFiles {
    pub(crate) fn new(disk: &Disk, shard: &Path) -> Self {
        Self { disk: disk.clone(), directory: shard.join(LOST), count: Cell::new(0) }
    }

    /// Moves a file, or a directory with all that is in it, out of the way. What is there by its name already stays.
    pub(crate) fn keep(&self, path: &Path) -> Result<(), StoreError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory);
        made.map_err(|error| io_error(&self.directory, error))?;
        let name = path.file_name().unwrap_or_default();
        let mut to = self.directory.join(name);
        let mut number = 0;
        while fs::symlink_metadata(&to).is_ok() {
            number += 1;
            let mut name = name.to_owned();
            name.push(format!(".{number}"));
            to = self.directory.join(name);
        }
        self.disk.rename(path, &to)?;
        self.count.set(self.count.get() + 1);
        Ok(())
    }

    /// Makes it durable that something was moved here, and from where.
    pub(crate) async fn sync(&self, from: Option<&Path>) -> Result<(), StoreError> {
        // It may have been made just now.
        for directory in [Some(&*self.directory), self.directory.parent(), from].into_iter().flatten() {
            self.disk.sync_directory(directory).await?;
        }
        Ok(())
    }

    /// Moves what a former shard has kept aside here, if there is any.
    pub(crate) async fn carry(&self, from: &Path) -> Result<(), StoreError> {
        let entries = match fs::read_dir(from) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_error(from, error)),
        };
        for entry in entries {
            self.keep(&entry.map_err(|error| io_error(from, error))?.path())?;
        }
        if self.directory.is_dir() { self.sync(None).await } else { Ok(()) }
    }

    /// Says how many files were kept aside, if any were.
    pub(crate) fn tell(&self) {
        if self.count.get() > 0 {
            let (files, directory) = (self.count.get(), self.directory.display());
            tracing::warn!(files, %directory, "files that no record names are kept aside, since the spool is or was damaged");
        }
    }
}

/// Whether there is nothing but zeros in a file. What can't be read is taken for something.
pub(crate) fn is_all_zeros(path: &Path) -> bool {
    let look = || -> io::Result<bool> {
        let (mut file, mut piece) = (File::open(path)?, vec![0; PIECE]);
        loop {
            let read = file.read(&mut piece)?;
            if read == 0 {
                return Ok(true);
            }
            if piece[..read].iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
        }
    };
    look().unwrap_or(false)
}
