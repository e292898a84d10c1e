//! What can go wrong with the spool's files.

use ringpost_base::SpoolId;
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
    },
    /// The message's bytes are not what was stored.
    #[error("message {0} is damaged in the spool: its checksum does not hold")]
    Damaged(SpoolId),
    /// The message is not in the spool.
    #[error("message {0} is not in the spool")]
    Unknown(SpoolId),
}

pub(crate) fn file_error(path: &Path, reason: impl std::fmt::Display) -> StoreError {
    StoreError::File { path: path.to_owned(), reason: reason.to_string() }
}
