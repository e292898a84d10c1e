//! Recovery: from the bytes of the segments to the messages that are acknowledged and not settled.
//!
//! The caller gives every segment's first block, asks for the order, and then gives every segment's bytes in it. At the end
//! of the log a torn record is expected: nothing behind it was acknowledged. A bad record with good ones behind it, or
//! before the end that the next segment's header tells, is damage; it is counted and reported, and reading goes on at the
//! next good one, so a bad record loses no more than itself. What can't be read at all is damage too: the caller gives zeros
//! in its place and says where ([`Recovery::unreadable`]).
//!
//! Of a segment older than the head, which is kept for the sake of messages that younger ones refer to, only records of
//! messages count: what else stands in it has younger records in its place, or was let go together with them.
//!
//! What is read of a message is what the caller makes of its envelope: so a million envelopes need not be held.

use crate::index::{Flags, Index, Node, Place};
use crate::inspect::{Step, Walk};
use crate::log::Spare;
use crate::operation::{Location, Slot};
use crate::record::{self, Elsewhere, Kind, Raw};
use crate::segment::Segment;
use crate::{BLOCK, Options, PINNED_MAX, SegmentHeader, Spool, UnknownVersion};
use ringpost_base::{Entropy, SpoolId};
use std::collections::{BTreeMap, HashMap};

/// A message found alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered<D> {
    /// The message's id.
    pub id: SpoolId,
    /// What the caller made of its envelope.
    pub digest: D,
    /// Length of the message in bytes.
    pub size: u64,
    /// Whether it has a body file.
    pub has_body_file: bool,
    /// What the queue last noted about it; empty for nothing.
    pub state: Box<[u8]>,
    /// Where nothing was noted since the log was of format 1: numbers of the recipients that are done.
    pub legacy_done: Vec<u32>,
}

/// A place in the log that failed its checksum although it was synced once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment file.
    pub slot: Slot,
    /// The offset in it, in bytes. At 0 it is the header: the file is left alone, neither read nor used again.
    pub offset: u64,
    /// How many bytes are no record.
    pub len: u64,
}

/// A message that is not where a record says it is, although its segment should be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The message.
    pub id: SpoolId,
    /// The segment file of the record that refers to it.
    pub slot: Slot,
    /// The offset of that record, in bytes.
    pub offset: u64,
}

/// A message in a segment of which only those count that a younger one refers to.
struct LetGo<D> {
    place: Place,
    size: u64,
    flags: Flags,
    digest: D,
}

/// Records taken in one step: of the usual size, less than a millisecond's work.
const RECORDS_AT_ONCE: usize = 64;

/// A segment of which some records are taken: see [`Recovery::begin`].
pub struct Reading {
    slot: Slot,
    header: SegmentHeader,
    walk: Walk,
}

/// Reads a log back.
pub struct Recovery<D> {
    headers: BTreeMap<u64, (Slot, SegmentHeader)>,
    unused: Vec<Slot>,
    next_slot: u32,
    next_sequence: u64,
    /// Segments before it are in the log only for the messages that younger ones refer to.
    head: u64,
    /// Of these, the ones that the newest header names.
    pinned: [u64; PINNED_MAX],
    index: Index,
    /// By the handle of the message.
    digests: Vec<Option<D>>,
    let_go: HashMap<SpoolId, LetGo<D>>,
    /// Messages that were referred to and not found, by where the referring record stands.
    unresolved: BTreeMap<SpoolId, Place>,
    damage: Vec<Damage>,
}

impl<D> Default for Recovery<D> {
    fn default() -> Self {
        Self {
            headers: BTreeMap::new(),
            unused: Vec::new(),
            next_slot: 0,
            next_sequence: 1,
            head: 0,
            pinned: [0; PINNED_MAX],
            // Ids of a log are not chosen by strangers: the seed of its table need not be a secret.
            index: Index::new(0),
            digests: Vec::new(),
            let_go: HashMap::new(),
            unresolved: BTreeMap::new(),
            damage: Vec::new(),
        }
    }
}

