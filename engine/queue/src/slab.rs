//! Places for records that are known by a small number.
//!
//! In chunks, so that growing neither copies what is there nor takes twice the room. Places are used again, the last freed
//! first. Chunks are kept once they are there: memory stays at what the longest queue needed.

use std::ops::{Index, IndexMut};

/// Records in a chunk.
const CHUNK: usize = 1 << CHUNK_BITS;
const CHUNK_BITS: u32 = 10;

/// No record. Also the bound: a queue never has so many.
pub(crate) const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Box<[T]>>,
    free: Vec<u32>,
    /// Places from here on were never used.
    fresh: u32,
}

impl<T: Default> Slab<T> {
    pub(crate) fn new() -> Self {
        Self { chunks: Vec::new(), free: Vec::new(), fresh: 0 }
    }

    /// A place for a record; what is in it is what was left there.
    pub(crate) fn take(&mut self) -> u32 {
        if let Some(place) = self.free.pop() {
            return place;
        }
        let place = self.fresh;
        if place as usize == self.chunks.len() * CHUNK {
            self.chunks.push((0..CHUNK).map(|_| T::default()).collect());
        }
        self.fresh += 1;
        place
    }

    /// Frees a place. What is in it stays until it is used again.
    pub(crate) fn free(&mut self, place: u32) {
        self.free.push(place);
    }

    /// Places that are or were in use: all their numbers are below this.
    pub(crate) fn places(&self) -> u32 {
        self.fresh
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, place: u32) -> &T {
        &self.chunks[(place >> CHUNK_BITS) as usize][place as usize % CHUNK]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, place: u32) -> &mut T {
        &mut self.chunks[(place >> CHUNK_BITS) as usize][place as usize % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again() {
        let mut slab: Slab<u64> = Slab::new();
        let places: Vec<_> = (0..3000).map(|_| slab.take()).collect();
        for place in &places {
            slab[*place] = u64::from(*place);
        }
        assert!(places.iter().all(|place| slab[*place] == u64::from(*place)));
        slab.free(7);
        slab.free(2999);
        assert_eq!((slab.take(), slab.take(), slab.take(), slab.places()), (2999, 7, 3000, 3001));
    }
}
