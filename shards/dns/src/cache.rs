//! The answers that a shard remembers.
//!
//! Invariants: an entry is never given out after its time; entries and their bytes stay below their bounds, whatever
//! strangers have put into the DNS; no operation takes longer than a bounded number of steps. It reads no clock: time is
//! an argument.
//!
//! What goes first is found by a hand that sweeps over the entries (CLOCK): those used since its last visit stay, the
//! others and the expired ones go. Names that are asked for once, such as a list's for each client, so don't drive out
//! those that are asked for all the time.

use crate::answer::{Outcome, Question};
use ringpost_base::Tick;
use std::collections::HashMap;
use std::rc::Rc;

/// Bytes of an entry on average, at most: what bounds the memory of a full cache. Most take half of it.
const ENTRY_BYTES_MEAN_MAX: usize = 512;

/// Bytes of one entry. Larger answers are rare, given out and forgotten.
const ENTRY_BYTES_MAX: usize = 8 << 10;

/// Entries that the hand visits before it takes what it stands at, used or not.
const SWEEP_MAX: usize = 64;

struct Entry {
    question: Rc<Question>,
    outcome: Outcome,
    expires: Tick,
    bytes: usize,
    used: bool,
}

/// A bounded cache.
pub(crate) struct Cache {
    places: HashMap<Rc<Question>, usize>,
    entries: Vec<Entry>,
    hand: usize,
    bytes: usize,
    entries_max: usize,
}

impl Cache {
    pub(crate) fn new(entries_max: usize) -> Self {
        Self { places: HashMap::new(), entries: Vec::new(), hand: 0, bytes: 0, entries_max }
    }

    /// What is known at `now`.
    pub(crate) fn get(&mut self, question: &Question, now: Tick) -> Option<Outcome> {
        let entry = &mut self.entries[*self.places.get(question)?];
        if entry.expires <= now {
            return None;
        }
        entry.used = true;
        Some(entry.outcome.clone())
    }

    /// Remembers an outcome until `expires`.
    pub(crate) fn put(&mut self, question: Rc<Question>, outcome: Outcome, expires: Tick, now: Tick) {
        if let Some(place) = self.places.get(&question) {
            self.remove(*place);
        }
        let records = outcome.as_ref().map_or(0, |found| found.records.bytes());
        let bytes = size_of::<Entry>() + question.name.len() + records;
        if bytes > ENTRY_BYTES_MAX || expires <= now || self.entries_max == 0 {
            return;
        }
        while self.entries.len() >= self.entries_max
            || self.bytes + bytes > self.bytes_max() && !self.entries.is_empty()
        {
            self.evict(now);
        }
        self.places.insert(question.clone(), self.entries.len());
        self.entries.push(Entry { question, outcome, expires, bytes, used: false });
        self.bytes += bytes;
    }

    fn bytes_max(&self) -> usize {
        self.entries_max.saturating_mul(ENTRY_BYTES_MEAN_MAX)
    }

    /// Removes one entry; there must be one.
    fn evict(&mut self, now: Tick) {
        for _ in 0..SWEEP_MAX {
            self.hand = if self.hand + 1 < self.entries.len() { self.hand + 1 } else { 0 };
            let entry = &mut self.entries[self.hand];
            if entry.expires <= now || !std::mem::take(&mut entry.used) {
                break;
            }
        }
        self.remove(self.hand);
    }

