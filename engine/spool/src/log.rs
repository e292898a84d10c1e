//! The log: what its users ask of it, and the staging of it.

use crate::compaction::Compaction;
use crate::index::{Flags, Index, Node};
use crate::operation::{Entry, Location, MessageParts, Slot, Stats, Token};
use crate::record::{self, Attached, Kind};
use crate::{BLOCK, BodyFile, Options, PINNED_MAX, SEGMENT_SIZE_MAX};
use ringpost_base::{ByteCount, Entropy, SpoolId};
use std::borrow::Cow;
use std::collections::VecDeque;

/// Most bytes of a message's state. It is rewritten as a whole at each change, so it is to be small; this bounds what a
/// message of very many recipients costs. Where a segment is smaller than that, it is the largest that a segment holds.
pub const STATE_MAX: usize = 64 << 10;

/// Who waits for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// A message that arrives: whoever sends it.
    Append(Token),
    /// A copy of a message, or what stands for it: compaction, which took it from that segment.
    Copy(Slot),
    /// Nobody.
    None,
}

#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) kind: Kind,
    pub(crate) id: SpoolId,
    /// Offset and length within the batch.
    pub(crate) at: usize,
    pub(crate) len: usize,
    pub(crate) duty: Duty,
}

#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: Vec<Staged>,
}

/// A segment file to reuse.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spare {
    pub(crate) slot: Slot,
    /// What it was before; 0 where it holds nothing.
    pub(crate) sequence: u64,
}

#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) slot: Slot,
    pub(crate) offset: u64,
}

#[derive(Debug)]
pub(crate) enum InFlight {
    Header { slot: Slot, head: u64, pinned: [u64; PINNED_MAX] },
    Batch { batch: Batch, slot: Slot, offset: u64 },
}

impl InFlight {
    /// The segment it goes to.
    pub(crate) fn slot(&self) -> Slot {
        let (Self::Header { slot, .. } | Self::Batch { slot, .. }) = self;
        *slot
    }
}

/// The log of one shard.
#[derive(Debug)]
pub struct Spool {
    pub(crate) options: Options,
    pub(crate) entropy: u64,
    pub(crate) index: Index,
    /// Segments to reuse, the longest unused first.
    pub(crate) free: VecDeque<Spare>,
    /// Segments a write to which has failed: reused if there is no other, and removed as soon as there is.
    pub(crate) suspects: VecDeque<Spare>,
    pub(crate) active: Option<Active>,
    pub(crate) next_sequence: u64,
    pub(crate) next_slot: u32,
    /// The head that the newest header on the disk says: what is older is not read any more.
    pub(crate) durable_head: u64,
    /// The older ones that it says are still to be read.
    pub(crate) durable_pinned: [u64; PINNED_MAX],
    pub(crate) creating: bool,
    /// The last attempt to make a segment failed.
    pub(crate) create_failed: bool,
    pub(crate) staged: VecDeque<Batch>,
    /// Messages whose state is to be written. It is staged at the last moment, so that a message has one there however
    /// often it changes while the disk fails.
    pub(crate) noted: VecDeque<SpoolId>,
    pub(crate) in_flight: Option<InFlight>,
    pub(crate) compaction: Compaction,
    pub(crate) compacted: u64,
    pub(crate) records: u64,
}

impl Spool {
    /// An empty log.
    pub fn new(options: Options, entropy: Entropy) -> Self {
        Self::over(Index::new(entropy.long()), options, entropy)
    }

    /// A log over what was read back.
    pub(crate) fn over(index: Index, mut options: Options, entropy: Entropy) -> Self {
        let size = options.segment_size.min(SEGMENT_SIZE_MAX).0;
        options.segment_size = ByteCount(size - size % BLOCK as u64);
        Self {
            options,
            entropy: entropy.long(),
            index,
            free: VecDeque::new(),
            suspects: VecDeque::new(),
            active: None,
            next_sequence: 1,
            next_slot: 0,
            durable_head: 0,
            durable_pinned: [0; PINNED_MAX],
            creating: false,
            create_failed: false,
            staged: VecDeque::new(),
            noted: VecDeque::new(),
            in_flight: None,
            compaction: Compaction::default(),
            compacted: 0,
            records: 0,
        }
    }

