//! Segments: the header each begins with, and what the log knows of those it is made of.
//!
//! ```text
//! 0    magic "RPSPOOL", version (1 byte)
//! 8    sequence
//! 16   head: the oldest segment of the log, but for the pinned ones
//! 24   key
//! 32   size of the file
//! 40   previous: the segment that was written before this one, or 0
//! 48   where the last record in it ends that was synced
//! 56   pinned: sequences of older segments that are still to be read, 0 for none
//! 184  CRC-32C of everything before it
//! ```
//!
//! The header stands at the beginning of the block and a second time in its middle, each within one sector, so that it is
//! written whole or not at all, and a sector that can't be read loses nothing. Version 1 ended behind the size, and had
//! no second copy.

use crate::index::NONE;
use crate::{BLOCK, Slot};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

/// The version of the log's format that is written. Older ones are read; a newer one is an error.
pub const FORMAT_VERSION: u8 = 2;

/// Most segments that are kept for the sake of messages that can't be copied forward. It is what the header has room
/// for; beyond it the log grows until some of those messages are settled.
pub const PINNED_MAX: usize = 16;

const MAGIC: [u8; 7] = *b"RPSPOOL";
/// Octets of the header that are used, its checksum included.
const USED: usize = 60 + 8 * PINNED_MAX;
const USED_VERSION_1: usize = 44;
/// Where the header's second copy stands.
const COPY: usize = BLOCK / 2;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
const _: () = assert!(USED <= SECTOR && COPY.is_multiple_of(SECTOR) && COPY + USED <= BLOCK);

/// The first block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The version of the format the segment is written in.
    pub version: u8,
    /// The segment's place in the log; grows each time a segment is made or reused.
    pub sequence: u64,
    /// The oldest segment that was part of the log when this one was begun. Older ones are not to be read, but for the
    /// pinned ones.
    pub head: u64,
    /// What every record of this segment carries.
    pub key: u64,
    /// Length of the segment file.
    pub size: u64,
    /// The segment that was written before this one; 0 where there was none.
    pub previous: u64,
    /// The offset in that segment where its last synced record ends: what fails its checksum before it is damage.
    pub previous_end: u64,
    /// Sequences of segments older than the head that are still to be read for the messages that younger ones refer to
    /// in them; 0 for none.
    pub pinned: [u64; PINNED_MAX],
}

impl SegmentHeader {
    /// Whether the log whose newest header this is still needs the segment of that sequence.
    pub fn needs(&self, sequence: u64) -> bool {
        sequence >= self.head || (sequence != 0 && self.pinned.contains(&sequence))
    }

    pub(crate) fn block(&self) -> Vec<u8> {
        let mut used = Vec::with_capacity(USED);
        used.extend_from_slice(&MAGIC);
        used.push(FORMAT_VERSION);
        let numbers = [self.sequence, self.head, self.key, self.size, self.previous, self.previous_end];
        for number in numbers.into_iter().chain(self.pinned) {
            used.extend_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&used);
        used.extend_from_slice(&crc.to_le_bytes());
        debug_assert_eq!(used.len(), USED);
        let mut block = vec![0; BLOCK];
        block[..USED].copy_from_slice(&used);
        block[COPY..COPY + USED].copy_from_slice(&used);
        block
    }

    /// Reads a segment's first block; nothing if it holds no header that can be believed, as in a segment never used.
    pub fn parse(block: &[u8]) -> Option<Self> {
        let copies = [block, block.get(COPY..).unwrap_or_default()];
        // Where a crash tore the block between the two, the newer one is there and the other is of an earlier use.
        copies.into_iter().filter_map(Self::parse_copy).max_by_key(|header| header.sequence)
    }

    fn parse_copy(bytes: &[u8]) -> Option<Self> {
        let version = *bytes.strip_prefix(&MAGIC)?.first()?;
        let len = match version {
            1 => USED_VERSION_1,
            FORMAT_VERSION => USED,
            _ => return None,
        };
        let (used, crc) = bytes.get(..len)?.split_last_chunk::<4>()?;
        if u32::from_le_bytes(*crc) != crc32c::crc32c(used) {
            return None;
        }
        let numbers: Vec<u64> = used[8..].as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let number = |place: usize| numbers.get(place).copied().unwrap_or(0);
        Some(Self {
            version,
            sequence: number(0),
            head: number(1),
            key: number(2),
            size: number(3),
            previous: number(4),
            previous_end: number(5),
            pinned: std::array::from_fn(|place| number(6 + place)),
        })
    }

    /// The version that the block says it has, where that is one this program does not know.
    pub(crate) fn unknown_version(block: &[u8]) -> Option<u8> {
        let versions = [block, block.get(COPY..).unwrap_or_default()].map(|copy| copy.strip_prefix(&MAGIC)?.first());
        versions.into_iter().flatten().copied().find(|version| !(1..=FORMAT_VERSION).contains(version))
    }
}

/// A segment of a format that this program does not know: written by a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownVersion {
    /// The segment file.
    pub slot: Slot,
    /// The version it says it has.
    pub version: u8,
}

