//! Connections: two pipes of bytes that arrive in pieces of any size, late, or not at all.

use std::collections::{BTreeMap, VecDeque};

/// A connection's number.
pub(crate) type LinkId = u32;

/// Who holds an end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// A client, and which.
    Client(usize),
    /// A session of the host: shard and number.
    Inbound(usize, u32),
    /// A delivery of the host: shard and number.
    Outbound(usize, u32),
    /// A session of a next hop: which hop, and the session's number.
    Hop(usize, u32),
}

#[derive(Debug, Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    /// An arrival is in the calendar.
    scheduled: bool,
    /// Nothing comes behind these bytes.
    ended: bool,
}

#[derive(Debug)]
struct Link {
    ends: [End; 2],
    /// By the end that they lead to.
    pipes: [Pipe; 2],
    /// Bytes in both directions until it is cut.
    left: Option<u64>,
}

/// What came to an end of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Nothing.
    Nothing,
    /// These bytes, and whether more are on their way.
    Bytes(End, Vec<u8>, bool),
    /// The other end has closed.
    Closed(End),
    /// The connection was cut before they could: both ends find out.
    Cut([End; 2]),
}

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct Links {
    all: BTreeMap<LinkId, Link>,
    next: LinkId,
}

impl Links {
    /// A connection that is cut after so many bytes, if after any.
    pub(crate) fn open(&mut self, ends: [End; 2], left: Option<u64>) -> LinkId {
        self.next += 1;
        self.all.insert(self.next, Link { ends, pipes: [Pipe::default(), Pipe::default()], left });
        self.next
    }

    /// Gives bytes to the connection from the end of this number (0 or 1). True: an arrival at the other end is to be put
    /// into the calendar.
    pub(crate) fn send(&mut self, link: LinkId, from: usize, bytes: &[u8]) -> bool {
        let Some(link) = self.all.get_mut(&link) else { return false };
        let pipe = &mut link.pipes[1 - from];
        pipe.bytes.extend(bytes);
        !bytes.is_empty() && !std::mem::replace(&mut pipe.scheduled, true)
    }

    /// Closes the connection from one end: what was sent still arrives. True as with `send`.
    pub(crate) fn close(&mut self, link: LinkId, from: usize) -> bool {
        let Some(link) = self.all.get_mut(&link) else { return false };
        link.pipes[from].bytes.clear();
        let pipe = &mut link.pipes[1 - from];
        pipe.ended = true;
        !std::mem::replace(&mut pipe.scheduled, true)
    }

    /// Takes the connection away, with all that is on its way.
    pub(crate) fn cut(&mut self, link: LinkId) -> Option<[End; 2]> {
        self.all.remove(&link).map(|link| link.ends)
    }

    /// All connections with an end at the host.
    pub(crate) fn of_host(&self) -> Vec<LinkId> {
        let at_host = |end: &End| matches!(end, End::Inbound(..) | End::Outbound(..));
        self.all.iter().filter(|(_, link)| link.ends.iter().any(at_host)).map(|(id, _)| *id).collect()
    }

    /// No connection is cut any more.
    pub(crate) fn heal(&mut self) {
        self.all.values_mut().for_each(|link| link.left = None);
    }

    /// An arrival of at most so many bytes at the end of this number.
    pub(crate) fn arrive(&mut self, id: LinkId, to: usize, most: usize) -> Arrival {
        let Some(link) = self.all.get_mut(&id) else { return Arrival::Nothing };
        let (pipe, end) = (&mut link.pipes[to], link.ends[to]);
        pipe.scheduled = false;
        let len = most.min(pipe.bytes.len());
        if let Some(left) = &mut link.left {
            if *left < len as u64 {
                let ends = link.ends;
                self.all.remove(&id);
                return Arrival::Cut(ends);
            }
            *left -= len as u64;
        }
        let bytes: Vec<u8> = pipe.bytes.drain(..len).collect();
        if bytes.is_empty() {
            if pipe.ended {
                self.all.remove(&id);
                return Arrival::Closed(end);
            }
            return Arrival::Nothing;
        }
        let more = !pipe.bytes.is_empty() || pipe.ended;
        pipe.scheduled = more;
        Arrival::Bytes(end, bytes, more)
    }
}
