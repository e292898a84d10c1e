//! What can go wrong with the spool's files.

use ringpost_base::SpoolId;
use ringpost_spool::Failure;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// An operation on the spool that failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file or directory can't be used.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        reason: String,
        /// Whether it is for want of room: [`StoreError::is_full`].
        full: bool,
    },
    /// The message's bytes are not what was stored.
    #[error("message {0} is damaged in the spool: its checksum does not hold")]
    Damaged(SpoolId),
    /// The message is not in the spool.
    #[error("message {0} is not in the spool")]
    Unknown(SpoolId),
}

impl StoreError {
    /// Whether the disk had no room: it is full (ENOSPC), the owner's quota is used up (EDQUOT), or the file may not grow
    /// any more (EFBIG). It passes when somebody makes room; the disk itself is sound.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::File { full: true, .. })
    }

    /// The same as the log knows it, which decides between 452 and 451.
    pub(crate) fn failure(&self) -> Failure {
        if self.is_full() { Failure::Full } else { Failure::Io }
    }
}

/// Whether an error is for want of room.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// What the kernel said of a file.
pub(crate) fn io_error(path: &Path, error: impl Into<io::Error>) -> StoreError {
    let error = error.into();
    StoreError::File { path: path.to_owned(), reason: error.to_string(), full: is_full(&error) }
}

/// What we say of a file.
pub(crate) fn file_error(path: &Path, reason: impl std::fmt::Display) -> StoreError {
    StoreError::File { path: path.to_owned(), reason: reason.to_string(), full: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn want_of_room_is_told_from_a_broken_disk() {
        for (errno, full) in
            [(Errno::NOSPC, true), (Errno::DQUOT, true), (Errno::FBIG, true), (Errno::IO, false), (Errno::ROFS, false)]
        {
            let error = io_error(Path::new("/x"), errno);
            assert_eq!((error.is_full(), error.failure() == Failure::Full), (full, full), "{error}");
        }
    }

    #[test]
    fn the_runtime_keeps_the_kind_of_an_error() {
        let wrapped = glommio::GlommioError::<()>::EnhancedIoError {
            source: io::Error::from(Errno::NOSPC),
            op: "Writing",
            path: None,
            fd: None,
        };
        assert!(io_error(Path::new("/x"), wrapped).is_full());
    }
}