    /// Stages a message. Its completion comes with a later [`Spool::written`] or [`Spool::created`]; false, and nothing is
    /// staged, if its record is larger than a segment or the message is here already.
    pub fn append(&mut self, token: Token, parts: &MessageParts<'_>) -> bool {
        let record = record::HEADER + 16 + parts.envelope.len() + parts.bytes.len();
        if record > self.options.record_max() || self.index.find(parts.id).is_some() {
            return false;
        }
        let size = parts.body_file.map_or(parts.bytes.len() as u64, |file| file.len);
        let flags = Flags::STAGED.with(Flags::BODY_FILE, parts.body_file.is_some());
        self.index.insert(Node::new(parts.id, size, None, flags));
        let duty = Duty::Append(token);
        match parts.body_file {
            None => {
                let len = (parts.envelope.len() as u32).to_le_bytes();
                self.stage(Kind::Message, parts.id, &[&len, parts.envelope, parts.bytes], duty);
            }
            Some(file) => {
                self.stage(Kind::MessageFile, parts.id, &[&record::payload_of_file(parts.envelope, file)], duty);
            }
        }
        true
    }

    /// Takes a message over from another shard's log: the bytes of its record there, its key there, and its state, which
    /// becomes durable together with it. Gives false, and takes nothing, if the record is not whole, is larger than a
    /// segment, or the message is here already.
    pub fn adopt(&mut self, token: Token, bytes: &[u8], key: u64, state: &[u8]) -> bool {
        self.take_over(token, bytes, key, Attached { state, legacy: false }, None)
    }

    /// The same for a message of which a log of format 1 says which recipients are done, and has no state.
    pub fn adopt_legacy(&mut self, token: Token, bytes: &[u8], key: u64, done: &[u32]) -> bool {
        self.take_over(token, bytes, key, Attached { state: &record::progress(done), legacy: true }, None)
    }

    /// The same for a message that is too large for a segment of this log: its bytes were put into a body file, synced
    /// together with its directory entry. `done` is what a log of format 1 says of it, and `state` counts only where that is
    /// empty.
    pub fn adopt_into_file(
        &mut self,
        token: Token,
        bytes: &[u8],
        key: u64,
        (state, done): (&[u8], &[u32]),
        file: BodyFile,
    ) -> bool {
        let progress = record::progress(done);
        let legacy = !done.is_empty();
        let state = if legacy { &progress } else { state };
        self.take_over(token, bytes, key, Attached { state, legacy }, Some(file))
    }

    fn take_over(&mut self, token: Token, bytes: &[u8], key: u64, noted: Attached<'_>, into: Option<BodyFile>) -> bool {
        let Some(raw) = record::parse(bytes, key) else { return false };
        let Some(message) = record::message_of(&raw) else { return false };
        let (kind, payload) = match into {
            Some(file) => (Kind::MessageFile, Cow::Owned(record::payload_of_file(message.envelope, file))),
            None => (raw.kind, Cow::Borrowed(raw.payload)),
        };
        let record = record::HEADER + payload.len() + noted.state.len() + 4;
        if record > self.options.record_max() || self.index.find(raw.id).is_some() {
            return false;
        }
        let flags = Flags::STAGED.with(Flags::BODY_FILE, kind == Kind::MessageFile);
        let mut node = Node::new(raw.id, message.content.size(), None, flags);
        node.set_state(noted.state, noted.legacy);
        self.index.insert(node);
        self.stage_attached(kind, raw.id, &payload, Duty::Append(token));
        true
    }

    /// The message is delivered or reported: it is dead. Durable with the next batch; if that is lost, the message is
    /// delivered again, which delivery must be able to bear.
    ///
    /// A message that is not durable yet may be settled too. It gets its receipt, if its record succeeds, and is dead then.
    pub fn settle(&mut self, id: SpoolId) {
        let Some(handle) = self.index.find(id) else { return };
        if self.index.node(handle).flags.has(Flags::STAGED) {
            self.index.node_mut(handle).flags.set(Flags::SETTLED, true);
            return;
        }
        self.leave(handle);
        self.stage(Kind::Settled, id, &[], Duty::None);
        self.free_dead();
    }

    /// What the queue wants to know about the message after a restart: kept with it through compaction and recovery, and
    /// not understood here. It replaces what was noted before; empty, there is none. Durable with a later batch. Of a
    /// state that is larger than [`STATE_MAX`] nothing is taken, and false returned.
    ///
    /// A message that is not durable yet may have it too; nothing is kept for one that is not here.
    pub fn note(&mut self, id: SpoolId, state: &[u8]) -> bool {
        if state.len() > STATE_MAX.min(self.options.record_max().saturating_sub(record::HEADER + record::ELSEWHERE + 4))
        {
            return false;
        }
        let Some(handle) = self.index.find(id) else { return true };
        let node = self.index.node_mut(handle);
        let smaller = node.state.as_ref().is_some_and(|older| older.len() > state.len());
        node.set_state(state, false);
        let slot = node.place().slot;
        if let Some(segment) = self.index.segments.get_mut(slot).filter(|_| smaller) {
            // Where the state was too large to be carried forward, it may not be now.
            segment.stuck = false;
        }
        self.mark_noted(handle);
        true
    }

