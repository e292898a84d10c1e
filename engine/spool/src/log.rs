//! The log: staging, group commit, settlement, freeing and compaction of segments.

use crate::record::{self, BodyFile, Kind};
use crate::recovery::SegmentHeader;
use crate::{BLOCK, Options};
use ringpost_base::{Accepted, Entropy, SpoolId};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;

/// The number of a segment file; it stays with the file when the segment is reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// What the caller knows an append by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub u64);

/// The proof that a message is durable: its record was written and synced. Only the log makes one.
#[derive(Debug)]
pub struct Receipt {
    id: SpoolId,
}

impl Accepted for Receipt {
    fn id(&self) -> SpoolId {
        self.id
    }
}

/// Why a message could not be made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There is no room for another segment.
    Full,
    /// A write or sync failed.
    Io,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "no room for another spool segment",
            Self::Io => "writing the spool failed",
        })
    }
}

impl std::error::Error for Failure {}

/// How an append came out.
#[derive(Debug)]
pub struct Completion {
    /// The append.
    pub token: Token,
    /// Its receipt, or why there is none.
    pub result: Result<Receipt, Failure>,
}

/// An operation for the caller to do. At most one of each kind is out at a time.
#[derive(Debug, PartialEq, Eq)]
pub enum Op {
    /// Make a segment file of the options' size, filled with zeros; sync it and its directory. Then [`Spool::created`].
    Create(Slot),
    /// Write the bytes, whose length is a multiple of [`BLOCK`], and sync the file. Then [`Spool::written`].
    Write {
        /// The segment file.
        slot: Slot,
        /// Where in it, a multiple of [`BLOCK`].
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Read the record and give it to [`Spool::copied`].
    Copy {
        /// The message.
        id: SpoolId,
        /// Where its record lies.
        location: Location,
    },
    /// Remove a surplus segment file; nothing waits for it.
    Remove(Slot),
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The segment file.
    pub slot: Slot,
    /// The segment's place in the log.
    pub sequence: u64,
    /// The key its records carry.
    pub key: u64,
    /// Offset of the record in the file, in bytes.
    pub offset: u64,
    /// Length of the record in bytes.
    pub len: u32,
}

/// What makes up a message for [`Spool::append`].
#[derive(Clone, Copy, Debug)]
pub struct MessageParts<'a> {
    /// The message's id.
    pub id: SpoolId,
    /// The stored envelope.
    pub envelope: &'a [u8],
    /// The message's bytes; empty if it has a body file.
    pub bytes: &'a [u8],
    /// The body file, already synced together with its directory entry.
    pub body_file: Option<BodyFile>,
}

/// Numbers about the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Segment files, spare ones included.
    pub segments: usize,
    /// Messages durable and not settled.
    pub live: usize,
    /// Messages copied forward so far.
    pub compacted: u64,
    /// Records written so far.
    pub records: u64,
}

/// Spare segments kept for reuse, at least.
const SPARE_MIN: usize = 4;
/// The log is compacted once it has this many segments, and if less than a quarter of it is alive.
const COMPACT_SEGMENTS_MIN: usize = 8;

const _: () = assert!(SPARE_MIN < COMPACT_SEGMENTS_MIN);

#[derive(Debug)]
struct Staged {
    kind: Kind,
    id: SpoolId,
    /// Offset and length within the batch.
    at: usize,
    len: usize,
    /// None for records nobody waits for.
    token: Option<Token>,
}

#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    records: Vec<Staged>,
}

#[derive(Debug)]
struct Segment {
    slot: Slot,
    key: u64,
    live: usize,
    live_bytes: u64,
    /// Messages written here, dead ones included.
    ids: Vec<SpoolId>,
}

#[derive(Debug)]
struct Active {
    sequence: u64,
    offset: u64,
}

#[derive(Debug)]
enum InFlight {
    Header { sequence: u64 },
    Batch { batch: Batch, sequence: u64, offset: u64 },
}

