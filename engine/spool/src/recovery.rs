//! Recovery: from the bytes of the segments to the messages that are acknowledged and not settled.
//!
//! The caller gives every segment's first block, asks for the order, and then gives every segment's bytes in it. At the end
//! of the log a torn record is expected: nothing behind it was acknowledged. A bad record with good ones behind it is
//! damage; it is counted and reported, and reading goes on at the next good one, so a bad record loses no more than itself.

use crate::log::{Location, Slot, Spool};
use crate::record::{self, BodyFile, Content, Kind};
use crate::{BLOCK, Options};
use memchr::memmem;
use ringpost_base::{Entropy, SpoolId};
use std::collections::{BTreeMap, HashMap};

const SEGMENT_MAGIC: [u8; 8] = *b"RPSPOOL\x01";
/// Octets of the header that are used: within one sector, so that it is written whole or not at all.
const HEADER_USED: usize = 44;
const _: () = assert!(HEADER_USED <= 512);

/// The first block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The segment's place in the log; grows each time a segment is made or reused.
    pub sequence: u64,
    /// The oldest segment that was part of the log when this one was begun. Older ones are not to be read.
    pub head: u64,
    /// What every record of this segment carries.
    pub key: u64,
    /// Length of the segment file.
    pub size: u64,
}

impl SegmentHeader {
    pub(crate) fn block(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK);
        block.extend_from_slice(&SEGMENT_MAGIC);
        for number in [self.sequence, self.head, self.key, self.size] {
            block.extend_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&block);
        block.extend_from_slice(&crc.to_le_bytes());
        debug_assert_eq!(block.len(), HEADER_USED);
        block.resize(BLOCK, 0);
        block
    }

    /// Reads a segment's first block; nothing if it holds no header, as in a segment never used.
    pub fn parse(block: &[u8]) -> Option<Self> {
        let used = block.get(..HEADER_USED)?;
        let crc = u32::from_le_bytes(used[HEADER_USED - 4..].try_into().ok()?);
        if used[..8] != SEGMENT_MAGIC || crc != crc32c::crc32c(&used[..HEADER_USED - 4]) {
            return None;
        }
        let number = |at: usize| used[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        Some(Self { sequence: number(8)?, head: number(16)?, key: number(24)?, size: number(32)? })
    }
}

/// The next whole and true record at `from` or behind it, and where it begins.
fn next_record(bytes: &[u8], from: usize, key: u64) -> Option<(usize, record::Raw<'_>)> {
    let rest = bytes.get(from..)?;
    memmem::find_iter(rest, &record::MAGIC).find_map(|at| record::parse(&rest[at..], key).map(|raw| (from + at, raw)))
}

/// A message found alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The message's id.
    pub id: SpoolId,
    /// The stored envelope.
    pub envelope: Box<[u8]>,
    /// Length of the message in bytes.
    pub size: u64,
    /// Its body file, if it has one.
    pub body_file: Option<BodyFile>,
    /// Numbers of the recipients that are done.
    pub done: Vec<u32>,
}

/// A place in the log, before its end, that failed its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment file.
    pub slot: Slot,
    /// The offset in it, in bytes.
    pub offset: u64,
}

struct Found {
    recovered: Recovered,
    location: Location,
}

/// Reads a log back.
#[derive(Default)]
pub struct Recovery {
    segments: BTreeMap<u64, (Slot, SegmentHeader)>,
    unused: Vec<Slot>,
    found: HashMap<SpoolId, Found>,
    damage: Vec<Damage>,
    next_sequence: u64,
}

impl Recovery {
    /// A recovery that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the first block of a segment file.
    pub fn header(&mut self, slot: Slot, block: &[u8]) {
        match SegmentHeader::parse(block) {
            Some(header) => {
                self.next_sequence = self.next_sequence.max(header.sequence + 1);
                if let Some((older, _)) = self.segments.insert(header.sequence, (slot, header)) {
                    self.unused.push(older);
                }
            }
            None => self.unused.push(slot),
        }
    }

    /// The segments to read, in order. Those the log had already let go are left out.
    pub fn order(&mut self) -> Vec<(Slot, SegmentHeader)> {
        let head = self.segments.values().map(|(_, header)| header.head).max().unwrap_or(0);
        let kept = self.segments.split_off(&head);
        self.unused.extend(std::mem::replace(&mut self.segments, kept).into_values().map(|(slot, _)| slot));
        self.segments.values().copied().collect()
    }

