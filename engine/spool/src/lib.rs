//! The on-disk log of one shard, as a state machine: it emits create, write, read and remove operations, is fed their
//! completions, and hands out a [`Receipt`] for each message that is durable.
//!
//! The log is a sequence of fixed-size segment files, pre-zeroed when made and recycled when nothing in them is alive.
//! All appends that come while a batch is being written and synced are joined in the next one (group commit).
//!
//! Invariants:
//! - a [`Receipt`] exists only after the write and the sync of its record have both succeeded;
//! - segments are freed in the order they were filled, so a settlement never outlives the loss of its message's record
//!   nor the reverse; a few live messages in the oldest segment are copied forward;
//! - a record is believed only if its checksum holds and it carries its segment's key, which is drawn anew each time a
//!   segment is reused: neither an earlier tenant's bytes nor bytes inside a message can pass for a record.
//!
//! ```compile_fail
//! // Nothing outside the spool can make a receipt.
//! let receipt = ringpost_spool::Receipt { id: ringpost_base::SpoolId::from_bytes([0; 16]) };
//! ```

mod log;
mod options;
mod record;
mod recovery;

pub use log::{Completion, Failure, Location, MessageParts, Op, Receipt, Slot, Spool, Stats, Token};
pub use options::Options;
pub use record::{BodyFile, Content, MessageRecord, RecordError, parse_message};
pub use recovery::{Damage, Recovered, Recovery, SegmentHeader};

/// The unit of the log in bytes: every batch starts at a multiple of it, so that writes can bypass the page cache and a
/// torn batch never touches an earlier one.
pub const BLOCK: usize = 4096;

/// The checksum of a body file, carried on over its pieces: CRC-32C, beginning with 0.
pub fn checksum(so_far: u32, piece: &[u8]) -> u32 {
    crc32c::crc32c_append(so_far, piece)
}
