//! The message in the body of a request, piece by piece.
//!
//! Of a message in a file only one piece is in memory at a time. The last piece is given once the checksum of all of them
//! holds: what is sent of a damaged message has no end, and so is no message.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Bytes;
use ringpost_store::BodyFile;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a piece before they are encoded.
const PIECE_BYTES: u64 = 192 << 10;

// Only then is the base64 of a message the base64 of its pieces one after the other (RFC 4648 section 4).
const _: () = assert!(PIECE_BYTES.is_multiple_of(3));

/// Where a message's bytes are.
#[derive(Clone)]
pub(super) enum Content {
    /// Here.
    Memory(Arc<Vec<u8>>),
    /// In this file, of this length and checksum.
    File(Arc<Path>, BodyFile),
}

impl Content {
    /// Whether it has to be read first, which may take a while.
    pub(super) fn blocks(&self) -> bool {
        matches!(self, Self::File(..))
    }

    /// The message's size in bytes.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, body) => body.len,
        }
    }
}

impl From<&ringpost_store::LoadedContent> for Content {
    fn from(content: &ringpost_store::LoadedContent) -> Self {
        match content {
            ringpost_store::LoadedContent::Memory(bytes) => Self::Memory(bytes.clone()),
            ringpost_store::LoadedContent::File(path, body) => Self::File(PathBuf::as_path(path).into(), *body),
        }
    }
}

/// How the message is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Coding {
    /// As it is.
    Plain,
    /// In base64, without line ends (RFC 4648 section 4).
    Base64,
}

impl Coding {
    /// How much becomes of so many bytes.
    pub(super) fn len(self, bytes: u64) -> u64 {
        match self {
            Self::Plain => bytes,
            Self::Base64 => bytes.div_ceil(3) * 4,
        }
    }

    fn write(self, bytes: Bytes) -> Bytes {
        match self {
            Self::Plain => bytes,
            Self::Base64 => STANDARD.encode(bytes).into(),
        }
    }
}

/// What is left of a message that is being read.
pub(super) struct Pieces {
    content: Content,
    coding: Coding,
    at: u64,
    done: bool,
    file: Option<File>,
    crc: u32,
}

impl Pieces {
    pub(super) fn new(content: Content, coding: Coding) -> Self {
        Self { content, coding, at: 0, done: false, file: None, crc: 0 }
    }

    /// Whether the next piece comes from a file, and so may take a while.
    pub(super) fn blocks(&self) -> bool {
        self.content.blocks()
    }

    /// The next piece; nothing after the last.
    ///
    /// # Errors
    /// If the file can't be read, is shorter than the message, or is not what was stored.
    pub(super) fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.done {
            return Ok(None);
        }
        let left = self.content.len() - self.at;
        let whole_at_once = self.coding == Coding::Plain && !self.blocks();
        let count = if whole_at_once { left } else { left.min(PIECE_BYTES) };
        let at = self.at as usize;
        let piece = match &self.content {
            Content::Memory(bytes) => Bytes::from_owner(Held(bytes.clone())).slice(at..at + count as usize),
            Content::File(path, body) => {
                let file = match &mut self.file {
                    Some(file) => file,
                    closed => closed.insert(File::open(path)?),
                };
                let mut piece = vec![0; count as usize];
                file.read_exact(&mut piece)?;
                self.crc = ringpost_spool::checksum(self.crc, &piece);
                if count == left && self.crc != body.crc {
                    return Err(io::Error::other("the body file is damaged: its checksum does not hold"));
                }
                piece.into()
            }
        };
        self.at += count;
        self.done = count == left;
        Ok(Some(self.coding.write(piece)))
    }
}

/// A message in memory, as what it is read as.
struct Held(Arc<Vec<u8>>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
