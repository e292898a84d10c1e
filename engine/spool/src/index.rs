//! The index: which messages are alive, and where. What a message costs here is a node of 64 bytes, its place in a hash
//! table of four-byte handles, and its state, if it has one.
//!
//! Nodes stand in chunks that are never moved, and the ids of each four seconds have a table of their own: there is no
//! moment in which a million entries are copied, and messages that come and go together share the processor's cache, however
//! many others there are. The nodes of a segment are linked with one another, so that compaction finds them and a settlement
//! unlinks one, both without a search.

use crate::segment::Segments;
use crate::{Location, Slot};
use hashbrown::HashTable;
use ringpost_base::SpoolId;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// The handle of no node.
pub(crate) const NONE: u32 = u32::MAX;

/// Nodes in a chunk.
const CHUNK: usize = 1024;
/// Milliseconds, as a power of two, whose ids share a table: few enough that a table fits a processor's cache at any rate
/// of mail, and so many that a backlog of days makes no more tables than memory bears.
const TABLE_MILLIS_LOG2: u32 = 12;

/// A set of flags of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(u8);

impl Flags {
    /// The message's bytes are in a body file.
    pub(crate) const BODY_FILE: Self = Self(1);
    /// The state is a list of done recipients, as format 1 had it.
    pub(crate) const LEGACY: Self = Self(2);
    /// The record is staged or being written: the message is not durable yet.
    pub(crate) const STAGED: Self = Self(4);
    /// It was settled before it was durable.
    pub(crate) const SETTLED: Self = Self(8);
    /// Its state is to be written.
    pub(crate) const NOTED: Self = Self(16);
    /// Its newest record only refers to its message.
    pub(crate) const ELSEWHERE: Self = Self(32);

    pub(crate) fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    pub(crate) fn set(&mut self, flag: Self, on: bool) {
        self.0 = if on { self.0 | flag.0 } else { self.0 & !flag.0 };
    }

    pub(crate) fn with(mut self, flag: Self, on: bool) -> Self {
        self.set(flag, on);
        self
    }
}

/// Where a record lies, as the index keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) slot: Slot,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// What is known of one message.
#[derive(Debug)]
pub(crate) struct Node {
    id: SpoolId,
    /// Length of the message in bytes.
    pub(crate) size: u64,
    pub(crate) state: Option<Box<[u8]>>,
    /// Its newest record; the slot means nothing while it is staged.
    place: Place,
    previous: u32,
    next: u32,
    pub(crate) flags: Flags,
}

const _: () = assert!(size_of::<Node>() <= 64);

impl Node {
    pub(crate) fn new(id: SpoolId, size: u64, state: Option<Box<[u8]>>, flags: Flags) -> Self {
        Self { id, size, state, place: NOWHERE, previous: NONE, next: NONE, flags }
    }

    pub(crate) fn id(&self) -> SpoolId {
        self.id
    }

    /// Where its newest record lies, which may only refer to the message.
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// The node behind it in its segment.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// Replaces the state; an empty one is none.
    pub(crate) fn set_state(&mut self, state: &[u8], legacy: bool) {
        self.state = (!state.is_empty()).then(|| state.into());
        self.flags.set(Flags::LEGACY, legacy && !state.is_empty());
    }
}

const NOWHERE: Place = Place { slot: Slot(NONE), offset: 0, len: 0 };

/// Who is alive, and where.
#[derive(Debug)]
pub(crate) struct Index {
    seed: u64,
    /// By the time the id was made.
    tables: BTreeMap<u64, HashTable<u32>>,
    chunks: Vec<Vec<Node>>,
    /// The first of the nodes that are free, linked by `next`.
    free: u32,
    len: usize,
    /// Nodes that are linked into a segment: durable messages.
    linked: usize,
    /// Where the bytes of messages are whose newest record only refers to them.
    elsewhere: BTreeMap<u32, Place>,
    pub(crate) segments: Segments,
}

