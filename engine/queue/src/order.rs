//! All messages in the order of their ids, at five to ten bytes each.
//!
//! A row of chunks, each with the lowest id that may be in it and the places of its messages; their ids are where the messages
//! are, so a lookup asks for them. Ids mostly come in ascending order and go from the front, which fills the chunks, and
//! needs no search. A chunk that is full is split, and two neighbours that are nearly empty become one: what remains of many
//! messages long after the others are gone takes no more room than new ones.

use ringpost_base::SpoolId;
use std::collections::VecDeque;

/// Places in a chunk, at most.
const CHUNK_MAX: usize = 128;

/// A chunk below this is joined with the next, if there is room for both in [`JOINED_MAX`].
const CHUNK_LOW: usize = CHUNK_MAX / 4;

/// Not the maximum, or the next addition would split them again.
const JOINED_MAX: usize = CHUNK_MAX * 3 / 4;

#[derive(Debug, Default)]
pub(crate) struct Order {
    chunks: VecDeque<Chunk>,
    len: usize,
}

#[derive(Debug)]
struct Chunk {
    /// No id in it is below this, and none before it is above.
    from: SpoolId,
    places: Vec<u32>,
}

impl Chunk {
    /// With all the room it may need: it is filled in most cases, and growing by doubling would take more.
    fn new(from: SpoolId, places: impl IntoIterator<Item = u32>) -> Self {
        let mut chunk = Self { from, places: Vec::with_capacity(CHUNK_MAX) };
        chunk.places.extend(places);
        chunk
    }
}

impl Order {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The number of the chunk where an id is, if it is anywhere.
    fn chunk_of(&self, id: SpoolId) -> Option<usize> {
        match self.chunks.back() {
            Some(last) if last.from <= id => return Some(self.chunks.len() - 1),
            None => return None,
            _ => {}
        }
        if self.chunks.get(1).is_none_or(|second| id < second.from) {
            return self.chunks.front().is_some_and(|first| first.from <= id).then_some(0);
        }
        self.chunks.partition_point(|chunk| chunk.from <= id).checked_sub(1)
    }

    /// Adds a message that is not there yet. `id_of` says the id at a place.
    pub(crate) fn insert(&mut self, id: SpoolId, place: u32, id_of: impl Fn(u32) -> SpoolId) {
        self.len += 1;
        let Some(at) = self.chunk_of(id) else { return self.insert_first(id, place) };
        let places = &mut self.chunks[at].places;
        let is_last = places.last().is_some_and(|last| id_of(*last) < id);
        if places.len() < CHUNK_MAX {
            let inside = if is_last { places.len() } else { places.partition_point(|place| id_of(*place) < id) };
            return places.insert(inside, place);
        }
        if is_last {
            return self.chunks.insert(at + 1, Chunk::new(id, [place]));
        }
        let upper: Vec<u32> = places.drain(CHUNK_MAX / 2..).collect();
        let boundary = upper.first().map_or(id, |place| id_of(*place));
        self.chunks.insert(at + 1, Chunk::new(boundary, upper));
        let places = &mut self.chunks[if id < boundary { at } else { at + 1 }].places;
        let inside = places.partition_point(|place| id_of(*place) < id);
        places.insert(inside, place);
    }

    /// Before all others.
    fn insert_first(&mut self, id: SpoolId, place: u32) {
        match self.chunks.front_mut() {
            Some(first) if first.places.len() < CHUNK_MAX => {
                first.from = id;
                first.places.insert(0, place);
            }
            _ => self.chunks.push_front(Chunk::new(id, [place])),
        }
    }

    /// Where a message is: its chunk, its place in it, its place.
    fn search(&self, id: SpoolId, id_of: impl Fn(u32) -> SpoolId) -> Option<(usize, usize, u32)> {
        let at = self.chunk_of(id)?;
        let places = &self.chunks[at].places;
        // New ones come behind the last, and most others go from the front.
        if id_of(*places.last()?) < id {
            return None;
        }
        let inside = match id_of(*places.first()?) == id {
            true => 0,
            false => places.binary_search_by_key(&id, |place| id_of(*place)).ok()?,
        };
        Some((at, inside, places[inside]))
    }

