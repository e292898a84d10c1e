//! The legs of all messages, and the lists they stand in.
//!
//! A leg is in one list at most, and is linked by itself, so that to stand in line costs nothing. The two ends of a list are a
//! head of their own; a leg can leave without knowing which list it is in.

use crate::record::Leg;
use crate::slab::{NONE, Slab};
use std::ops::{Index, IndexMut};

/// A list of legs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct List(u32);

/// Marks a link that leads to a head.
const HEAD: u32 = 1 << 31;

#[derive(Debug)]
pub(crate) struct Legs {
    slab: Slab<Leg>,
    /// First and last of each list.
    heads: Vec<(u32, u32)>,
    spare_heads: Vec<u32>,
}

impl Legs {
    pub(crate) fn new() -> Self {
        Self { slab: Slab::new(), heads: Vec::new(), spare_heads: Vec::new() }
    }

    /// A record for a leg. Its turn goes on from the one that had the place before.
    pub(crate) fn add(&mut self, leg: Leg) -> u32 {
        let place = self.slab.take();
        let turn = self.slab[place].turn;
        self.slab[place] = Leg { turn, ..leg };
        place
    }

    /// Frees a leg's record, out of whatever list it is in.
    pub(crate) fn free(&mut self, leg: u32) {
        self.unlink(leg);
        self.slab[leg] = Leg { turn: self.slab[leg].turn, ..Leg::default() };
        self.slab.free(leg);
    }

    pub(crate) fn places(&self) -> u32 {
        self.slab.places()
    }

    /// An empty list.
    pub(crate) fn add_list(&mut self) -> List {
        let head = self.spare_heads.pop().unwrap_or(self.heads.len() as u32);
        let end = head | HEAD;
        match self.heads.get_mut(head as usize) {
            Some(place) => *place = (end, end),
            None => self.heads.push((end, end)),
        }
        List(end)
    }

    /// Lets a list go, which must be empty.
    pub(crate) fn drop_list(&mut self, list: List) {
        self.spare_heads.push(list.0 & !HEAD);
    }

    pub(crate) fn front(&self, list: List) -> Option<u32> {
        let (first, _) = self.heads[(list.0 & !HEAD) as usize];
        (first & HEAD == 0).then_some(first)
    }

    pub(crate) fn push_back(&mut self, list: List, leg: u32) {
        self.unlink(leg);
        let (_, last) = self.heads[(list.0 & !HEAD) as usize];
        self.slab[leg].previous = last;
        self.slab[leg].next = list.0;
        self.set_next(last, leg);
        self.set_previous(list.0, leg);
    }

    /// Takes a leg out of the list it is in, if it is in one.
    pub(crate) fn unlink(&mut self, leg: u32) {
        let Leg { previous, next, .. } = self.slab[leg];
        if next == NONE {
            return;
        }
        self.set_next(previous, next);
        self.set_previous(next, previous);
        (self.slab[leg].previous, self.slab[leg].next) = (NONE, NONE);
    }

    /// Appends all of one list to another, whatever its length, in no time.
    pub(crate) fn move_all(&mut self, from: List, to: List) {
        let (first, last) = self.heads[(from.0 & !HEAD) as usize];
        if first & HEAD != 0 {
            return;
        }
        let (_, end) = self.heads[(to.0 & !HEAD) as usize];
        self.set_next(end, first);
        self.set_previous(first, end);
        self.set_next(last, to.0);
        self.set_previous(to.0, last);
        self.heads[(from.0 & !HEAD) as usize] = (from.0, from.0);
    }

    fn set_next(&mut self, of: u32, next: u32) {
        match of & HEAD {
            0 => self.slab[of].next = next,
            _ => self.heads[(of & !HEAD) as usize].0 = next,
        }
    }

    fn set_previous(&mut self, of: u32, previous: u32) {
        match of & HEAD {
            0 => self.slab[of].previous = previous,
            _ => self.heads[(of & !HEAD) as usize].1 = previous,
        }
    }
}

impl Index<u32> for Legs {
    type Output = Leg;

    fn index(&self, leg: u32) -> &Leg {
        &self.slab[leg]
    }
}

impl IndexMut<u32> for Legs {
    fn index_mut(&mut self, leg: u32) -> &mut Leg {
        &mut self.slab[leg]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contents(legs: &Legs, list: List) -> Vec<u32> {
        let next = |leg: &u32| Some(legs[*leg].next).filter(|next| next & HEAD == 0);
        let forward: Vec<_> = std::iter::successors(legs.front(list), next).collect();
        let previous = |leg: &u32| Some(legs[*leg].previous).filter(|previous| previous & HEAD == 0);
        let last = Some(legs.heads[(list.0 & !HEAD) as usize].1).filter(|last| last & HEAD == 0);
        let backward: Vec<_> = std::iter::successors(last, previous).collect();
        assert!(forward.iter().eq(backward.iter().rev()));
        forward
    }

    proptest! {
        #[test]
        fn as_vectors(steps in prop::collection::vec((0_u8..8, 0_usize..4, 0_u32..20), 0..200)) {
            let mut legs = Legs::new();
            let lists: Vec<_> = (0..4).map(|_| legs.add_list()).collect();
            (0..20).for_each(|_| {
                legs.add(Leg::default());
            });
            let mut model: [Vec<u32>; 4] = Default::default();
            for (what, list, leg) in steps {
                match what {
                    0 => {
                        let to = (list + 1) % 4;
                        legs.move_all(lists[list], lists[to]);
                        let moved = std::mem::take(&mut model[list]);
                        model[to].extend(moved);
                    }
                    1 | 2 => {
                        legs.unlink(leg);
                        model.iter_mut().for_each(|list| list.retain(|other| *other != leg));
                    }
                    _ => {
                        legs.push_back(lists[list], leg);
                        model.iter_mut().for_each(|list| list.retain(|other| *other != leg));
                        model[list].push(leg);
                    }
                }
                for (list, model) in lists.iter().zip(&model) {
                    prop_assert_eq!(&contents(&legs, *list), model);
                }
            }
        }
    }

    #[test]
    fn a_place_that_is_used_again_has_another_turn() {
        let mut legs = Legs::new();
        let leg = legs.add(Leg { attempts: 5, ..Leg::default() });
        legs[leg].turn = 3;
        legs.free(leg);
        assert_eq!((legs.add(Leg::default()), legs[leg].turn, legs[leg].attempts), (leg, 3, 0));
    }
}
