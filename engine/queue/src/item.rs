//! What goes into the queue and what comes out of it.

use crate::Reason;
use crate::hash::fnv1a;
use crate::lease::LeaseReport;
use ringpost_base::{Priority, SpoolId};
use std::rc::Rc;
use std::time::Duration;

/// A message to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewItem {
    /// The message.
    pub id: SpoolId,
    /// How soon it gets its turn.
    pub priority: Priority,
    /// Its size in bytes. What is beyond 4 GiB is not remembered.
    pub size: u64,
    /// It has no sender: nobody is told that it is late.
    pub null_sender: bool,
    /// The domain of its sender.
    pub sender_domain: DomainHash,
    /// Where its recipients go, as routed now: one leg for each destination.
    pub legs: Vec<NewLeg>,
    /// From an earlier run of the server, in which attempts may have been made.
    pub recovered: bool,
    /// What the spool kept for it: what [`Queue::state`](crate::Queue::state) said last. Empty for a new message.
    pub state: Box<[u8]>,
    /// Recipients that are done, as the first format of the spool had it.
    pub legacy_done: Vec<u32>,
    /// Recipients of its envelope, which have the numbers below this.
    pub recipients: u32,
    /// Its envelope can't be read: nobody knows who is to have it. It is kept as it is, and listed as dead, until an operator
    /// drops it: it is not tried, not forgotten, and what the spool has for it stays. Its legs and its state say nothing.
    pub unreadable: bool,
}

/// The recipients of a message that go to one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLeg {
    /// The destination.
    pub destination: Rc<str>,
    /// Whether it is in the hands of the server itself.
    pub local: bool,
    /// Their numbers, ascending.
    pub recipients: Vec<u32>,
    /// Their domain, or [`DomainHash::SEVERAL`].
    pub domain: DomainHash,
}

/// A hash of a domain, by which messages are sought before their envelopes are read. Two domains may share one, so what is
/// found is then to be looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainHash(pub(crate) u32);

impl DomainHash {
    /// Of recipients of several domains: found by a search for any.
    pub const SEVERAL: Self = Self(0);

    /// That of a domain, without regard to ASCII case; the empty one for a null sender.
    pub fn of(domain: &str) -> Self {
        Self(fnv1a(domain.bytes().map(|byte| byte.to_ascii_lowercase())).max(1))
    }

    /// That of the domain of an address.
    pub fn of_address(address: &str) -> Self {
        Self::of(address.rsplit_once('@').map_or("", |(_, domain)| domain))
    }

    /// That of the recipients of both.
    pub fn joined(self, other: Self) -> Self {
        if self == other { self } else { Self::SEVERAL }
    }

    /// Whether a search for `wanted` finds it.
    pub fn may_be(self, wanted: Self) -> bool {
        self == wanted || self == Self::SEVERAL
    }
}

/// What became of a message that was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// It is new here. One that was here already is left as it is.
    pub new: bool,
    /// What the spool kept for it could not be read: it is taken as one of which nothing is done.
    pub damaged: bool,
}

/// An attempt under way. Of an attempt that is over it means nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegId {
    pub(crate) slot: u32,
    pub(crate) turn: u16,
}

/// One try to take a message to one destination, for all its recipients that are left there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The message.
    pub id: SpoolId,
    /// What the outcome is told for.
    pub leg: LegId,
    /// Where to.
    pub destination: Rc<str>,
    /// Numbers of the recipients to serve, ascending.
    pub recipients: Vec<u32>,
    /// Which attempt it is, from 1, of this run of the server.
    pub number: u32,
    /// Whether an earlier attempt may have served some of them without our knowing.
    pub again: bool,
}

