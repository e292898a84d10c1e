//! Compaction: the few messages that are alive in the oldest segment are copied forward, so that it can be reused.
//!
//! A message that can't be copied stays where it is: it can't be read, or it was written when segments were larger. Then
//! a record that refers to it takes its place in the log, its segment is pinned, and segments behind it are freed as
//! ever. When the referring record's own segment is compacted, the copy is tried once more.

use crate::Spool;
use crate::index::{Flags, NONE, Place};
use crate::log::{Duty, Spare};
use crate::operation::{Op, Slot};
use crate::record::{self, Elsewhere, Kind};
use crate::segment::Segment;
use ringpost_base::SpoolId;

/// The log is compacted once it has this many segments, and if less than a quarter of it is alive.
pub(crate) const SEGMENTS_MIN: usize = 8;

/// Copies, and their bytes, between two writes: those who wait for a write wait for so many reads at most.
const COPIES_MAX: usize = 16;
const COPY_BYTES_MAX: usize = 256 << 10;

/// A walk over what is alive in one segment.
#[derive(Debug)]
pub(crate) struct Compaction {
    /// The segment; none while no walk is under way.
    from: Option<Slot>,
    /// The node to be copied next.
    next: u32,
    /// The message that is being read.
    copying: Option<SpoolId>,
    /// Copies that are staged or being written.
    pending: usize,
    /// Copies since the last write.
    copies: usize,
    copy_bytes: usize,
}

impl Default for Compaction {
    fn default() -> Self {
        Self { from: None, next: NONE, copying: None, pending: 0, copies: 0, copy_bytes: 0 }
    }
}

impl Compaction {
    fn is_under_way(&self) -> bool {
        self.from.is_some() && (self.next != NONE || self.copying.is_some() || self.pending > 0)
    }

    /// A write goes out: there may be copies again.
    pub(crate) fn begin_turn(&mut self) {
        (self.copies, self.copy_bytes) = (0, 0);
    }

    /// A copy that was staged is written or has failed.
    pub(crate) fn copy_done(&mut self) {
        self.pending -= 1;
    }
}

impl Spool {
    /// A message is no more.
    pub(crate) fn leave(&mut self, handle: u32) {
        if self.compaction.next == handle {
            self.compaction.next = self.index.node(handle).next();
        }
        if let Some(slot) = self.index.remove(handle) {
            self.unpin(slot);
        }
    }

    /// Nothing refers into the segment for one message less.
    pub(crate) fn unpin(&mut self, slot: Slot) {
        if let Some(segment) = self.index.segments.unpin(slot) {
            self.spare(slot, &segment);
        }
    }

    fn spare(&mut self, slot: Slot, segment: &Segment) {
        let spare = Spare { slot, sequence: segment.sequence };
        if segment.suspect { self.suspects.push_back(spare) } else { self.free.push_back(spare) }
    }

    /// Frees the oldest segments in which nothing is alive, and starts compaction where little is.
    pub(crate) fn free_dead(&mut self) {
        let in_use =
            [self.active.as_ref().map(|active| active.slot), self.in_flight.as_ref().map(|flight| flight.slot())];
        while let Some((slot, oldest)) = self.index.segments.oldest() {
            if oldest.live > 0 || in_use.contains(&Some(slot)) {
                break;
            }
            if self.compaction.from == Some(slot) {
                self.compaction.from = None;
            }
            if let Some((slot, segment)) = self.index.segments.pop_oldest() {
                self.spare(slot, &segment);
            }
        }
        self.plan_compaction();
    }

    fn plan_compaction(&mut self) {
        let segments = &self.index.segments;
        let little = segments.live_bytes * 4 <= segments.size();
        if self.compaction.is_under_way() || segments.len() < SEGMENTS_MIN || !little {
            return;
        }
        if let Some((slot, oldest)) = segments.oldest().filter(|(_, oldest)| !oldest.stuck) {
            (self.compaction.from, self.compaction.next) = (Some(slot), oldest.first);
        }
    }

    pub(crate) fn poll_copy(&mut self) -> Option<Op> {
        let walk = &mut self.compaction;
        let enough = walk.copies >= COPIES_MAX || walk.copy_bytes >= COPY_BYTES_MAX;
        if walk.copying.is_some() || walk.from.is_none() || walk.next == NONE || (enough && !self.staged.is_empty()) {
            return None;
        }
        let handle = walk.next;
        let location = self.index.locate(handle)?;
        let node = self.index.node(handle);
        walk.next = node.next();
        walk.copying = Some(node.id());
        walk.copies += 1;
        walk.copy_bytes += location.len as usize;
        Some(Op::Copy { id: node.id(), location })
    }

    /// An [`Op::Copy`] is done: the record's bytes, or nothing if they could not be read. Gives false if the record is
    /// not whole, in which case it stays where it is.
    pub fn copied(&mut self, id: SpoolId, bytes: Option<&[u8]>) -> bool {
        self.compaction.copying = None;
        let Some((handle, from)) = self.index.find(id).zip(self.compaction.from) else { return true };
        let node = self.index.node(handle);
        if node.flags.has(Flags::STAGED) || node.place().slot != from {
            return true;
        }
        let key = self.index.locate(handle).map_or(0, |location| location.key);
        let raw = bytes.and_then(|bytes| record::parse(bytes, key)).filter(|raw| raw.id == id && raw.kind.is_message());
        let Some(raw) = raw else {
            self.refer(handle, from);
            return false;
        };
        let state = node.state.as_ref().map_or(0, |state| state.len() + 4);
        if record::HEADER + raw.payload.len() + state > self.options.record_max() {
            // Written when segments were larger.
            self.refer(handle, from);
            return true;
        }
        self.compaction.pending += 1;
        self.stage_attached(raw.kind, id, raw.payload, Duty::Copy(from));
        true
    }

    /// Stages a record that stands for a message which stays where it is.
    fn refer(&mut self, handle: u32, from: Slot) {
        let Place { slot, offset, len } = self.index.bytes_of(handle);
        let Some(sequence) = self.index.segments.get(slot).map(|segment| segment.sequence) else { return };
        // The state goes with it, and may be of a time when segments were larger.
        let state = self.index.node(handle).state.as_ref().map_or(0, |state| state.len() + 4);
        let fits = record::HEADER + record::ELSEWHERE + state <= self.options.record_max();
        if !fits || !self.index.segments.pin(slot) {
            if let Some(segment) = self.index.segments.get_mut(from) {
                segment.stuck = true;
            }
            return;
        }
        let node = self.index.node(handle);
        let (id, size, has_body_file) = (node.id(), node.size, node.flags.has(Flags::BODY_FILE));
        let elsewhere = Elsewhere { sequence, offset, len, size, has_body_file };
        self.compaction.pending += 1;
        self.stage_attached(Kind::Elsewhere, id, &elsewhere.payload(), Duty::Copy(from));
    }

    /// A copy, or what stands for it, is durable: the message now lives there, unless it was settled meanwhile.
    pub(crate) fn moved(&mut self, id: SpoolId, kind: Kind, from: Slot, to: Place) {
        self.compaction.copy_done();
        let Some(handle) = self.index.find(id) else { return };
        let node = self.index.node(handle);
        if node.flags.has(Flags::STAGED) || node.place().slot != from {
            return;
        }
        let bytes = (kind == Kind::Elsewhere).then(|| self.index.bytes_of(handle));
        self.compacted += u64::from(bytes.is_none());
        if let Some(slot) = self.index.set_place(handle, to, bytes) {
            self.unpin(slot);
        }
    }
}
