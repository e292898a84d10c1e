//! A bounded table of entries: found by key, and the one that was used the longest ago first to go.
//!
//! Entries stand in one vector and keep their places, so that a sweep can go round in small steps. Those without an open
//! connection are in a list by their last use; those with one are in no list and never go.

use super::{KINDS, Kind, Scope, rate, window::Window};
use ringpost_base::{Network, Tick};
use std::collections::HashMap;

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) network: Network,
    pub(super) scope: Scope,
}

/// No place.
const NOWHERE: u32 = u32::MAX;

/// Places that an empty table keeps its memory for.
const KEPT: usize = 1024;

/// One entry.
pub(super) struct Slot {
    /// Nothing: the place is free.
    key: Option<Key>,
    open: u32,
    /// Neighbours in the list by last use; of a free place, `younger` is the next free one.
    older: u32,
    younger: u32,
    buckets: [Tick; KINDS],
    windows: Box<[Window]>,
}

const _: () = assert!(size_of::<Slot>() <= 80, "with its place in the hash table an entry is to take some 100 bytes");

impl Slot {
    fn new(key: Key) -> Self {
        Self {
            key: Some(key),
            open: 0,
            older: NOWHERE,
            younger: NOWHERE,
            buckets: [rate::FULL; KINDS],
            windows: Box::default(),
        }
    }

    /// Open connections.
    pub(super) fn open(&self) -> u32 {
        self.open
    }

    pub(super) fn bucket(&self, kind: Kind) -> Tick {
        self.buckets[kind as usize]
    }

    pub(super) fn set_bucket(&mut self, kind: Kind, bucket: Tick) {
        self.buckets[kind as usize] = bucket;
    }

    pub(super) fn windows(&self) -> &[Window] {
        &self.windows
    }

    /// The window of a rule, made if there is none.
    pub(super) fn window(&mut self, rule: u16) -> &mut Window {
        let at = self.windows.iter().position(|window| window.rule == rule).unwrap_or_else(|| {
            let mut windows = std::mem::take(&mut self.windows).into_vec();
            windows.push(Window::new(rule));
            self.windows = windows.into();
            self.windows.len() - 1
        });
        &mut self.windows[at]
    }

    pub(super) fn forget_windows(&mut self, is_gone: impl Fn(&Window) -> bool) {
        if self.windows.iter().any(&is_gone) {
            let kept = self.windows.iter().filter(|window| !is_gone(window));
            self.windows = kept.copied().collect();
        }
    }

    /// No connection is open, and all buckets are full.
    pub(super) fn is_settled(&self, now: Tick) -> bool {
        self.open == 0 && self.buckets.iter().all(|bucket| *bucket <= now)
    }
}

/// The entries.
pub(super) struct Table {
    places: HashMap<Key, u32>,
    slots: Vec<Slot>,
    free: u32,
    oldest: u32,
    youngest: u32,
    /// Where the next sweep begins.
    hand: usize,
    entries_max: usize,
    evicted: u64,
}

impl Table {
    pub(super) fn new(entries_max: usize) -> Self {
        Self {
            places: HashMap::new(),
            slots: Vec::new(),
            free: NOWHERE,
            oldest: NOWHERE,
            youngest: NOWHERE,
            hand: 0,
            entries_max: entries_max.min(NOWHERE as usize),
            evicted: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Entries that went because the table was full.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    pub(super) fn find(&self, key: &Key) -> Option<&Slot> {
        self.places.get(key).map(|place| &self.slots[*place as usize])
    }

    /// The entry, made if there is none; it counts as used. Nothing, if the table is full of open connections.
    pub(super) fn enter(&mut self, key: Key) -> Option<&mut Slot> {
        let place = self.place(key)?;
        Some(&mut self.slots[place as usize])
    }

    /// One more open connection; false if there is no room.
    pub(super) fn raise(&mut self, key: Key) -> bool {
        let Some(place) = self.place(key) else { return false };
        if self.slots[place as usize].open == 0 {
            self.unlink(place);
        }
        self.slots[place as usize].open += 1;
        true
    }

    /// One open connection less.
    pub(super) fn lower(&mut self, key: &Key) {
        let Some(place) = self.places.get(key).copied() else { return };
        let slot = &mut self.slots[place as usize];
        if slot.open > 0 {
            slot.open -= 1;
            if slot.open == 0 {
                self.link(place);
            }
        }
    }

    /// Removes entries that are idle, among the next `count` places. Returns how many.
    pub(super) fn sweep(&mut self, count: usize, is_idle: impl Fn(&Slot) -> bool) -> usize {
        let before = self.places.len();
        for _ in 0..count.min(self.slots.len()) {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            let slot = &self.slots[self.hand];
            if slot.key.is_some() && slot.open == 0 && is_idle(slot) {
                self.remove(self.hand as u32);
            }
            self.hand += 1;
        }
        if self.places.is_empty() && self.slots.capacity() > KEPT {
            let evicted = self.evicted;
            *self = Self { evicted, ..Self::new(self.entries_max) };
        }
        before - self.places.len()
    }

    fn place(&mut self, key: Key) -> Option<u32> {
        if let Some(place) = self.places.get(&key).copied() {
            if self.slots[place as usize].open == 0 {
                self.unlink(place);
                self.link(place);
            }
            return Some(place);
        }
        if self.places.len() >= self.entries_max {
            if self.oldest == NOWHERE {
                return None;
            }
            self.remove(self.oldest);
            self.evicted += 1;
        }
        let place = self.free;
        if place == NOWHERE {
            self.slots.push(Slot::new(key));
        } else {
            self.free = self.slots[place as usize].younger;
            self.slots[place as usize] = Slot::new(key);
        }
        let place = if place == NOWHERE { self.slots.len() as u32 - 1 } else { place };
        self.places.insert(key, place);
        self.link(place);
        Some(place)
    }

    /// Frees the place of an entry without an open connection.
    fn remove(&mut self, place: u32) {
        self.unlink(place);
        let slot = &mut self.slots[place as usize];
        if let Some(key) = slot.key.take() {
            self.places.remove(&key);
        }
        slot.windows = Box::default();
        slot.younger = self.free;
        self.free = place;
    }

    /// Puts an entry at the young end of the list.
    fn link(&mut self, place: u32) {
        let slot = &mut self.slots[place as usize];
        (slot.older, slot.younger) = (self.youngest, NOWHERE);
        match self.youngest {
            NOWHERE => self.oldest = place,
            youngest => self.slots[youngest as usize].younger = place,
        }
        self.youngest = place;
    }

    fn unlink(&mut self, place: u32) {
        let Slot { older, younger, .. } = self.slots[place as usize];
        match older {
            NOWHERE => self.oldest = younger,
            older => self.slots[older as usize].younger = younger,
        }
        match younger {
            NOWHERE => self.youngest = older,
            younger => self.slots[younger as usize].older = older,
        }
    }
}
