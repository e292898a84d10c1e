//! The on-disk log of one shard, as a state machine: it emits create, write, read and remove operations, is fed their
//! completions, and hands out a [`Receipt`] for each message that is durable.
//!
//! The log is a sequence of fixed-size segment files, pre-zeroed when made and recycled when nothing in them is alive.
//! All appends that come while a batch is being written and synced are joined in the next one (group commit).
//!
//! Invariants:
//! - a [`Receipt`] of the class `fsync` exists only after the write and the sync of its record have both succeeded;
//! - segments are freed in the order they were filled, so a settlement never outlives the loss of its message's record
//!   nor the reverse; a few live messages in the oldest segment are copied forward, together with their state, and one
//!   that can't be copied is referred to from a younger segment, which keeps its own out of the order;
//! - a record is believed only if its checksum holds and it carries its segment's key, which is drawn anew each time a
//!   segment is reused: neither an earlier tenant's bytes nor bytes inside a message can pass for a record;
//! - what a message costs does not grow with how many there are, neither in steps nor in bytes.
//!
//! ```compile_fail
//! // Nothing outside the spool can make a receipt.
//! let receipt = ringpost_spool::Receipt {
//!     id: ringpost_base::SpoolId::from_bytes([0; 16]),
//!     durability: ringpost_base::Durability::Fsync,
//! };
//! ```
//!
//! A log, its operations done at once in memory:
//!
//! ```
//! use ringpost_base::{Accepted, Entropy, SpoolId};
//! use ringpost_spool::{MessageParts, Op, Options, Spool, Token};
//!
//! let mut spool = Spool::new(Options::default(), Entropy([7; 16]));
//! let id = SpoolId::from_bytes([1; 16]);
//! spool.append(Token(1), &MessageParts { id, envelope: b"to whom", bytes: b"what", body_file: None });
//! let mut completions = Vec::new();
//! while let Some(op) = spool.poll_op() {
//!     completions.extend(match op {
//!         Op::Create(slot) => spool.created(slot, Ok(())),
//!         Op::Write { .. } => spool.written(Ok(())),
//!         Op::Copy { .. } | Op::Remove(_) => unreachable!("nothing to compact yet"),
//!     });
//! }
//! assert_eq!(completions[0].result.as_ref().expect("durable").id(), id);
//! ```

mod commit;
mod compaction;
mod index;
mod inspect;
mod log;
mod operation;
mod options;
mod receipt;
mod record;
mod recovery;
mod replica;
mod segment;

pub use inspect::{Seen, inspect};
pub use log::{STATE_MAX, Spool};
pub use operation::{Completion, Entry, Failure, Location, MessageParts, Op, Slot, Stats, Token};
pub use options::{Options, SEGMENT_SIZE_MAX};
pub use receipt::Receipt;
pub use record::{BodyFile, Content, MessageRecord, RecordError, parse_message};
pub use recovery::{Damage, Live, Lost, Reading, Recovered, Recovery};
pub use replica::{Quorum, QuorumState, Replica, ReplicaId};
pub use segment::{FORMAT_VERSION, PINNED_MAX, SegmentHeader, UnknownVersion};

/// The unit of the log in bytes: every batch starts at a multiple of it, so that writes can bypass the page cache and a
/// torn batch never touches an earlier one.
pub const BLOCK: usize = 4096;

/// The checksum of a body file, carried on over its pieces: CRC-32C, beginning with 0.
pub fn checksum(so_far: u32, piece: &[u8]) -> u32 {
    crc32c::crc32c_append(so_far, piece)
}