    /// The place of a message.
    pub(crate) fn find(&self, id: SpoolId, id_of: impl Fn(u32) -> SpoolId) -> Option<u32> {
        self.search(id, id_of).map(|(_, _, place)| place)
    }

    /// Takes a message out.
    pub(crate) fn remove(&mut self, id: SpoolId, id_of: impl Fn(u32) -> SpoolId) {
        let Some((at, inside, _)) = self.search(id, id_of) else { return };
        self.len -= 1;
        let places = &mut self.chunks[at].places;
        places.remove(inside);
        let left = places.len();
        if left == 0 {
            self.chunks.remove(at);
        } else if left < CHUNK_LOW && !self.join(at) && at > 0 {
            self.join(at - 1);
        }
    }

    /// Makes one of a chunk and the next, if that is not too much for one.
    fn join(&mut self, at: usize) -> bool {
        let len = |at: usize| self.chunks.get(at).map(|chunk| chunk.places.len());
        let both = len(at).zip(len(at + 1));
        if both.is_none_or(|(one, next)| one + next > JOINED_MAX) {
            return false;
        }
        let next = self.chunks.remove(at + 1).map(|next| next.places).unwrap_or_default();
        self.chunks[at].places.extend(next);
        true
    }

    /// The place of the message with the lowest id.
    pub(crate) fn first(&self) -> Option<u32> {
        self.chunks.front().and_then(|chunk| chunk.places.first().copied())
    }

    /// The places of all messages behind this id, in order.
    pub(crate) fn after(&self, id: Option<SpoolId>, id_of: impl Fn(u32) -> SpoolId) -> impl Iterator<Item = u32> {
        let start = id.and_then(|id| Some((id, self.chunk_of(id)?)));
        let (from, skip) =
            start.map_or((0, 0), |(id, at)| (at, self.chunks[at].places.partition_point(|place| id_of(*place) <= id)));
        self.chunks.range(from..).flat_map(|chunk| chunk.places.iter().copied()).skip(skip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::ops::Bound;

    /// The place of an id is the id itself here.
    fn id_of(place: u32) -> SpoolId {
        SpoolId::from_bytes(u128::from(place).to_be_bytes())
    }

    fn check(order: &Order, model: &BTreeMap<SpoolId, u32>) {
        assert_eq!(order.len(), model.len());
        assert!(order.after(None, id_of).eq(model.values().copied()));
        assert_eq!(order.first(), model.values().next().copied());
        for Chunk { from, places } in &order.chunks {
            assert!(!places.is_empty() && places.len() <= CHUNK_MAX && places.capacity() <= CHUNK_MAX);
            assert!(id_of(places[0]) >= *from);
        }
    }

    #[test]
    fn ascending_ids_fill_the_chunks() {
        let mut order = Order::default();
        (0..100_000).for_each(|place| order.insert(id_of(place), place, id_of));
        assert_eq!(order.chunks.len(), 100_000_usize.div_ceil(CHUNK_MAX));
    }

    #[test]
    fn what_remains_of_many_takes_little_room() {
        let mut order = Order::default();
        (0..100_000).for_each(|place| order.insert(id_of(place), place, id_of));
        (0..100_000).filter(|place| place % 100 != 0).for_each(|place| order.remove(id_of(place), id_of));
        assert_eq!(order.len(), 1000);
        assert!(order.chunks.len() <= 1000 * 2 / JOINED_MAX + 2, "{} chunks", order.chunks.len());
    }

    proptest! {
        #[test]
        fn as_a_map(
            steps in prop::collection::vec((0_u32..3000, prop::bool::weighted(0.7)), 0..3000),
            cursors in prop::collection::vec(0_u32..3100, 8),
        ) {
            let (mut order, mut model) = (Order::default(), BTreeMap::new());
            for (place, add) in steps {
                let id = id_of(place);
                if !add {
                    order.remove(id, id_of);
                    model.remove(&id);
                } else if model.insert(id, place).is_none() {
                    order.insert(id, place, id_of);
                }
                prop_assert_eq!(order.find(id, id_of), model.get(&id).copied());
            }
            check(&order, &model);
            for cursor in cursors {
                let behind = (Bound::Excluded(id_of(cursor)), Bound::Unbounded);
                prop_assert!(order.after(Some(id_of(cursor)), id_of).eq(model.range(behind).map(|(_, place)| *place)));
            }
        }
    }
}