impl Index {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            tables: BTreeMap::new(),
            chunks: Vec::new(),
            free: NONE,
            len: 0,
            linked: 0,
            elsewhere: BTreeMap::new(),
            segments: Segments::default(),
        }
    }

    /// Messages that are durable.
    pub(crate) fn live(&self) -> usize {
        self.linked
    }

    pub(crate) fn find(&self, id: SpoolId) -> Option<u32> {
        let hash = hash(self.seed, id);
        self.tables.get(&time(id))?.find(hash, |handle| self.node(*handle).id == id).copied()
    }

    pub(crate) fn node(&self, handle: u32) -> &Node {
        &self.chunks[handle as usize / CHUNK][handle as usize % CHUNK]
    }

    pub(crate) fn node_mut(&mut self, handle: u32) -> &mut Node {
        &mut self.chunks[handle as usize / CHUNK][handle as usize % CHUNK]
    }

    /// Enters a message that is not there yet, in no segment.
    pub(crate) fn insert(&mut self, node: Node) -> u32 {
        let id = node.id;
        let handle = self.allocate(node);
        let (chunks, seed) = (&self.chunks, self.seed);
        let hash_of = |handle: &u32| hash(seed, chunks[*handle as usize / CHUNK][*handle as usize % CHUNK].id);
        let hash = hash(seed, id);
        self.tables.entry(time(id)).or_default().insert_unique(hash, handle, hash_of);
        self.len += 1;
        handle
    }

    fn allocate(&mut self, node: Node) -> u32 {
        if self.free != NONE {
            let handle = self.free;
            self.free = self.node(handle).next;
            *self.node_mut(handle) = node;
            return handle;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let chunk = &mut self.chunks[before / CHUNK];
        chunk.push(node);
        (before + chunk.len() - 1) as u32
    }

    /// Forgets a message. Gives back the slot of the segment that its bytes were in, if that was another than its newest
    /// record's.
    pub(crate) fn remove(&mut self, handle: u32) -> Option<Slot> {
        self.unlink(handle);
        let referred = self.release(handle);
        self.remove_id(handle);
        let free = self.free;
        let node = self.node_mut(handle);
        (node.state, node.flags, node.next) = (None, Flags::default(), free);
        self.free = handle;
        self.len -= 1;
        if self.len == 0 {
            self.give_back();
        }
        referred
    }

    fn remove_id(&mut self, handle: u32) {
        let id = self.node(handle).id;
        let Entry::Occupied(mut table) = self.tables.entry(time(id)) else { return };
        if let Ok(entry) = table.get_mut().find_entry(hash(self.seed, id), |other| *other == handle) {
            entry.remove();
        }
        if table.get().is_empty() {
            table.remove();
        }
    }

    /// After a backlog is worked off its memory goes back.
    fn give_back(&mut self) {
        self.chunks.truncate(1);
        self.chunks.iter_mut().for_each(Vec::clear);
        self.free = NONE;
    }

    /// Says where the newest record of a message is, and counts it there. With `bytes` the record only refers to
    /// the message, which is at that place. Gives back the slot of a segment that nothing refers into for this message
    /// any more.
    pub(crate) fn set_place(&mut self, handle: u32, place: Place, bytes: Option<Place>) -> Option<Slot> {
        self.unlink(handle);
        let released = match bytes {
            Some(bytes) => {
                self.refer(handle, bytes);
                None
            }
            None => self.release(handle),
        };
        self.link(handle, place);
        released
    }

    fn link(&mut self, handle: u32, place: Place) {
        let Some(segment) = self.segments.get_mut(place.slot) else { return };
        segment.live += 1;
        segment.live_bytes += u64::from(place.len);
        let last = std::mem::replace(&mut segment.last, handle);
        if last == NONE {
            segment.first = handle;
        }
        self.segments.live_bytes += u64::from(place.len);
        self.linked += 1;
        if last != NONE {
            self.node_mut(last).next = handle;
        }
        let node = self.node_mut(handle);
        (node.place, node.previous, node.next) = (place, last, NONE);
    }

    fn unlink(&mut self, handle: u32) {
        let node = self.node_mut(handle);
        let (place, previous, next) = (node.place, node.previous, node.next);
        (node.place, node.previous, node.next) = (NOWHERE, NONE, NONE);
        let Some(segment) = self.segments.get_mut(place.slot) else { return };
        segment.live -= 1;
        segment.live_bytes -= u64::from(place.len);
        if previous == NONE {
            segment.first = next;
        }
        if next == NONE {
            segment.last = previous;
        }
        self.segments.live_bytes -= u64::from(place.len);
        self.linked -= 1;
        if previous != NONE {
            self.node_mut(previous).next = next;
        }
        if next != NONE {
            self.node_mut(next).previous = previous;
        }
    }

    fn refer(&mut self, handle: u32, bytes: Place) {
        if self.elsewhere.insert(handle, bytes).is_none() {
            self.node_mut(handle).flags.set(Flags::ELSEWHERE, true);
            if let Some(segment) = self.segments.get_mut(bytes.slot) {
                segment.references += 1;
            }
        }
    }

    fn release(&mut self, handle: u32) -> Option<Slot> {
        if !self.node(handle).flags.has(Flags::ELSEWHERE) {
            return None;
        }
        self.node_mut(handle).flags.set(Flags::ELSEWHERE, false);
        let bytes = self.elsewhere.remove(&handle)?;
        self.segments.get_mut(bytes.slot)?.references -= 1;
        Some(bytes.slot)
    }

    /// Where the message's bytes are, whatever its newest record is.
    pub(crate) fn bytes_of(&self, handle: u32) -> Place {
        let node = self.node(handle);
        if node.flags.has(Flags::ELSEWHERE) {
            self.elsewhere.get(&handle).copied().unwrap_or(node.place)
        } else {
            node.place
        }
    }

    /// The same, for those who read it; nothing while the message is not durable.
    pub(crate) fn locate(&self, handle: u32) -> Option<Location> {
        let Place { slot, offset, len } = self.bytes_of(handle);
        let segment = self.segments.get(slot)?;
        Some(Location { slot, sequence: segment.sequence, key: segment.key, offset: u64::from(offset), len })
    }

    /// The handle of the first durable message from this handle on.
    pub(crate) fn durable_from(&self, handle: u32) -> Option<u32> {
        let mut handle = handle as usize;
        while let Some(node) = self.chunks.get(handle / CHUNK).and_then(|chunk| chunk.get(handle % CHUNK)) {
            if node.place.slot != NOWHERE.slot {
                return Some(handle as u32);
            }
            handle += 1;
        }
        None
    }

    /// Handles of all messages that are durable, in no order that means anything.
    pub(crate) fn handles(&self) -> impl Iterator<Item = u32> {
        let handles = (0u32..).zip(self.chunks.iter().flatten());
        handles.filter(|(_, node)| node.place.slot != NOWHERE.slot).map(|(handle, _)| handle)
    }
}