impl<D> Recovery<D> {
    /// A recovery that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the first block of a segment file. A segment that a newer program wrote is an error: what it holds would
    /// be overwritten otherwise.
    pub fn header(&mut self, slot: Slot, block: &[u8]) -> Result<(), UnknownVersion> {
        if let Some(version) = SegmentHeader::unknown_version(block) {
            return Err(UnknownVersion { slot, version });
        }
        self.next_slot = self.next_slot.max(slot.0.saturating_add(1));
        match SegmentHeader::parse(block) {
            Some(header) if !self.headers.contains_key(&header.sequence) => {
                self.next_sequence = self.next_sequence.max(header.sequence.saturating_add(1));
                self.headers.insert(header.sequence, (slot, header));
            }
            None if block.iter().all(|byte| *byte == 0) => self.unused.push(slot),
            _ => self.damage.push(Damage { slot, offset: 0, len: BLOCK as u64 }),
        }
        Ok(())
    }

    /// Takes note of a segment file whose first block can't be read: it is left alone.
    pub fn unreadable_header(&mut self, slot: Slot) {
        self.next_slot = self.next_slot.max(slot.0.saturating_add(1));
        self.unreadable(slot, 0, BLOCK as u64);
    }

    /// Takes note of a piece of a segment that can't be read, for which zeros are given to [`Recovery::segment`].
    pub fn unreadable(&mut self, slot: Slot, offset: u64, len: u64) {
        self.damage.push(Damage { slot, offset, len });
    }

    /// The segments to read, in order, once all headers are taken. Those the log had already let go are left out.
    pub fn order(&mut self) -> Vec<(Slot, SegmentHeader)> {
        if let Some((_, (_, newest))) = self.headers.last_key_value() {
            let newest = *newest;
            (self.head, self.pinned) = (newest.head, newest.pinned);
            let let_go = self.headers.extract_if(.., |sequence, _| !newest.needs(*sequence));
            self.unused.extend(let_go.map(|(_, (slot, _))| slot));
        }
        for (sequence, (slot, header)) in &self.headers {
            let segment = Segment::new(*sequence, header.key, header.size);
            if self.index.segments.get(*slot).is_some() {
                continue;
            }
            if *sequence < self.head {
                self.index.segments.begin_pinned(*slot, segment);
            } else {
                self.index.segments.begin(*slot, segment);
            }
        }
        self.headers.values().copied().collect()
    }

