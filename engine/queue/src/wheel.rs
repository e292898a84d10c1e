//! The legs that wait for their time, in a hierarchical timing wheel (Varghese and Lauck, 1987).
//!
//! Each level has 64 slots, and a slot of a level is as long as the whole level below. A leg stands in the slot that its
//! time falls into, at the lowest level whose slots can still tell its time from now; when the time comes to that slot, it
//! is put into the level below, and from the lowest it is due. So to wait costs nothing but the links that a leg has
//! anyway, to begin and to end it costs the same however many wait, and what is due at one moment is taken in pieces.

use crate::legs::{Legs, List};
use crate::moment::{tick_of, unit_of};
use ringpost_base::Tick;

const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;

/// Seven levels reach 2^42 units, two thousand years of the monotonic clock.
const LEVELS: usize = 7;

#[derive(Debug)]
pub(crate) struct Wheel {
    lists: Vec<List>,
    /// One bit for each slot in which a leg may stand; it may have left meanwhile.
    occupied: [u64; LEVELS],
    /// Everything before this unit has been seen to.
    current: u64,
    /// Legs whose slot's time has come, and which have not been looked at yet.
    pending: List,
}

impl Wheel {
    pub(crate) fn new(legs: &mut Legs) -> Self {
        let lists = (0..LEVELS * SLOTS).map(|_| legs.add_list()).collect();
        Self { lists, occupied: [0; LEVELS], current: 0, pending: legs.add_list() }
    }

    /// Has a leg wait for its due moment, which is within a year of now.
    pub(crate) fn insert(&mut self, legs: &mut Legs, leg: u32, now: Tick) {
        let due = legs[leg].due.near(unit_of(now).max(self.current));
        if self.is_empty(legs) {
            self.current = self.current.max(unit_of(now));
        }
        self.put(legs, leg, due);
    }

    fn put(&mut self, legs: &mut Legs, leg: u32, due: u64) {
        if due <= self.current {
            return legs.push_back(self.pending, leg);
        }
        let differing = u64::BITS - 1 - (due ^ self.current).leading_zeros();
        let level = ((differing / SLOT_BITS) as usize).min(LEVELS - 1);
        let slot = slot_of(due, level);
        self.occupied[level] |= 1 << slot;
        legs.push_back(self.lists[level * SLOTS + slot], leg);
    }

    fn is_empty(&self, legs: &Legs) -> bool {
        self.occupied.iter().all(|bits| *bits == 0) && legs.front(self.pending).is_none()
    }

    /// Takes a leg out that is due, looking at so many at most; `looks` says how many are left. Nothing if none is due, or
    /// if no looks are left.
    pub(crate) fn due(&mut self, legs: &mut Legs, now: Tick, looks: &mut u32) -> Option<u32> {
        loop {
            while let Some(leg) = legs.front(self.pending) {
                *looks = looks.checked_sub(1)?;
                legs.unlink(leg);
                let due = legs[leg].due.near(self.current);
                if due <= self.current {
                    return Some(leg);
                }
                self.put(legs, leg, due);
            }
            let Some((start, level, slot)) = self.next_slot().filter(|(start, ..)| *start <= unit_of(now)) else {
                self.current = self.current.max(unit_of(now));
                return None;
            };
            self.current = start;
            self.occupied[level] &= !(1 << slot);
            legs.move_all(self.lists[level * SLOTS + slot], self.pending);
        }
    }

    /// When it is to be looked at again. May be too early: then nothing is due yet.
    pub(crate) fn next_due(&self, legs: &Legs) -> Option<Tick> {
        if legs.front(self.pending).is_some() {
            return Some(tick_of(self.current));
        }
        self.next_slot().map(|(start, ..)| tick_of(start))
    }

    /// The occupied slot whose time comes first: when, its level, its number. Lower levels come before higher ones.
    fn next_slot(&self) -> Option<(u64, usize, usize)> {
        let level = self.occupied.iter().position(|bits| *bits != 0)?;
        // No slot behind the current one is occupied: a leg at this level differs from now in this level's digit, upwards.
        let slot = self.occupied[level].trailing_zeros() as usize;
        let shift = SLOT_BITS * level as u32;
        let rest = (self.current >> shift >> SLOT_BITS) << SLOT_BITS;
        Some(((rest | slot as u64) << shift, level, slot))
    }
}

fn slot_of(unit: u64, level: usize) -> usize {
    (unit >> (SLOT_BITS * level as u32)) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moment::Moment;
    use crate::record::Leg;
    use proptest::prelude::*;

    fn take_all(wheel: &mut Wheel, legs: &mut Legs, now: u64) -> Vec<u32> {
        std::iter::from_fn(|| wheel.due(legs, tick_of(now), &mut u32::MAX.clone())).collect()
    }

    #[test]
    fn what_is_due_at_one_moment_is_taken_in_pieces() {
        let mut legs = Legs::new();
        let mut wheel = Wheel::new(&mut legs);
        for _ in 0..1000 {
            let leg = legs.add(Leg { due: Moment::at(5000), ..Leg::default() });
            wheel.insert(&mut legs, leg, tick_of(100));
        }
        let (mut looks, mut taken) = (0, 0);
        let mut rounds = 0;
        while taken < 1000 {
            rounds += 1;
            looks = 50;
            while wheel.due(&mut legs, tick_of(5000), &mut looks).is_some() {
                taken += 1;
            }
            assert!(taken == 1000 || wheel.next_due(&legs).is_some_and(|due| due <= tick_of(5000)));
        }
        assert!(rounds >= 20, "{rounds} rounds, {looks} looks left");
        assert_eq!(wheel.next_due(&legs).map(unit_of), None);
    }

    proptest! {
        /// Everything is due at its time, not before and not after, whatever the steps of the clock; what left is not.
        #[test]
        fn on_time(
            start in prop_oneof![0_u64..10_000, (1_u64 << 32) - 5000..(1 << 32) + 5000, 1_u64 << 35..1 << 36],
            waits in prop::collection::vec((prop_oneof![1_u64..200, 1_u64..1_000_000, 1_u64..1 << 30], any::<bool>()), 1..60),
            steps in prop::collection::vec(prop_oneof![0_u64..100, 0_u64..1 << 20, 0_u64..1 << 28], 1..60),
        ) {
            let mut legs = Legs::new();
            let mut wheel = Wheel::new(&mut legs);
            let (mut now, mut waiting) = (start, Vec::new());
            for (round, step) in steps.iter().enumerate() {
                for (wait, leaves) in waits.iter().skip(round).step_by(steps.len()) {
                    let leg = legs.add(Leg { due: Moment::at(now + wait), ..Leg::default() });
                    wheel.insert(&mut legs, leg, tick_of(now));
                    if *leaves { legs.unlink(leg) } else { waiting.push((now + wait, leg)) }
                }
                now += step;
                let soonest = waiting.iter().map(|(due, _)| *due).min();
                let shown = wheel.next_due(&legs).map(unit_of);
                prop_assert!(shown.unwrap_or(u64::MAX) <= soonest.unwrap_or(u64::MAX));
                let mut due = take_all(&mut wheel, &mut legs, now);
                due.sort_unstable();
                let is_due = |(at, _): &&(u64, u32)| *at <= now;
                let mut wanted: Vec<_> = waiting.iter().filter(is_due).map(|(_, leg)| *leg).collect();
                wanted.sort_unstable();
                prop_assert_eq!(due, wanted);
                waiting.retain(|(at, _)| *at > now);
            }
        }
    }
}
