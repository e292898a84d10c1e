//! What comes when: every event of a simulation, in the order of time, and at one moment in the order of entry.

use crate::link::LinkId;
use std::collections::BTreeMap;

/// Something that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A client looks at what it has to do.
    Client(usize),
    /// Bytes come to the end of this number of a connection.
    Arrive(LinkId, usize),
    /// A next hop is itself again.
    HopUp(usize),
    /// There is room on a shard's disk again.
    DiskFreed(usize),
    /// The process dies of a failure that came before, or the machine does.
    Collapse,
    /// Something may happen to all of it.
    Weather,
    /// The host is started.
    Start,
    /// It is looked at whether everything is at rest.
    Look,
    /// Something of a process of this number; nothing if that has died.
    Host(u32, usize, Task),
}

/// What a shard of the host does at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// The log's operation is done.
    Operation,
    /// A segment is made, or could not be.
    Created(u32),
    /// The log's pause is over.
    Pump,
    /// A body file is synced.
    Sealed(u32),
    /// A session's timer.
    Session(u32),
    /// A session has waited for the next hop for as long as it may.
    HandOver(u32),
    /// Asks for slots of sessions at the destination of this number.
    Usher(usize),
    /// The queue may have something.
    Queue,
    /// The message of a job was read.
    Loaded(u32),
    /// A mailbox is written.
    Boxed(u32),
    /// A delivery's timer.
    Delivery(u32),
    /// The next word of this shard has arrived.
    Mesh(usize),
    /// The question of this number is waited for no longer.
    Unanswered(u64),
    /// A report is tried again.
    Report(u32),
    /// Looks whether all is done, so that the process can end.
    Stopping,
}

/// The calendar.
#[derive(Debug, Default)]
pub(crate) struct Calendar {
    events: BTreeMap<(u64, u64), Event>,
    entered: u64,
}

impl Calendar {
    pub(crate) fn enter(&mut self, at: u64, event: Event) {
        self.entered += 1;
        self.events.insert((at, self.entered), event);
    }

    pub(crate) fn next(&mut self) -> Option<(u64, Event)> {
        self.events.pop_first().map(|((at, _), event)| (at, event))
    }

    /// Forgets what a process of the host wanted.
    pub(crate) fn forget_host(&mut self) {
        self.events.retain(|_, event| !matches!(event, Event::Host(..)));
    }
}
