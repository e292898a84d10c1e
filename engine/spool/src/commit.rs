//! Group commit: one write and one sync at a time, with all that was staged meanwhile, and the segments it goes to.

use crate::index::{Flags, Place, mix};
use crate::log::{Active, Batch, Duty, InFlight, Spare};
use crate::operation::{Completion, Failure, Op, Slot};
use crate::record::{self, Kind};
use crate::segment::{Segment, SegmentHeader};
use crate::{BLOCK, FORMAT_VERSION, Receipt, Spool, compaction};

/// Spare segments kept for reuse, at least.
const SPARE_MIN: usize = 4;

/// Files a write to which has failed, from which on one of them is tried again in place of a new one: where every header fails
/// and files can be made, they would pile up without end.
const SUSPECTS_MAX: usize = 4;

const _: () = assert!(SPARE_MIN < compaction::SEGMENTS_MIN);

impl Spool {
    /// The next operation, if there is one to do now. Call again until there is none, and after every completion.
    pub fn poll_op(&mut self) -> Option<Op> {
        if let Some(op) = self.poll_remove().or_else(|| self.poll_copy()) {
            return Some(op);
        }
        if self.in_flight.is_none()
            && let Some(op) = self.poll_write()
        {
            return Some(op);
        }
        // A new segment is made while the current one is still filling, so that nobody waits for its zeros.
        let half_full = self.active.as_ref().is_some_and(|active| active.offset * 2 > self.options.segment_size.0);
        if half_full && self.free.is_empty() { self.poll_create() } else { None }
    }

    /// Removes a segment file that is not needed, nor believed: only one that the newest header on the disk has let go.
    /// Otherwise a settlement in it could be gone, and its message, in an older file, be there.
    fn poll_remove(&mut self) -> Option<Op> {
        let (head, pinned) = (self.durable_head, self.durable_pinned);
        let let_go =
            |spare: &Spare| spare.sequence == 0 || (spare.sequence < head && !pinned.contains(&spare.sequence));
        let (suspect, surplus) = (!self.free.is_empty(), self.free.len() > SPARE_MIN.max(self.index.segments.len()));
        for (spares, too_many) in [(&mut self.suspects, suspect), (&mut self.free, surplus)] {
            if let Some(place) = spares.iter().position(let_go).filter(|_| too_many) {
                return spares.remove(place).map(|spare| Op::Remove(spare.slot));
            }
        }
        None
    }

    fn poll_create(&mut self) -> Option<Op> {
        if self.creating {
            return None;
        }
        self.creating = true;
        let slot = Slot(self.next_slot);
        self.next_slot = self.next_slot.saturating_add(1);
        Some(Op::Create(slot))
    }

    fn poll_write(&mut self) -> Option<Op> {
        if self.active.is_some() || self.staged.is_empty() {
            self.stage_noted();
        }
        let padded = self.staged.front()?.bytes.len().next_multiple_of(BLOCK) as u64;
        let fits = |active: &&mut Active| active.offset + padded <= self.options.segment_size.0;
        let Some(active) = self.active.as_mut().filter(fits) else {
            return self.begin_segment();
        };
        let (slot, offset) = (active.slot, active.offset);
        let key = self.index.segments.get(slot)?.key;
        active.offset += padded;
        let mut batch = self.staged.pop_front()?;
        for staged in &batch.records {
            record::seal(&mut batch.bytes[staged.at..staged.at + staged.len], key, staged.at == 0);
        }
        let mut bytes = std::mem::take(&mut batch.bytes);
        bytes.resize(padded as usize, 0);
        self.in_flight = Some(InFlight::Batch { batch, slot, offset });
        self.compaction.begin_turn();
        Some(Op::Write { slot, offset, bytes })
    }