#[derive(Debug)]
struct Live {
    location: Location,
    done: Vec<u32>,
}

/// The log of one shard.
#[derive(Debug)]
pub struct Spool {
    options: Options,
    entropy: u64,
    segments: BTreeMap<u64, Segment>,
    /// Segments to reuse, the longest unused first.
    free: VecDeque<Slot>,
    active: Option<Active>,
    next_sequence: u64,
    next_slot: u32,
    creating: bool,
    staged: VecDeque<Batch>,
    in_flight: Option<InFlight>,
    index: HashMap<SpoolId, Live>,
    /// Messages of the oldest segment still to be copied forward, and the one being read.
    to_copy: VecDeque<SpoolId>,
    copying: Option<SpoolId>,
    compacted: u64,
    records: u64,
}

impl Spool {
    /// An empty log.
    pub fn new(options: Options, entropy: Entropy) -> Self {
        Self {
            options,
            entropy: entropy.long(),
            segments: BTreeMap::new(),
            free: VecDeque::new(),
            active: None,
            next_sequence: 1,
            next_slot: 0,
            creating: false,
            staged: VecDeque::new(),
            in_flight: None,
            index: HashMap::new(),
            to_copy: VecDeque::new(),
            copying: None,
            compacted: 0,
            records: 0,
        }
    }

    pub(crate) fn resume(&mut self, next: u64, segments: &BTreeMap<u64, (Slot, SegmentHeader)>, unused: Vec<Slot>) {
        self.next_sequence = next.max(1);
        for (sequence, (slot, header)) in segments {
            let segment = Segment { slot: *slot, key: header.key, live: 0, live_bytes: 0, ids: Vec::new() };
            self.segments.insert(*sequence, segment);
        }
        self.free = unused.into();
        let slots = self.segments.values().map(|segment| segment.slot).chain(self.free.iter().copied());
        self.next_slot = slots.map(|slot| slot.0 + 1).max().unwrap_or(0);
    }

    pub(crate) fn resume_message(&mut self, id: SpoolId, location: Location, done: Vec<u32>) {
        self.enter(id, location, done);
    }

    /// Stages a message. Its completion comes with a later [`Spool::written`] or [`Spool::created`]; false, and nothing is
    /// staged, if its record is larger than a segment.
    pub fn append(&mut self, token: Token, parts: &MessageParts<'_>) -> bool {
        if record::HEADER + parts.envelope.len() + parts.bytes.len() + 16 > self.record_max() {
            return false;
        }
        let len = (parts.envelope.len() as u32).to_le_bytes();
        match parts.body_file {
            None => self.stage(Kind::Message, parts.id, &[&len, parts.envelope, parts.bytes], Some(token)),
            Some(file) => {
                let (size, crc) = (file.len.to_le_bytes(), file.crc.to_le_bytes());
                self.stage(Kind::MessageFile, parts.id, &[&len, parts.envelope, &size, &crc], Some(token));
            }
        }
        true
    }

    /// The largest record that a segment holds behind its header.
    fn record_max(&self) -> usize {
        self.options.segment_size.as_len().saturating_sub(2 * BLOCK)
    }

    /// Takes a message over from another shard's log: the bytes of its record there, its key there, and which recipients
    /// are done. Gives false, and takes nothing, if the record is not whole or the message is here already.
    pub fn adopt(&mut self, token: Token, bytes: &[u8], key: u64, done: &[u32]) -> bool {
        let Some(raw) = record::parse(bytes, key).filter(|raw| raw.kind.is_message()) else { return false };
        if raw.len() > self.record_max() {
            return false;
        }
        if self.index.contains_key(&raw.id) {
            return false;
        }
        self.stage(raw.kind, raw.id, &[raw.payload], Some(token));
        self.stage_progress(raw.id, done);
        true
    }

    /// The message is delivered or reported: it is dead. Durable with the next batch; if that is lost, the message is
    /// delivered again, which delivery must be able to bear.
    pub fn settle(&mut self, id: SpoolId) {
        if self.leave(id) {
            self.stage(Kind::Settled, id, &[], None);
            self.free_dead();
        }
    }

