//! What can go wrong with the spool's files.

use glommio::GlommioError;
use ringpost_base::SpoolId;
use ringpost_spool::Failure;
use rustix::io::Errno;
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
        /// Whether the disk does not give the bytes back: [`StoreError::is_broken`].
        broken: bool,
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

    /// Whether the disk, or the file system on it, can't give back what it was given. Another try helps as little as another
    /// program; other places of the same file may well be readable.
    pub fn is_broken(&self) -> bool {
        matches!(self, Self::File { broken: true, .. })
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

/// Whether an error says that the disk is broken at this place, and not that it is away, busy, or not to be had.
pub(crate) fn is_broken(errno: Option<i32>) -> bool {
    // A sector that can't be read (EIO, ENODATA, EREMOTEIO), one whose checksum does not hold (EILSEQ, EBADMSG), a file
    // system that is damaged (EUCLEAN).
    let broken = [Errno::IO, Errno::NODATA, Errno::REMOTEIO, Errno::ILSEQ, Errno::BADMSG, Errno::UCLEAN];
    errno.is_some_and(|errno| broken.iter().any(|broken| broken.raw_os_error() == errno))
}

/// What the kernel said of a file.
pub(crate) fn io_error(path: &Path, error: impl Into<io::Error>) -> StoreError {
    let error = error.into();
    let (full, broken) = (is_full(&error), is_broken(error.raw_os_error()));
    StoreError::File { path: path.to_owned(), reason: error.to_string(), full, broken }
}

/// The same of an operation of the runtime, whose errors lose their number when they are made into others.
pub(crate) fn runtime_error(path: &Path, error: GlommioError<()>) -> StoreError {
    let broken = is_broken(error.raw_os_error());
    let error: io::Error = error.into();
    StoreError::File { path: path.to_owned(), reason: error.to_string(), full: is_full(&error), broken }
}

/// What we say of a file.
pub(crate) fn file_error(path: &Path, reason: impl std::fmt::Display) -> StoreError {
    StoreError::File { path: path.to_owned(), reason: reason.to_string(), full: false, broken: false }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let wrapped = |errno: Errno| GlommioError::<()>::EnhancedIoError {
            source: io::Error::from(errno),
            op: "Reading",
            path: None,
            fd: None,
        };
        assert!(io_error(Path::new("/x"), wrapped(Errno::NOSPC)).is_full());
        for (errno, broken) in [(Errno::IO, true), (Errno::BADMSG, true), (Errno::NOSPC, false), (Errno::MFILE, false)]
        {
            assert_eq!(runtime_error(Path::new("/x"), wrapped(errno)).is_broken(), broken, "{errno}");
            assert_eq!(io_error(Path::new("/x"), errno).is_broken(), broken, "{errno}");
        }
    }
}
