//! Ids, sizes, times and proofs that every other part of ringpost speaks in.
//!
//! Nothing here does I/O, reads a clock or draws randomness: time and entropy come in as arguments. The types are
//! newtypes so that two neighbouring numbers of a signature can't be swapped without the compiler saying so.
//!
//! ```
//! use ringpost_base::{Entropy, MessageIds, ShardId, Timestamp};
//! let mut ids = MessageIds::new(ShardId(3), Entropy([7; 16]));
//! let a = ids.next(Timestamp::from_unix_micros(1_700_000_000_000_000));
//! let b = ids.next(Timestamp::from_unix_micros(1_700_000_000_000_000));
//! assert!(a < b, "ids of one shard only grow");
//! assert_eq!(a.to_string().parse(), Ok(a));
//! ```

mod bytes;
mod id;
mod network;
mod proof;
mod route;
mod time;

pub use bytes::{ByteCount, ParseByteCountError};
pub use id::{Entropy, MessageIds, ParseIdError, SessionId, SessionIds, ShardId, SpoolId};
pub use network::{
    Network, NetworkLengths, OWNER_FACTORS, OWNER_FINAL, ParseNetworkError, UNKNOWN_ADDRESS, canonical, owner,
};
pub use proof::Accepted;
pub use route::{Durability, ParseWordError, Priority};
pub use time::{Deadline, Now, ParseSpanError, Span, Tick, Timestamp};