/// Which table has the id.
fn time(id: SpoolId) -> u64 {
    (id.made().unix_micros() / 1000) >> TABLE_MILLIS_LOG2
}

/// Ids are made here or by an earlier run, never by strangers, so that mixing them is enough; the seed keeps the order of
/// a file from being the order of a table.
fn hash(seed: u64, id: SpoolId) -> u64 {
    let bytes = id.to_bytes();
    let [high, low] = [0, 8].map(|at| bytes[at..at + 8].iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)));
    mix(mix(high ^ seed) ^ low)
}

/// Spreads a number over 64 bits (the finaliser of SplitMix64, Steele, Lea and Flood 2014), so that a key can't be
/// told from an earlier one without knowing the entropy.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::Segment;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const SEGMENTS: u32 = 4;

    #[derive(Clone, Copy, Debug)]
    enum Call {
        Insert,
        Remove,
        Settle(u32),
        Refer(u32, u32),
    }

    fn calls() -> impl Strategy<Value = Vec<(u16, Call)>> {
        let call = prop_oneof![
            3 => Just(Call::Insert),
            2 => Just(Call::Remove),
            4 => (0..SEGMENTS).prop_map(Call::Settle),
            2 => (0..SEGMENTS, 0..SEGMENTS).prop_map(|(at, bytes)| Call::Refer(at, bytes)),
        ];
        // Some ids share a table, some don't; there are more than one chunk of them.
        prop::collection::vec((0..2500u16, call), 0..6000)
    }

    fn id(number: u16) -> SpoolId {
        SpoolId::from_bytes((u128::from(number) << 88 | u128::from(number)).to_be_bytes())
    }

    fn place(slot: u32, number: u16) -> Place {
        Place { slot: Slot(slot), offset: number.into(), len: 10 }
    }

    /// What is known of a message: where its record is, and where its bytes are if they are elsewhere.
    type Model = BTreeMap<u16, (Option<u32>, Option<u32>)>;

    fn apply(index: &mut Index, model: &mut Model, number: u16, call: Call) {
        let handle = index.find(id(number));
        assert_eq!(handle.is_some(), model.contains_key(&number));
        match (handle, call) {
            (None, _) => {
                index.insert(Node::new(id(number), 1, None, Flags::default()));
                model.insert(number, (None, None));
            }
            (Some(handle), Call::Remove) => {
                let released = index.remove(handle);
                let (_, bytes) = model.remove(&number).expect("known");
                assert_eq!(released, bytes.map(Slot));
            }
            (Some(handle), Call::Settle(slot)) => {
                let released = index.set_place(handle, place(slot, number), None);
                let (_, bytes) = model.insert(number, (Some(slot), None)).expect("known");
                assert_eq!(released, bytes.map(Slot));
            }
            (Some(handle), Call::Refer(slot, bytes)) => {
                // What is elsewhere stays there until it is moved.
                let bytes = model[&number].1.unwrap_or(bytes);
                assert_eq!(index.set_place(handle, place(slot, number), Some(place(bytes, number))), None);
                model.insert(number, (Some(slot), Some(bytes)));
            }
            (Some(_), Call::Insert) => {}
        }
    }

    fn compare(index: &Index, model: &Model) {
        for slot in 0..SEGMENTS {
            let segment = index.segments.get(Slot(slot)).expect("there");
            let here: BTreeSet<u16> =
                model.iter().filter(|(_, (at, _))| *at == Some(slot)).map(|(number, _)| *number).collect();
            let (mut linked, mut next) = (BTreeSet::new(), segment.first);
            while next != NONE {
                let node = index.node(next);
                assert_eq!(node.place.slot, Slot(slot));
                assert!(linked.insert(node.place.offset as u16));
                next = node.next();
            }
            assert_eq!(linked, here);
            assert_eq!((segment.live as usize, segment.live_bytes), (here.len(), 10 * here.len() as u64));
            let references = model.values().filter(|(_, bytes)| *bytes == Some(slot)).count();
            assert_eq!(segment.references as usize, references);
        }
        let live = model.values().filter(|(at, _)| at.is_some()).count();
        assert_eq!((index.live(), index.handles().count(), index.len), (live, live, model.len()));
        assert_eq!(index.segments.live_bytes, 10 * live as u64);
        for (number, (at, bytes)) in model {
            let location = index.locate(index.find(id(*number)).expect("known"));
            assert_eq!(location.map(|location| location.slot.0), bytes.or(*at), "message {number}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn the_index_is_what_a_map_would_be(calls in calls()) {
            let (mut index, mut model) = (Index::new(7), Model::new());
            for slot in 0..SEGMENTS {
                index.segments.begin(Slot(slot), Segment::new(u64::from(slot) + 1, 1, 1000));
            }
            for (number, call) in calls {
                apply(&mut index, &mut model, number, call);
            }
            compare(&index, &model);
            let all: Vec<u16> = model.keys().copied().collect();
            for number in all {
                apply(&mut index, &mut model, number, Call::Remove);
            }
            compare(&index, &model);
            prop_assert!(index.tables.is_empty() && index.chunks.len() <= 1);
        }
    }
}
