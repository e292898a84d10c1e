//! Reading a body file piece by piece, so that a damaged one can never be taken for the whole message.
//!
//! The last piece is given only once the checksum of all of them holds. Whoever sends a message on as it reads it has not
//! sent its end before that, and what has no end is no message.

use crate::error::{StoreError, file_error};
use glommio::io::{BufferedFile, OpenOptions, ReadResult};
use ringpost_spool::BodyFile;
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// Bytes of one piece, at most: what one delivery holds of a message that is not in memory.
const PIECE_MAX: u64 = 256 << 10;

/// A body file that is being read.
pub struct BodyReader {
    file: BufferedFile,
    path: PathBuf,
    body: BodyFile,
    at: u64,
    crc: u32,
}

/// A piece of a message; its bytes are what it is read as.
pub struct BodyPiece {
    bytes: ReadResult,
    /// Whether it is the last one: the message is whole, and what it was.
    pub last: bool,
}

impl Deref for BodyPiece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl BodyReader {
    /// Opens the file of a message.
    ///
    /// # Errors
    /// If it can't be opened.
    pub async fn open(path: &Path, body: BodyFile) -> Result<Self, StoreError> {
        let file = OpenOptions::new().read(true).buffered_open(path).await.map_err(|error| file_error(path, error))?;
        Ok(Self { file, path: path.to_owned(), body, at: 0, crc: 0 })
    }

    /// The next piece. Not to be called after the last.
    ///
    /// # Errors
    /// If the file can't be read, is shorter than the message, or is not what was stored.
    pub async fn next(&mut self) -> Result<BodyPiece, StoreError> {
        let want = PIECE_MAX.min(self.body.len - self.at);
        let read = self.file.read_at(self.at, want as usize).await;
        let bytes = read.map_err(|error| file_error(&self.path, error))?;
        if bytes.is_empty() && want > 0 {
            return Err(file_error(&self.path, format!("ends at {} of {} bytes", self.at, self.body.len)));
        }
        self.crc = ringpost_spool::checksum(self.crc, &bytes);
        self.at += bytes.len() as u64;
        let last = self.at == self.body.len;
        if last && self.crc != self.body.crc {
            return Err(file_error(&self.path, "is damaged: its checksum does not hold"));
        }
        Ok(BodyPiece { bytes, last })
    }
}