    /// The segment files that hold nothing of the log. Those taken here are forgotten: the caller removes them, after it has
    /// synced the last file of [`Recovery::order`], whose header is what says that they are not needed.
    pub fn take_unused(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.unused)
    }

    /// Sequences of segments that are part of the log and of which there is no file.
    pub fn missing(&self) -> Vec<u64> {
        let previous = self.headers.values().map(|(_, header)| header.previous);
        let in_order = previous.filter(|previous| *previous >= self.head.max(1));
        let pinned = self.pinned.iter().copied().filter(|sequence| *sequence != 0);
        pinned.chain(in_order).filter(|sequence| !self.headers.contains_key(sequence)).collect()
    }

    /// Messages that records refer to and that are lost. One whose segment was let go is none of them: it was settled, and
    /// its settlement not yet on the disk.
    pub fn lost(&self) -> impl Iterator<Item = Lost> {
        self.unresolved.iter().map(|(id, Place { slot, offset, .. })| Lost {
            id: *id,
            slot: *slot,
            offset: u64::from(*offset),
        })
    }

    /// Takes the bytes of a segment, whole, in the order given. `digest` is shown each envelope, also of messages that turn
    /// out to be settled.
    pub fn segment(
        &mut self,
        slot: Slot,
        header: &SegmentHeader,
        bytes: &[u8],
        digest: &mut dyn FnMut(SpoolId, &[u8]) -> D,
    ) {
        let mut reading = self.begin(slot, header);
        while self.go_on(&mut reading, bytes, digest) {}
    }

    /// Begins to take a segment, some records at a time: for who has something else to do in between.
    pub fn begin(&self, slot: Slot, header: &SegmentHeader) -> Reading {
        let next = self.headers.range(header.sequence.saturating_add(1)..).next().map(|(_, (_, next))| next);
        let sealed = next.filter(|next| next.previous == header.sequence).map_or(0, |next| next.previous_end);
        Reading { slot, header: *header, walk: Walk::new(*header, sealed) }
    }

    /// Takes the next few records of a segment, of which all bytes are given each time; false once there are no more.
    pub fn go_on(&mut self, reading: &mut Reading, bytes: &[u8], digest: &mut dyn FnMut(SpoolId, &[u8]) -> D) -> bool {
        let Reading { slot, header, walk } = reading;
        let (slot, mut damage) = (*slot, Vec::new());
        let mut step = |step: Step<'_>| match step {
            Step::Record { at, raw } => self.take(slot, header, at, &raw, digest),
            Step::Damage { offset, len } => damage.push(Damage { slot, offset, len }),
            Step::TornTail { .. } => {}
        };
        let more = (0..RECORDS_AT_ONCE).all(|_| walk.go_on(bytes, &mut step));
        let end = (!more).then(|| walk.end(bytes, &mut step));
        if let (Some(end), Some(segment)) = (end, self.index.segments.get_mut(slot)) {
            segment.end = end;
        }
        self.damage.extend(damage);
        more
    }

    fn take(
        &mut self,
        slot: Slot,
        header: &SegmentHeader,
        at: usize,
        raw: &Raw<'_>,
        digest: &mut dyn FnMut(SpoolId, &[u8]) -> D,
    ) {
        let place = Place { slot, offset: at as u32, len: raw.len() as u32 };
        let let_go = header.sequence < self.head;
        match raw.kind {
            Kind::Settled => self.forget(raw.id),
            // Believed, they would bring back messages whose settlements are gone.
            Kind::Progress | Kind::State | Kind::Elsewhere if let_go => {}
            Kind::Progress | Kind::State => {
                if let Some(handle) = self.index.find(raw.id) {
                    self.index.node_mut(handle).set_state(raw.payload, raw.kind == Kind::Progress);
                }
            }
            Kind::Elsewhere => self.refer(header.version, raw, place),
            Kind::Message | Kind::MessageFile => {
                let Some(message) = record::message_of(raw) else { return };
                let flags = Flags::default().with(Flags::BODY_FILE, raw.kind == Kind::MessageFile);
                let (size, digest) = (message.content.size(), digest(raw.id, message.envelope));
                if let_go {
                    self.let_go.insert(raw.id, LetGo { place, size, flags, digest });
                } else {
                    let handle = self.enter(raw.id, size, flags, digest);
                    self.index.set_place(handle, place, None);
                    self.attach(handle, header.version, raw);
                }
            }
        }
    }

    /// The handle of a message that is alive. If it was known before, this is a copy.
    fn enter(&mut self, id: SpoolId, size: u64, flags: Flags, digest: D) -> u32 {
        let handle = self.index.find(id).unwrap_or_else(|| self.index.insert(Node::new(id, size, None, flags)));
        self.index.node_mut(handle).size = size;
        self.unresolved.remove(&id);
        self.keep(handle, digest);
        handle
    }

    /// The state of a message is the one that its newest copy carries, or none: what was noted before the copy goes with the
    /// segment it stands in. In format 1 it was carried by a record behind the copy.
    fn attach(&mut self, handle: u32, version: u8, raw: &Raw<'_>) {
        let (state, legacy) = raw.attached.map_or((&[][..], false), |attached| (attached.state, attached.legacy));
        if version > 1 {
            self.index.node_mut(handle).set_state(state, legacy);
        }
    }

    fn keep(&mut self, handle: u32, digest: D) {
        let handle = handle as usize;
        if self.digests.len() <= handle {
            self.digests.resize_with(handle + 1, || None);
        }
        self.digests[handle] = Some(digest);
    }

    fn forget(&mut self, id: SpoolId) {
        self.let_go.remove(&id);
        self.unresolved.remove(&id);
        if let Some(handle) = self.index.find(id) {
            self.index.remove(handle);
            self.digests[handle as usize] = None;
        }
    }

    /// A message stands where this record says, and this record stands for it in the order of the log. Where its
    /// segment is gone and was not to be kept, it was settled; where what stands there is not the message, it is lost,
    /// unless a younger record settles it, or is a copy of it.
    fn refer(&mut self, version: u8, raw: &Raw<'_>, place: Place) {
        let Some(elsewhere) = Elsewhere::parse(raw.payload) else { return };
        let Some((slot, _)) = self.headers.get(&elsewhere.sequence) else {
            if elsewhere.sequence >= self.head.max(1) || self.pinned.contains(&elsewhere.sequence) {
                self.unresolved.insert(raw.id, place);
            }
            return;
        };
        let bytes = Place { slot: *slot, offset: elsewhere.offset, len: elsewhere.len };
        let handle = match self.index.find(raw.id) {
            Some(handle) => handle,
            None => {
                let Some(found) = self.let_go.remove(&raw.id).filter(|found| found.place == bytes) else {
                    self.unresolved.insert(raw.id, place);
                    return;
                };
                self.enter(raw.id, found.size, found.flags, found.digest)
            }
        };
        self.index.set_place(handle, place, Some(bytes));
        self.attach(handle, version, raw);
    }

    /// The places that were damaged.
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// How many messages were found so far that are not settled so far.
    pub fn found(&self) -> usize {
        self.index.live()
    }

    /// Where a message found so far lies.
    pub fn locate(&self, id: SpoolId) -> Option<Location> {
        self.index.locate(self.index.find(id)?)
    }

    /// Bytes of the records of messages found so far, about: what a copy of them takes.
    pub fn live_bytes(&self) -> u64 {
        self.index.segments.live_bytes
    }

    /// The messages alive in a log that is not to be gone on with, and where each lies, in no order that means anything.
    pub fn into_live(self) -> Live<D> {
        Live { recovery: self, next: 0 }
    }

    /// The log as it stands, and the messages alive in it, oldest first.
    pub fn finish(mut self, options: Options, entropy: Entropy) -> (Spool, Vec<Recovered<D>>) {
        let mut handles: Vec<(SpoolId, u32)> =
            self.index.handles().map(|handle| (self.index.node(handle).id(), handle)).collect();
        handles.sort_unstable();
        let mut live = Vec::with_capacity(handles.len());
        for (id, handle) in handles {
            live.extend(self.recovered(id, handle));
        }
        let mut spool = Spool::over(self.index, options, entropy);
        spool.next_sequence = self.next_sequence;
        spool.next_slot = self.next_slot;
        (spool.durable_head, spool.durable_pinned) = (self.head, self.pinned);
        spool.free = self.unused.into_iter().map(|slot| Spare { slot, sequence: 0 }).collect();
        let pinned: Vec<Slot> = self.headers.range(..self.head).map(|(_, (slot, _))| *slot).collect();
        pinned.into_iter().for_each(|slot| spool.unpin(slot));
        spool.free_dead();
        (spool, live)
    }

    fn recovered(&mut self, id: SpoolId, handle: u32) -> Option<Recovered<D>> {
        let digest = self.digests[handle as usize].take()?;
        let node = self.index.node(handle);
        let state = node.state.clone().unwrap_or_default();
        let (legacy_done, state) = if node.flags.has(Flags::LEGACY) {
            (record::progress_of(&state), Box::default())
        } else {
            (Vec::new(), state)
        };
        let (size, has_body_file) = (node.size, node.flags.has(Flags::BODY_FILE));
        Some(Recovered { id, digest, size, has_body_file, state, legacy_done })
    }
}

/// The messages of a log, one after the other: see [`Recovery::into_live`].
pub struct Live<D> {
    recovery: Recovery<D>,
    /// From which handle on the next one is looked for.
    next: u32,
}

impl<D> Iterator for Live<D> {
    type Item = (Recovered<D>, Location);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let handle = self.recovery.index.durable_from(self.next)?;
            self.next = handle + 1;
            let id = self.recovery.index.node(handle).id();
            let location = self.recovery.index.locate(handle);
            if let (Some(location), Some(message)) = (location, self.recovery.recovered(id, handle)) {
                return Some((message, location));
            }
        }
    }
}