    /// Writes the header of the next segment. It is synced before any record of the segment is written: only so does
    /// a segment that is overwritten tell, at every moment, which older ones no longer count.
    fn begin_segment(&mut self) -> Option<Op> {
        self.active = None;
        self.free_dead();
        let Some(slot) = self.take_spare() else { return self.poll_create() };
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let key = mix(self.entropy ^ sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let segments = &mut self.index.segments;
        let head = segments.oldest().map_or(sequence, |(_, oldest)| oldest.sequence);
        let (previous, previous_end) = segments.youngest().map_or((0, 0), |last| (last.sequence, last.end));
        let size = self.options.segment_size.0;
        let header = SegmentHeader {
            version: FORMAT_VERSION,
            sequence,
            head,
            key,
            size,
            previous,
            previous_end,
            pinned: segments.pinned(),
        };
        segments.begin(slot, Segment::new(sequence, key, size));
        self.in_flight = Some(InFlight::Header { slot, head, pinned: header.pinned });
        Some(Op::Write { slot, offset: 0, bytes: header.block() })
    }

    /// One that failed before is used again only if no other can be had, or if there are too many of them.
    fn take_spare(&mut self) -> Option<Slot> {
        let spare = self.free.pop_front().or_else(|| {
            let no_other = std::mem::take(&mut self.create_failed);
            if no_other || self.suspects.len() >= SUSPECTS_MAX { self.suspects.pop_front() } else { None }
        });
        spare.map(|spare| spare.slot)
    }

    /// An [`Op::Create`] is done, or has failed. Where messages waited for it, and there is no other segment, they fail with
    /// it.
    pub fn created(&mut self, slot: Slot, result: Result<(), Failure>) -> Vec<Completion> {
        self.creating = false;
        self.create_failed = result.is_err();
        let Err(failure) = result else {
            self.free.push_front(Spare { slot, sequence: 0 });
            return Vec::new();
        };
        let other = self.active.is_some() || !self.free.is_empty() || !self.suspects.is_empty();
        if other || self.in_flight.is_some() { Vec::new() } else { self.fail_staged(failure) }
    }

    /// An [`Op::Write`] is done, or has failed.
    pub fn written(&mut self, result: Result<(), Failure>) -> Vec<Completion> {
        match (self.in_flight.take(), result) {
            (None, _) => Vec::new(),
            (Some(InFlight::Header { slot, head, pinned }), Ok(())) => {
                (self.durable_head, self.durable_pinned) = (head, pinned);
                self.active = Some(Active { slot, offset: BLOCK as u64 });
                Vec::new()
            }
            (Some(InFlight::Header { slot, .. }), Err(failure)) => {
                // Should it have reached the disk all the same, it is the header of an empty segment. If it has not, that
                // of the former segment stands, which may still be read; and a removal that a power loss undoes must
                // not bring back a sequence that was given anew. So the file stays until the head is past both.
                self.index.segments.cancel(slot);
                self.suspects.push_back(Spare { slot, sequence: self.next_sequence - 1 });
                self.fail_staged(failure)
            }
            (Some(InFlight::Batch { batch, slot, offset }), Ok(())) => self.committed(batch, slot, offset),
            (Some(InFlight::Batch { batch, slot, .. }), Err(failure)) => {
                // What reached the disk is not known: nothing more is written behind it.
                self.active = None;
                if let Some(segment) = self.index.segments.get_mut(slot) {
                    segment.suspect = true;
                }
                let completions = self.failed(batch, failure, true);
                self.free_dead();
                completions
            }
        }
    }

    fn committed(&mut self, batch: Batch, slot: Slot, offset: u64) -> Vec<Completion> {
        self.records += batch.records.len() as u64;
        let end = batch.records.last().map_or(0, |last| last.at + last.len) as u64;
        if let Some(segment) = self.index.segments.get_mut(slot) {
            segment.end = offset + end;
        }
        let mut completions = Vec::with_capacity(batch.records.len());
        for staged in batch.records {
            let place = Place { slot, offset: offset as u32 + staged.at as u32, len: staged.len as u32 };
            match staged.duty {
                Duty::None => {}
                Duty::Copy(from) => self.moved(staged.id, staged.kind, from, place),
                Duty::Append(token) => {
                    completions.push(Completion { token, result: Ok(Receipt::synced(staged.id)) });
                    if let Some(handle) = self.index.find(staged.id) {
                        self.entered(handle, place);
                    }
                }
            }
        }
        self.free_dead();
        completions
    }

    /// A message is durable. If it was settled before it was, it is dead at once.
    fn entered(&mut self, handle: u32, place: Place) {
        self.index.set_place(handle, place, None);
        let node = self.index.node_mut(handle);
        node.flags.set(Flags::STAGED, false);
        let id = node.id();
        if node.flags.has(Flags::SETTLED) {
            self.leave(handle);
            self.stage(Kind::Settled, id, &[], Duty::None);
        }
    }

    fn fail_staged(&mut self, failure: Failure) -> Vec<Completion> {
        let batches = std::mem::take(&mut self.staged);
        batches.into_iter().flat_map(|batch| self.failed(batch, failure, false)).collect()
    }

    /// Messages of a failed batch are refused, and declared dead in case they did reach the disk. Settlements and
    /// states are staged again.
    fn failed(&mut self, batch: Batch, failure: Failure, may_be_there: bool) -> Vec<Completion> {
        let mut completions = Vec::new();
        for staged in batch.records {
            let handle = self.index.find(staged.id);
            match (staged.kind, staged.duty) {
                (_, Duty::Append(token)) => {
                    completions.push(Completion { token, result: Err(failure) });
                    if let Some(handle) = handle {
                        self.leave(handle);
                    }
                    if may_be_there {
                        self.stage(Kind::Settled, staged.id, &[], Duty::None);
                    }
                }
                // The original still stands, and compaction comes by again.
                (_, Duty::Copy(_)) => self.compaction.copy_done(),
                // Where the same message has been appended once more meanwhile, it is that one that counts.
                (Kind::Settled, Duty::None) => {
                    if handle.is_none() {
                        self.stage(Kind::Settled, staged.id, &[], Duty::None);
                    }
                }
                (_, Duty::None) => handle.into_iter().for_each(|handle| self.mark_noted(handle)),
            }
        }
        completions
    }
}
