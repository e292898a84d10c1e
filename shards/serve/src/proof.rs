//! What a 250 for a message is made from: whoever has it can show that the message is in good hands.

use ringpost_base::{Accepted, Durability, SpoolId};
use ringpost_queue::HandedOver;
use ringpost_store::Receipt;

/// The proof that a message may be acknowledged.
#[derive(Debug)]
pub(crate) enum Proof {
    /// It is kept here, as durably as the receipt says.
    Kept(Receipt),
    /// The next hop has answered for it.
    HandedOver(HandedOver),
}

impl Proof {
    /// What has become of the message.
    pub(crate) fn durability(&self) -> Durability {
        match self {
            Self::Kept(receipt) => receipt.durability(),
            Self::HandedOver(_) => Durability::NextHop,
        }
    }
}

impl Accepted for Proof {
    fn id(&self) -> SpoolId {
        match self {
            Self::Kept(receipt) => receipt.id(),
            Self::HandedOver(handed_over) => handed_over.id(),
        }
    }
}