    /// The segment files that hold nothing of the log. Those taken here are forgotten: the caller removes them.
    pub fn take_unused(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.unused)
    }

    /// Takes the bytes of a segment, whole, in the order given.
    pub fn segment(&mut self, slot: Slot, header: &SegmentHeader, bytes: &[u8]) {
        let mut at = BLOCK;
        // Records stand behind one another, batches at the next block: whatever is between is zeros, or damage.
        while let Some((start, raw)) = next_record(bytes, at, header.key) {
            if bytes[at..start].iter().any(|byte| *byte != 0) {
                self.damage.push(Damage { slot, offset: at as u64 });
            }
            self.take(slot, header, start, &raw);
            at = start + raw.len();
        }
    }

    fn take(&mut self, slot: Slot, header: &SegmentHeader, at: usize, raw: &record::Raw<'_>) {
        match raw.kind {
            Kind::Settled => {
                self.found.remove(&raw.id);
            }
            Kind::Progress => {
                if let Some(found) = self.found.get_mut(&raw.id) {
                    found.recovered.done = record::progress_of(raw.payload);
                }
            }
            Kind::Message | Kind::MessageFile => {
                let Some(message) = record::message_of(raw) else { return };
                let (size, body_file) = match message.content {
                    Content::Inline(bytes) => (bytes.len() as u64, None),
                    Content::File(file) => (file.len, Some(file)),
                };
                let location = Location {
                    slot,
                    sequence: header.sequence,
                    key: header.key,
                    offset: at as u64,
                    len: raw.len() as u32,
                };
                let done = self.found.remove(&raw.id).map(|older| older.recovered.done).unwrap_or_default();
                let recovered = Recovered { id: raw.id, envelope: message.envelope.into(), size, body_file, done };
                self.found.insert(raw.id, Found { recovered, location });
            }
        }
    }

    /// The places that were damaged.
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// Where a message found so far lies.
    pub fn locate(&self, id: SpoolId) -> Option<Location> {
        self.found.get(&id).map(|found| found.location)
    }

    /// The log as it stands, and the messages alive in it, oldest first.
    pub fn finish(self, options: Options, entropy: Entropy) -> (Spool, Vec<Recovered>) {
        let mut spool = Spool::new(options, entropy);
        spool.resume(self.next_sequence, &self.segments, self.unused);
        let mut live = Vec::with_capacity(self.found.len());
        for (id, Found { recovered, location }) in self.found {
            spool.resume_message(id, location, recovered.done.clone());
            live.push(recovered);
        }
        spool.free_dead();
        live.sort_unstable_by_key(|recovered| recovered.id);
        (spool, live)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader = SegmentHeader { sequence: 1, head: 1, key: 77, size: 0 };

    /// A segment of messages of so many bytes, packed as one batch, and where each begins.
    fn segment(sizes: &[usize]) -> (Vec<u8>, Vec<usize>) {
        let (mut bytes, mut starts) = (HEADER.block(), Vec::new());
        for (number, size) in sizes.iter().enumerate() {
            let start = bytes.len();
            let id = SpoolId::from_bytes([number as u8 + 1; 16]);
            record::append(Kind::Message, id, &[&0u32.to_le_bytes(), &vec![b'x'; *size]], &mut bytes);
            record::seal(&mut bytes[start..], HEADER.key);
            starts.push(start);
        }
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        (bytes, starts)
    }

    #[test]
    fn a_damaged_record_loses_no_more_than_itself() {
        let (mut bytes, starts) = segment(&[100, 5000, 30, 40]);
        bytes[starts[1] + 50] ^= 1;
        let mut recovery = Recovery::new();
        recovery.segment(Slot(3), &HEADER, &bytes);
        assert_eq!(recovery.damage(), [Damage { slot: Slot(3), offset: starts[1] as u64 }]);
        assert_eq!(recovery.found.len(), 3);
    }

    #[test]
    fn a_torn_end_is_no_damage() {
        let (mut bytes, starts) = segment(&[100, 200]);
        bytes[starts[1] + 100..].fill(0xee);
        let mut recovery = Recovery::new();
        recovery.segment(Slot(0), &HEADER, &bytes);
        assert_eq!((recovery.damage().len(), recovery.found.len()), (0, 1));
    }
}
