//! What a shard and the owner of a destination say to each other.

use std::time::Duration;

/// The owner's answer to a shard that wants to deliver to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// One delivery at a time, for so many messages. Dropped on its way: the owner finds out when the shard asks again.
    Granted {
        /// Messages.
        messages: u32,
    },
    /// Others use all there is. The owner will say when to ask again. Dropped on its way: as if `Wait` for a while.
    Busy,
    /// Not before this time.
    Wait {
        /// From now.
        span: Duration,
        /// Since the destination does not work, and is left alone.
        open: bool,
    },
    /// The owner knows no such destination.
    Unknown,
}

/// How it went with what a shard had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseReport {
    /// Attempts in which the destination did its work, also where it refused the message.
    pub delivered: u32,
    /// Attempts that failed since the destination itself did not work.
    pub hop_failures: u32,
    /// Messages that might have been sent and were not.
    pub unused: u32,
}
