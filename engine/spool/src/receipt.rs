//! The proof that a message is as durable as it was promised to be. Only the spool makes one.

use crate::Spool;
use ringpost_base::{Accepted, Durability, SpoolId};

/// The proof that a message is as durable as its class says.
///
/// One of the class `fsync` is made when the record of the message was written and synced, and nowhere else. One of the
/// class `memory` comes from [`Spool::kept_in_memory`].
#[derive(Debug)]
pub struct Receipt {
    id: SpoolId,
    durability: Durability,
}

impl Receipt {
    /// For a record whose write and sync have both succeeded.
    pub(crate) fn synced(id: SpoolId) -> Self {
        Self { id, durability: Durability::Fsync }
    }

    /// What it is a proof of.
    pub fn durability(&self) -> Durability {
        self.durability
    }
}

impl Accepted for Receipt {
    fn id(&self) -> SpoolId {
        self.id
    }
}

impl Spool {
    /// The receipt of a message of the class `memory`: the caller has it in memory and answers for no more than that.
    ///
    /// It promises nothing about the disk. A crash of the process, or of the machine, loses the message although it was
    /// acknowledged; that is what the class means, and who configures it for a route has chosen it. The log knows
    /// nothing of the message until it is appended.
    pub fn kept_in_memory(&self, id: SpoolId) -> Receipt {
        Receipt { id, durability: Durability::Memory }
    }
}