    /// These recipients (by number) of the message are done, the others not yet. The list replaces an earlier one.
    pub fn progress(&mut self, id: SpoolId, done: &[u32]) {
        if let Some(live) = self.index.get_mut(&id) {
            live.done = done.to_vec();
            self.stage_progress(id, done);
        }
    }

    fn stage_progress(&mut self, id: SpoolId, done: &[u32]) {
        if !done.is_empty() {
            let payload: Vec<u8> = done.iter().flat_map(|number| number.to_le_bytes()).collect();
            self.stage(Kind::Progress, id, &[&payload], None);
        }
    }

    /// Where the message's record lies; nothing if it is not alive.
    pub fn locate(&self, id: SpoolId) -> Option<Location> {
        self.index.get(&id).map(|live| live.location)
    }

    /// Whether there is a segment to go on in once the current one is full.
    pub fn has_spare(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether anything is staged or under way.
    pub fn is_idle(&self) -> bool {
        self.staged.is_empty() && self.in_flight.is_none()
    }

    /// Numbers about the log.
    pub fn stats(&self) -> Stats {
        Stats {
            segments: self.segments.len() + self.free.len(),
            live: self.index.len(),
            compacted: self.compacted,
            records: self.records,
        }
    }

    fn stage(&mut self, kind: Kind, id: SpoolId, parts: &[&[u8]], token: Option<Token>) {
        let size: usize = record::HEADER + parts.iter().map(|part| part.len()).sum::<usize>();
        let full = |batch: &Batch| batch.bytes.len() + size > self.options.batch_max.as_len();
        if self.staged.back().is_none_or(full) {
            self.staged.push_back(Batch::default());
        }
        if let Some(batch) = self.staged.back_mut() {
            let at = batch.bytes.len();
            let len = record::append(kind, id, parts, &mut batch.bytes);
            batch.records.push(Staged { kind, id, at, len, token });
        }
    }

    /// The next operation, if there is one to do now. Call again until there is none, and after every completion.
    pub fn poll_op(&mut self) -> Option<Op> {
        // The oldest goes first, as in reuse: a settlement in a younger one must not be gone before its message is.
        if self.free.len() > SPARE_MIN.max(self.segments.len()) {
            return self.free.pop_front().map(Op::Remove);
        }
        if let Some(op) = self.poll_copy() {
            return Some(op);
        }
        if self.in_flight.is_none() && !self.staged.is_empty() {
            return self.poll_write();
        }
        // A new segment is made while the current one is still filling, so that nobody waits for its zeros.
        let half_full = self.active.as_ref().is_some_and(|active| active.offset * 2 > self.options.segment_size.0);
        if half_full && self.free.is_empty() { self.poll_create() } else { None }
    }

    fn poll_create(&mut self) -> Option<Op> {
        if self.creating {
            return None;
        }
        self.creating = true;
        let slot = Slot(self.next_slot);
        self.next_slot += 1;
        Some(Op::Create(slot))
    }

    fn poll_write(&mut self) -> Option<Op> {
        let padded = self.staged.front()?.bytes.len().next_multiple_of(BLOCK) as u64;
        let fits = |active: &Active| active.offset + padded <= self.options.segment_size.0;
        let Some(active) = self.active.as_mut().filter(|active| fits(active)) else {
            return self.begin_segment();
        };
        let mut batch = self.staged.pop_front()?;
        let (sequence, offset) = (active.sequence, active.offset);
        active.offset += padded;
        let segment = self.segments.get(&sequence)?;
        for staged in &batch.records {
            record::seal(&mut batch.bytes[staged.at..staged.at + staged.len], segment.key);
        }
        let mut bytes = std::mem::take(&mut batch.bytes);
        bytes.resize(padded as usize, 0);
        let op = Op::Write { slot: segment.slot, offset, bytes };
        self.in_flight = Some(InFlight::Batch { batch, sequence, offset });
        Some(op)
    }

    /// Writes the header of the next segment. It is synced before any record of the segment is written: only so does
    /// a segment that is overwritten tell, at every moment, which older ones no longer count.
    fn begin_segment(&mut self) -> Option<Op> {
        self.active = None;
        self.free_dead();
        let Some(slot) = self.free.pop_front() else { return self.poll_create() };
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let key = mix(self.entropy ^ sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let head = self.segments.keys().next().copied().unwrap_or(sequence);
        let header = SegmentHeader { sequence, head, key, size: self.options.segment_size.0 };
        self.segments.insert(sequence, Segment { slot, key, live: 0, live_bytes: 0, ids: Vec::new() });
        self.in_flight = Some(InFlight::Header { sequence });
        Some(Op::Write { slot, offset: 0, bytes: header.block() })
    }

    /// An [`Op::Create`] is done. Where it failed, everything staged fails as [`Failure::Full`].
    pub fn created(&mut self, slot: Slot, done: bool) -> Vec<Completion> {
        self.creating = false;
        if done {
            self.free.push_front(slot);
            return Vec::new();
        }
        let blocked = self.active.is_none() && self.in_flight.is_none();
        if blocked { self.fail_staged(Failure::Full) } else { Vec::new() }
    }

    /// An [`Op::Write`] is done, or has failed.
    pub fn written(&mut self, done: bool) -> Vec<Completion> {
        match self.in_flight.take() {
            None => Vec::new(),
            Some(InFlight::Header { sequence }) if done => {
                self.active = Some(Active { sequence, offset: BLOCK as u64 });
                Vec::new()
            }
            Some(InFlight::Header { sequence }) => {
                if let Some(segment) = self.segments.remove(&sequence) {
                    self.free.push_front(segment.slot);
                }
                self.fail_staged(Failure::Io)
            }
            Some(InFlight::Batch { batch, sequence, offset }) if done => self.committed(batch, sequence, offset),
            Some(InFlight::Batch { batch, .. }) => {
                // What reached the disk is not known: nothing more is written behind it.
                self.active = None;
                self.failed(batch, Failure::Io)
            }
        }
    }

    fn committed(&mut self, batch: Batch, sequence: u64, offset: u64) -> Vec<Completion> {
        self.records += batch.records.len() as u64;
        let Some((slot, key)) = self.segments.get(&sequence).map(|segment| (segment.slot, segment.key)) else {
            return Vec::new();
        };
        let mut completions = Vec::with_capacity(batch.records.len());
        for staged in batch.records {
            if staged.kind.is_message() {
                let location =
                    Location { slot, sequence, key, offset: offset + staged.at as u64, len: staged.len as u32 };
                match staged.token {
                    Some(token) => {
                        self.enter(staged.id, location, Vec::new());
                        completions.push(Completion { token, result: Ok(Receipt { id: staged.id }) });
                    }
                    None => self.moved(staged.id, location),
                }
            }
        }
        self.free_dead();
        completions
    }

    fn fail_staged(&mut self, failure: Failure) -> Vec<Completion> {
        let batches = std::mem::take(&mut self.staged);
        batches.into_iter().flat_map(|batch| self.failed(batch, failure)).collect()
    }

    /// Messages of a failed batch are refused, and declared dead in case they did reach the disk. Settlements and
    /// progress are staged again.
    fn failed(&mut self, batch: Batch, failure: Failure) -> Vec<Completion> {
        let mut completions = Vec::new();
        for staged in batch.records {
            match (staged.kind, staged.token) {
                (Kind::Message | Kind::MessageFile, Some(token)) => {
                    completions.push(Completion { token, result: Err(failure) });
                    if failure == Failure::Io {
                        self.stage(Kind::Settled, staged.id, &[], None);
                    }
                }
                (Kind::Settled, _) => self.stage(Kind::Settled, staged.id, &[], None),
                (Kind::Progress, _) => {
                    let done = self.index.get(&staged.id).map(|live| live.done.clone()).unwrap_or_default();
                    self.stage_progress(staged.id, &done);
                }
                // A copy that failed: the original still stands, and compaction comes by again.
                (Kind::Message | Kind::MessageFile, None) => {}
            }
        }
        completions
    }

    fn enter(&mut self, id: SpoolId, location: Location, done: Vec<u32>) {
        if let Some(segment) = self.segments.get_mut(&location.sequence) {
            segment.live += 1;
            segment.live_bytes += u64::from(location.len);
            segment.ids.push(id);
            self.index.insert(id, Live { location, done });
        }
    }

    fn leave(&mut self, id: SpoolId) -> bool {
        let Some(live) = self.index.remove(&id) else { return false };
        if let Some(segment) = self.segments.get_mut(&live.location.sequence) {
            segment.live -= 1;
            segment.live_bytes -= u64::from(live.location.len);
        }
        true
    }

    /// A copy is durable: the message now lives there, unless it was settled meanwhile.
    fn moved(&mut self, id: SpoolId, location: Location) {
        let done = self.index.get(&id).map(|live| live.done.clone()).unwrap_or_default();
        if self.leave(id) {
            self.compacted += 1;
            self.enter(id, location, done);
        }
    }

    /// Frees the oldest segments in which nothing is alive, and starts compaction where little is.
    pub(crate) fn free_dead(&mut self) {
        let active = self.active.as_ref().map_or(u64::MAX, |active| active.sequence);
        let writing = match &self.in_flight {
            Some(InFlight::Header { sequence } | InFlight::Batch { sequence, .. }) => *sequence,
            None => u64::MAX,
        };
        while let Some(oldest) = self.segments.first_entry() {
            if oldest.get().live > 0 || *oldest.key() == active || *oldest.key() == writing {
                break;
            }
            self.free.push_back(oldest.remove().slot);
        }
        self.plan_compaction();
    }

    fn plan_compaction(&mut self) {
        if !self.to_copy.is_empty() || self.copying.is_some() || self.segments.len() < COMPACT_SEGMENTS_MIN {
            return;
        }
        let live_bytes: u64 = self.segments.values().map(|segment| segment.live_bytes).sum();
        if live_bytes * 4 > self.segments.len() as u64 * self.options.segment_size.0 {
            return;
        }
        let Some((sequence, segment)) = self.segments.first_key_value() else { return };
        let here = |id: &&SpoolId| self.index.get(id).is_some_and(|live| live.location.sequence == *sequence);
        self.to_copy = segment.ids.iter().filter(here).copied().collect();
    }

    fn poll_copy(&mut self) -> Option<Op> {
        if self.copying.is_some() {
            return None;
        }
        while let Some(id) = self.to_copy.pop_front() {
            if let Some(live) = self.index.get(&id) {
                self.copying = Some(id);
                return Some(Op::Copy { id, location: live.location });
            }
        }
        None
    }

    /// An [`Op::Copy`] is done: the record's bytes, or nothing if they could not be read. Gives false if the record is
    /// not whole, in which case it stays where it is.
    pub fn copied(&mut self, id: SpoolId, bytes: Option<&[u8]>) -> bool {
        self.copying = None;
        let Some(live) = self.index.get(&id) else { return true };
        let (key, done) = (live.location.key, live.done.clone());
        let Some(raw) = bytes.and_then(|bytes| record::parse(bytes, key)).filter(|raw| raw.id == id) else {
            return false;
        };
        if raw.len() > self.record_max() {
            // Written when segments were larger: it stays where it is until it is settled.
            return true;
        }
        self.stage(raw.kind, id, &[raw.payload], None);
        self.stage_progress(id, &done);
        true
    }
}

/// Spreads a number over 64 bits (the finaliser of SplitMix64, Steele, Lea and Flood 2014), so that a key can't be
/// told from an earlier one without knowing the entropy.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
