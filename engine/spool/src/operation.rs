//! What goes between the log and its caller: operations, their completions, places, numbers.

use crate::Receipt;
use crate::record::BodyFile;
use ringpost_base::SpoolId;
use std::fmt;

/// The number of a segment file; it stays with the file when the segment is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// What the caller knows an append by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub u64);

/// Why an operation failed, and with it the messages that waited for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There is no room.
    Full,
    /// A write or sync failed.
    Io,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "no room for another spool segment",
            Self::Io => "writing the spool failed",
        })
    }
}

impl std::error::Error for Failure {}

/// How an append came out.
#[derive(Debug)]
pub struct Completion {
    /// The append.
    pub token: Token,
    /// Its receipt, or why there is none.
    pub result: Result<Receipt, Failure>,
}

/// An operation for the caller to do. At most one of each kind is out at a time.
#[derive(Debug, PartialEq, Eq)]
pub enum Op {
    /// Make a segment file of the options' size, filled with zeros; sync it and its directory. Then
    /// [`crate::Spool::created`].
    Create(Slot),
    /// Write the bytes, whose length is a multiple of [`crate::BLOCK`], and sync the file. Then
    /// [`crate::Spool::written`].
    Write {
        /// The segment file.
        slot: Slot,
        /// Where in it, a multiple of [`crate::BLOCK`].
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Read the record and give it to [`crate::Spool::copied`].
    Copy {
        /// The message.
        id: SpoolId,
        /// Where its record lies.
        location: Location,
    },
    /// Remove a surplus segment file; nothing waits for it, and it does not matter whether the removal is synced.
    Remove(Slot),
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The segment file.
    pub slot: Slot,
    /// The segment's place in the log.
    pub sequence: u64,
    /// The key its records carry.
    pub key: u64,
    /// Offset of the record in the file, in bytes.
    pub offset: u64,
    /// Length of the record in bytes.
    pub len: u32,
}

/// What the log knows of a message that is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where its record lies.
    pub location: Location,
    /// Length of the message in bytes, wherever they are.
    pub size: u64,
    /// Whether the message's bytes are in a body file.
    pub has_body_file: bool,
}

/// What makes up a message for [`crate::Spool::append`].
#[derive(Clone, Copy, Debug)]
pub struct MessageParts<'a> {
    /// The message's id.
    pub id: SpoolId,
    /// The stored envelope.
    pub envelope: &'a [u8],
    /// The message's bytes; empty if it has a body file.
    pub bytes: &'a [u8],
    /// The body file, already synced together with its directory entry.
    pub body_file: Option<BodyFile>,
}

/// Numbers about the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Segment files, spare ones included.
    pub segments: usize,
    /// Of these, the spare ones.
    pub spare: usize,
    /// Of these, segments kept for the sake of messages that could not be copied forward.
    pub pinned: usize,
    /// Messages durable and not settled.
    pub live: usize,
    /// Bytes of the log that are still needed: of the records of those messages.
    pub live_bytes: u64,
    /// Messages copied forward so far.
    pub compacted: u64,
    /// Records written so far.
    pub records: u64,
}