impl fmt::Display for UnknownVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { slot: Slot(slot), version } = self;
        write!(
            f,
            "segment {slot} of the spool is of format version {version}, and this program knows versions 1 to \
             {FORMAT_VERSION}: start the program that wrote it, or a newer one, and let it deliver what is queued before \
             an older one takes over; nothing has been changed"
        )
    }
}

impl std::error::Error for UnknownVersion {}

/// What the log knows of a segment that holds something.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) sequence: u64,
    pub(crate) key: u64,
    /// Length of the file.
    pub(crate) size: u64,
    /// Messages whose newest record is here.
    pub(crate) live: u32,
    pub(crate) live_bytes: u64,
    /// The first and the last of them.
    pub(crate) first: u32,
    pub(crate) last: u32,
    /// Messages whose bytes are here although their newest record, which says so, is elsewhere.
    pub(crate) references: u32,
    /// Where the last record ends that was synced.
    pub(crate) end: u64,
    /// A write to it failed: it is not the first choice for reuse.
    pub(crate) suspect: bool,
    /// Something alive in it can be neither copied nor referred to: compaction leaves it alone.
    pub(crate) stuck: bool,
}

impl Segment {
    pub(crate) fn new(sequence: u64, key: u64, size: u64) -> Self {
        Self {
            sequence,
            key,
            size,
            live: 0,
            live_bytes: 0,
            first: NONE,
            last: NONE,
            references: 0,
            end: BLOCK as u64,
            suspect: false,
            stuck: false,
        }
    }
}

/// The segments that hold something, and their sums.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    by_slot: BTreeMap<Slot, Segment>,
    /// In the order they were filled, the oldest first.
    order: VecDeque<Slot>,
    /// Out of the order, or about to be: kept for messages that others refer to.
    pinned: BTreeSet<Slot>,
    /// Sizes of the files in the order.
    size: u64,
    pub(crate) live_bytes: u64,
}

impl Segments {
    pub(crate) fn get(&self, slot: Slot) -> Option<&Segment> {
        self.by_slot.get(&slot)
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Segment> {
        self.by_slot.get_mut(&slot)
    }

    /// Appends a segment to the order.
    pub(crate) fn begin(&mut self, slot: Slot, segment: Segment) {
        self.size += segment.size;
        self.by_slot.insert(slot, segment);
        self.order.push_back(slot);
    }

    /// Enters a segment that is out of the order from the start.
    pub(crate) fn begin_pinned(&mut self, slot: Slot, segment: Segment) {
        self.by_slot.insert(slot, segment);
        self.pinned.insert(slot);
    }

    /// The youngest segment, which its header did not reach, is none.
    pub(crate) fn cancel(&mut self, slot: Slot) {
        if self.order.back() == Some(&slot) {
            self.order.pop_back();
            self.size -= self.by_slot.remove(&slot).map_or(0, |segment| segment.size);
        }
    }

    pub(crate) fn oldest(&self) -> Option<(Slot, &Segment)> {
        let slot = *self.order.front()?;
        Some((slot, self.by_slot.get(&slot)?))
    }

    pub(crate) fn youngest(&self) -> Option<&Segment> {
        self.by_slot.get(self.order.back()?)
    }

    /// Takes the oldest segment out of the order. It is given back unless others refer into it.
    pub(crate) fn pop_oldest(&mut self) -> Option<(Slot, Segment)> {
        let slot = self.order.pop_front()?;
        let segment = self.by_slot.get(&slot)?;
        self.size -= segment.size;
        if segment.references > 0 {
            self.pinned.insert(slot);
            return None;
        }
        self.pinned.remove(&slot);
        Some((slot, self.by_slot.remove(&slot)?))
    }

    /// Gives back a segment that is out of the order, once nothing refers into it.
    pub(crate) fn unpin(&mut self, slot: Slot) -> Option<Segment> {
        let segment = self.by_slot.get(&slot)?;
        let in_order = self.oldest().is_some_and(|(_, oldest)| oldest.sequence <= segment.sequence);
        if in_order || segment.references > 0 || segment.live > 0 || !self.pinned.remove(&slot) {
            return None;
        }
        if let Some(oldest) = self.order.front().and_then(|slot| self.by_slot.get_mut(slot)) {
            oldest.stuck = false;
        }
        self.by_slot.remove(&slot)
    }

    /// Asks for a segment to be kept for the sake of what others will refer to in it; false where there are too many.
    pub(crate) fn pin(&mut self, slot: Slot) -> bool {
        if self.pinned.len() >= PINNED_MAX && !self.pinned.contains(&slot) {
            return false;
        }
        self.pinned.insert(slot);
        true
    }

    /// Sequences of the segments that are out of the order, as a header says them.
    pub(crate) fn pinned(&self) -> [u64; PINNED_MAX] {
        let oldest = self.oldest().map_or(u64::MAX, |(_, segment)| segment.sequence);
        let sequences = self.pinned.iter().filter_map(|slot| self.by_slot.get(slot)).map(|segment| segment.sequence);
        let mut out = sequences.filter(|sequence| *sequence < oldest);
        std::array::from_fn(|_| out.next().unwrap_or(0))
    }

    /// Segments in the order.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Segments of any kind.
    pub(crate) fn count(&self) -> usize {
        self.by_slot.len()
    }

    /// Bytes of the files in the order.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}
