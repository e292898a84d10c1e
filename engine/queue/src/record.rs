//! What the queue keeps of a message: 40 bytes for the message, 40 for each of its legs, and more only for those with which
//! something has happened that these can't say.

use crate::moment::Moment;
use crate::slab::NONE;
use crate::{DomainHash, Reason, State};
use ringpost_base::{Priority, SpoolId, Timestamp};
use std::rc::Rc;

/// A message.
#[derive(Debug)]
pub(crate) struct Message {
    /// Not as a number, whose alignment would cost 8 bytes.
    id: [u8; 16],
    pub(crate) size: u32,
    pub(crate) sender: DomainHash,
    /// When it was made, by the monotonic clock.
    pub(crate) made: Moment,
    /// Its first leg, from which the others follow.
    pub(crate) first_leg: u32,
    pub(crate) recipients: u32,
    pub(crate) priority: Priority,
    /// The state it is counted in.
    pub(crate) counted: State,
    pub(crate) flags: u8,
}

impl Message {
    /// An operator holds it.
    pub(crate) const HELD: u8 = 1;
    /// Its sender has been told that it is late.
    pub(crate) const DELAY_TOLD: u8 = 1 << 1;
    /// Attempts may have been made of which its legs don't know: in an earlier run, or before it was routed anew.
    pub(crate) const RECOVERED: u8 = 1 << 2;
    /// Nobody is told that it is late.
    pub(crate) const NULL_SENDER: u8 = 1 << 3;
    /// There is an [`Extra`] of it.
    pub(crate) const EXTRA: u8 = 1 << 4;
    /// Its envelope can't be read. It has no legs.
    pub(crate) const UNREADABLE: u8 = 1 << 5;

    pub(crate) fn id(&self) -> SpoolId {
        SpoolId::from_bytes(self.id)
    }

    pub(crate) fn new(id: SpoolId) -> Self {
        Self { id: id.to_bytes(), ..Self::default() }
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn set(&mut self, flag: u8, on: bool) {
        self.flags = if on { self.flags | flag } else { self.flags & !flag };
    }
}

impl Default for Message {
    fn default() -> Self {
        Self {
            id: [0; 16],
            size: 0,
            sender: DomainHash::SEVERAL,
            made: Moment::default(),
            first_leg: NONE,
            recipients: 0,
            priority: Priority::Normal,
            counted: State::Ready,
            flags: 0,
        }
    }
}

/// Where a leg is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nowhere: the record is free.
    #[default]
    Nowhere,
    /// In its lane, for its turn.
    Ready,
    /// In the wheel, until it is due.
    Waiting,
    /// An attempt is under way.
    Active,
    /// Nowhere, since its message is held.
    Parked,
    /// Nowhere: nobody is left to serve.
    Over,
}

/// The recipients of a message that go to one destination.
#[derive(Debug)]
pub(crate) struct Leg {
    /// Why it was put off last.
    pub(crate) last: Option<Rc<Reason>>,
    /// Its message. [`NONE`]: that was dropped while the attempt was under way.
    pub(crate) message: u32,
    /// The next leg of the message.
    pub(crate) sibling: u32,
    /// Its neighbours in the list it is in.
    pub(crate) previous: u32,
    pub(crate) next: u32,
    /// When it is tried again.
    pub(crate) due: Moment,
    pub(crate) domain: DomainHash,
    pub(crate) lane: u16,
    pub(crate) attempts: u16,
    /// Changes with every attempt, so that an outcome counts for the attempt it is of. Also over records.
    pub(crate) turn: u16,
    pub(crate) place: Place,
    pub(crate) flags: u8,
}

impl Leg {
    /// All recipients of the message are left, as they are in most cases. Others are in [`Extra::lists`].
    pub(crate) const WHOLE: u8 = 1;
    /// The attempt under way has a slot of a lease.
    pub(crate) const LEASED: u8 = 1 << 1;
    /// The attempt under way is one of the local ones, which are bounded together.
    pub(crate) const LOCAL: u8 = 1 << 2;
    /// Recipients were moved away from it.
    pub(crate) const LEFT: u8 = 1 << 3;

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn set(&mut self, flag: u8, on: bool) {
        self.flags = if on { self.flags | flag } else { self.flags & !flag };
    }
}

impl Default for Leg {
    fn default() -> Self {
        Self {
            last: None,
            message: NONE,
            sibling: NONE,
            previous: NONE,
            next: NONE,
            due: Moment::default(),
            domain: DomainHash::SEVERAL,
            lane: 0,
            attempts: 0,
            turn: 0,
            place: Place::Nowhere,
            flags: 0,
        }
    }
}

/// What only some messages have.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// Recipients that are done at a destination, by the hash of its name.
    pub(crate) done: Vec<(u32, u32)>,
    /// Recipients that were given up at a destination, and whose report is not durable yet.
    pub(crate) reporting: Vec<(u32, u32)>,
    /// Recipients that could be neither served nor reported.
    pub(crate) dead: Vec<Buried>,
    /// When the first of them was buried: for the spool, and for the time until it is forgotten.
    pub(crate) buried_at: Timestamp,
    /// By the nanoseconds of the monotonic clock; before its start, too.
    pub(crate) buried_tick: i64,
    /// Recipients left of legs that don't have all.
    pub(crate) lists: Vec<(u32, Vec<u32>)>,
    /// Recipients that join a leg when the attempt is over that is under way without them.
    pub(crate) joining: Vec<(u32, u32)>,
}

/// A recipient that could be neither served nor reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Buried {
    pub(crate) recipient: u32,
    /// Where it was going.
    pub(crate) destination: u32,
    pub(crate) reason: Rc<Reason>,
}

/// The bound of a million messages in a hundred megabytes hangs on these.
const _: () = assert!(size_of::<Message>() == 40 && size_of::<Leg>() == 40);