    fn remove(&mut self, place: usize) {
        let entry = self.entries.swap_remove(place);
        self.places.remove(&entry.question);
        self.bytes -= entry.bytes;
        if let Some(moved) = self.entries.get(place) {
            self.places.insert(moved.question.clone(), place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{Failure, Found, Kind, Records};

    fn at(seconds: u64) -> Tick {
        Tick::from_nanos(seconds * 1_000_000_000)
    }

    fn question(number: usize) -> Rc<Question> {
        Rc::new(Question { name: format!("n{number}.example").into(), kind: Kind::Text })
    }

    fn text(length: usize) -> Outcome {
        Ok(Rc::new(Found { records: Records::Texts(vec![vec![b'x'; length].into()]), expires: at(1_000) }))
    }

    /// Whether the cache still knows the question.
    fn knows(cache: &mut Cache, number: usize, now: Tick) -> bool {
        cache.get(&question(number), now).is_some()
    }

    /// Asserts what holds between the parts of a cache.
    fn check(cache: &Cache) {
        assert_eq!(cache.places.len(), cache.entries.len());
        assert!(cache.places.iter().all(|(question, place)| cache.entries[*place].question == *question));
        assert_eq!(cache.bytes, cache.entries.iter().map(|entry| entry.bytes).sum::<usize>());
        assert!(cache.entries.len() <= cache.entries_max);
        assert!(cache.bytes <= cache.bytes_max());
    }

    #[test]
    fn an_entry_lives_until_its_time_and_not_longer() {
        let mut cache = Cache::new(10);
        cache.put(question(1), text(5), at(60), at(0));
        cache.put(question(2), Err(Failure::NoSuchName), at(30), at(0));
        assert_eq!(cache.get(&question(1), at(29)), Some(text(5)));
        assert_eq!(cache.get(&question(2), at(29)), Some(Err(Failure::NoSuchName)));
        assert_eq!(cache.get(&question(2), at(30)), None);
        assert_eq!(cache.get(&question(1), at(59)), Some(text(5)));
        assert_eq!(cache.get(&question(1), at(60)), None);
        check(&cache);
    }

    #[test]
    fn a_newer_answer_takes_the_place_of_the_older() {
        let mut cache = Cache::new(10);
        cache.put(question(1), text(5), at(10), at(0));
        cache.put(question(1), text(7), at(90), at(10));
        assert_eq!(cache.get(&question(1), at(20)), Some(text(7)));
        // One that must not be kept doesn't leave the older one behind.
        cache.put(question(1), text(9), at(20), at(20));
        assert_eq!(cache.get(&question(1), at(20)), None);
        check(&cache);
    }

    #[test]
    fn names_asked_for_once_do_not_drive_out_those_in_use() {
        let mut cache = Cache::new(100);
        for number in 0..10 {
            cache.put(question(number), text(5), at(900), at(0));
        }
        for number in 10..10_000 {
            cache.put(question(number), text(5), at(900), at(0));
            assert!((0..10).all(|used| knows(&mut cache, used, at(1))), "at {number}");
            check(&cache);
        }
        assert_eq!(cache.entries.len(), 100);
    }

    #[test]
    fn expired_entries_go_although_they_were_used() {
        let mut cache = Cache::new(2);
        cache.put(question(1), text(5), at(10), at(0));
        cache.put(question(2), text(5), at(900), at(0));
        assert!(knows(&mut cache, 1, at(1)) && knows(&mut cache, 2, at(1)));
        cache.put(question(3), text(5), at(900), at(20));
        cache.put(question(4), text(5), at(900), at(20));
        assert!(knows(&mut cache, 4, at(20)));
        assert!(!knows(&mut cache, 1, at(1)));
        check(&cache);
    }

    #[test]
    fn hostile_zones_full_of_long_records_are_bounded_in_bytes() {
        let mut cache = Cache::new(100);
        for number in 0..1_000 {
            cache.put(question(number), text(7_000), at(900), at(0));
            assert!(knows(&mut cache, number, at(1)));
            check(&cache);
        }
        assert!(cache.entries.len() < 10, "{}", cache.entries.len());
        cache.put(question(1_000), text(60_000), at(900), at(0));
        assert!(!knows(&mut cache, 1_000, at(1)), "too large to be kept");
    }

    #[test]
    fn a_cache_of_no_entries_keeps_nothing() {
        let mut cache = Cache::new(0);
        cache.put(question(1), text(5), at(10), at(0));
        assert!(!knows(&mut cache, 1, at(0)));
    }

    #[test]
    fn all_in_use_still_makes_room() {
        let mut cache = Cache::new(1_000);
        for number in 0..1_000 {
            cache.put(question(number), text(5), at(900), at(0));
            assert!(knows(&mut cache, number, at(1)));
        }
        cache.put(question(1_000), text(5), at(900), at(1));
        assert!(knows(&mut cache, 1_000, at(1)));
        check(&cache);
    }
}