    /// The state last noted; nothing where there is none.
    pub fn state(&self, id: SpoolId) -> Option<&[u8]> {
        let node = self.index.node(self.index.find(id)?);
        if node.flags.has(Flags::LEGACY) { None } else { node.state.as_deref() }
    }

    /// Where the message's record lies; nothing if it is not durable or not alive.
    pub fn locate(&self, id: SpoolId) -> Option<Location> {
        self.index.locate(self.index.find(id)?)
    }

    /// What is known of a message without reading it; nothing if it is not durable or not alive.
    pub fn entry(&self, id: SpoolId) -> Option<Entry> {
        let handle = self.index.find(id)?;
        let node = self.index.node(handle);
        let (size, has_body_file) = (node.size, node.flags.has(Flags::BODY_FILE));
        Some(Entry { location: self.index.locate(handle)?, size, has_body_file })
    }

    /// The messages that are durable and alive, in no order that means anything.
    pub fn ids(&self) -> impl Iterator<Item = SpoolId> {
        self.index.handles().map(|handle| self.index.node(handle).id())
    }

    /// Whether there is a segment to go on in once the current one is full.
    pub fn has_spare(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether anything is staged or under way.
    pub fn is_idle(&self) -> bool {
        self.staged.is_empty() && self.in_flight.is_none() && self.noted.is_empty()
    }

    /// Numbers about the log.
    pub fn stats(&self) -> Stats {
        let segments = &self.index.segments;
        let spare = self.free.len() + self.suspects.len();
        Stats {
            segments: segments.count() + spare,
            spare,
            pinned: segments.count() - segments.len(),
            live: self.index.live(),
            live_bytes: segments.live_bytes,
            compacted: self.compacted,
            records: self.records,
        }
    }

    /// Stages a record.
    pub(crate) fn stage(&mut self, kind: Kind, id: SpoolId, parts: &[&[u8]], duty: Duty) {
        self.push(kind, id, parts, None, duty);
    }

    /// Stages a record of a message and the message's state with it: once it is durable the segment may go in which the
    /// state stood.
    pub(crate) fn stage_attached(&mut self, kind: Kind, id: SpoolId, payload: &[u8], duty: Duty) {
        let node = self.index.find(id).map(|handle| self.index.node(handle));
        let legacy = node.is_some_and(|node| node.flags.has(Flags::LEGACY));
        let state = node.and_then(|node| node.state.clone());
        let attached = state.as_deref().map(|state| Attached { state, legacy });
        self.push(kind, id, &[payload], attached, duty);
    }

    /// In the last batch that waits, or in another one where that is full.
    fn push(&mut self, kind: Kind, id: SpoolId, parts: &[&[u8]], attached: Option<Attached<'_>>, duty: Duty) {
        let payload = parts.iter().map(|part| part.len()).sum::<usize>();
        let (size, most) = (record::HEADER + payload + Attached::len(attached), self.options.batch_bytes_max());
        if self.staged.back().is_none_or(|batch| !batch.bytes.is_empty() && batch.bytes.len() + size > most) {
            self.staged.push_back(Batch::default());
        }
        if let Some(batch) = self.staged.back_mut() {
            let at = batch.bytes.len();
            let len = record::append(kind, id, parts, attached, &mut batch.bytes);
            batch.records.push(Staged { kind, id, at, len, duty });
        }
    }

    /// Remembers that a state is to be written.
    pub(crate) fn mark_noted(&mut self, handle: u32) {
        let node = self.index.node_mut(handle);
        if !node.flags.has(Flags::NOTED) {
            node.flags.set(Flags::NOTED, true);
            let id = node.id();
            self.noted.push_back(id);
        }
    }

    /// Stages the states that are to be written, behind everything staged so far: none may stand before the record of its
    /// message, nor before an older state.
    pub(crate) fn stage_noted(&mut self) {
        while let Some(id) = self.noted.pop_front() {
            let Some(handle) = self.index.find(id) else { continue };
            if self.index.node(handle).flags.has(Flags::NOTED) {
                self.index.node_mut(handle).flags.set(Flags::NOTED, false);
                let node = self.index.node(handle);
                let kind = if node.flags.has(Flags::LEGACY) { Kind::Progress } else { Kind::State };
                let state = node.state.clone().unwrap_or_default();
                self.stage(kind, id, &[&state], Duty::None);
            }
        }
    }
}