/// What the queue wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make an attempt, and tell its outcome.
    Attempt(Attempt),
    /// Ask the destination's owner for a lease, and hand the answer to [`Queue::leased`](crate::Queue::leased); also when
    /// none came, as [`Lease::Wait`](crate::Lease::Wait).
    Lease {
        /// The destination.
        destination: Rc<str>,
        /// Slots that this shard holds already. The owner goes by it, so that a lease whose answer was lost is not lost.
        held: u32,
    },
    /// Tell the destination's owner what is given back. It must reach the owner before any later [`Action::Lease`].
    Release {
        /// The destination.
        destination: Rc<str>,
        /// Slots; 0 from a shard that was told to ask and no longer wants to.
        slots: u32,
        /// How it went.
        report: LeaseReport,
    },
    /// Give these recipients up: they have waited for too long in a lane that nobody could serve. To be answered as an
    /// attempt is, with [`Outcome::Failed`] of this reason.
    Expire {
        /// The message.
        id: SpoolId,
        /// What the outcome is told for.
        leg: LegId,
        /// Numbers of the recipients, ascending.
        recipients: Vec<u32>,
        /// The reason to give.
        reason: Reason,
    },
    /// Tell the sender that these recipients wait, and note the message's state in the spool.
    Delay {
        /// The message.
        id: SpoolId,
        /// Numbers of the recipients, and why each waits.
        recipients: Vec<(u32, Reason)>,
    },
    /// Settle the message in the spool: a dead letter whose time is over, or one of which nothing is left to do.
    /// The queue knows it no more.
    Forget {
        /// The message.
        id: SpoolId,
        /// Why.
        cause: Forgotten,
    },
}

/// Why a message is forgotten without an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// Nothing is left to do: everybody was served or reported before.
    NothingLeft,
    /// It was a dead letter, and has been kept for long enough, or there are too many.
    DeadLetter,
}

/// What an attempt says of its destination, whatever became of the recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It was asked and did its work, also where it refused the message.
    Worked,
    /// It did not work: no connection, no answer, or one that says so.
    Failed,
    /// It was not asked, so nothing is known of it: the attempt came to its end before.
    Not,
}

impl Asked {
    /// Of a destination that was asked.
    pub fn of(hop_failed: bool) -> Self {
        if hop_failed { Self::Failed } else { Self::Worked }
    }
}

/// A destination by what is remembered of its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationHash(pub(crate) u32);

/// How an attempt came out for one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The destination has it, durably.
    Delivered(How),
    /// Not now; try again.
    Deferred(Reason),
    /// Never.
    Failed(Reason),
    /// Its route leads elsewhere now. A recipient may have several of these, one for each destination.
    Moved {
        /// Where to.
        destination: Rc<str>,
        /// Whether that is in the hands of the server itself.
        local: bool,
    },
}

/// Who answers for a delivered message now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum How {
    /// It is where it was going.
    Final,
    /// A next hop that can't be asked for reports.
    Relayed,
    /// A next hop that makes what reports are wanted.
    Passed,
}

/// What follows from an attempt's outcomes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// No such attempt was under way, or its message was dropped meanwhile: nothing follows.
    pub unknown: bool,
    /// Nothing is left to do: the spool may forget the message, as the queue has.
    pub settled: bool,
    /// What the spool keeps for the message is to be noted again.
    pub state_changed: bool,
    /// Recipients given up now. Each is to be reported, and then [`Queue::reported`](crate::Queue::reported), or
    /// [`Queue::bury`](crate::Queue::bury) where it can't be, with the `destination` of this verdict.
    pub failed: Vec<(u32, Reason)>,
    /// Where the attempt was going, which `failed` is to be answered with: a recipient may fail at several destinations.
    pub destination: DestinationHash,
    /// Recipients of whom the sender is to be told now that they wait.
    pub delayed: Vec<(u32, Reason)>,
    /// Recipients served.
    pub delivered: Vec<(u32, How)>,
    /// From now to the next attempt.
    pub wait: Option<Duration>,
}

/// What an operator's order did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The message was changed; its state is to be noted in the spool.
    Yes,
    /// It was in no state to be changed by it.
    No,
    /// There is no such message.
    Unknown,
}
