//! A map whose entries end once they have not been used for so long, and of which the longest unused can be taken.
//!
//! An entry that is used again keeps its place in the line for a while, so that most uses cost a look into the map and
//! nothing else. The order is therefore that of the last uses, but for the time that a place is kept.

use ringpost_base::Timestamp;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

#[derive(Debug)]
struct Entry<V> {
    value: V,
    last: Timestamp,
    /// Its place in the line.
    queued: Timestamp,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Aging<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Each key once, where its entry says.
    line: BTreeSet<(Timestamp, K)>,
}

impl<K, V> Default for Aging<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), line: BTreeSet::new() }
    }
}

/// A use of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// It keeps its place.
    Noted,
    /// It got a new place, as it does once in a while.
    Moved,
}

impl<K: Copy + Ord + Hash, V> Aging<K, V> {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// When an entry was used last.
    pub(super) fn last(&self, key: &K) -> Option<Timestamp> {
        self.entries.get(key).map(|entry| entry.last)
    }

    /// Puts an entry in, used at this time, in place of a former one, which is returned.
    pub(super) fn insert(&mut self, key: K, value: V, at: Timestamp) -> Option<V> {
        self.line.insert((at, key));
        let former = self.entries.insert(key, Entry { value, last: at, queued: at })?;
        if former.queued != at {
            self.line.remove(&(former.queued, key));
        }
        Some(former.value)
    }

    /// Uses an entry that was used within `lifetime`. It keeps its place in the line for the time `every`.
    pub(super) fn renew(&mut self, key: &K, now: Timestamp, lifetime: Duration, every: Duration) -> Option<Use> {
        let entry = self.entries.get_mut(key).filter(|entry| now.since(entry.last) <= lifetime)?;
        entry.last = entry.last.max(now);
        if now.since(entry.queued) < every {
            return Some(Use::Noted);
        }
        self.line.remove(&(entry.queued, *key));
        entry.queued = entry.last;
        self.line.insert((entry.queued, *key));
        Some(Use::Moved)
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.line.remove(&(entry.queued, *key));
        Some(entry.value)
    }

    /// Takes out the longest unused, if there are more than `entries_max`.
    pub(super) fn take_surplus(&mut self, entries_max: usize) -> Option<V> {
        if self.entries.len() <= entries_max {
            return None;
        }
        let (_, key) = self.line.pop_first()?;
        self.entries.remove(&key).map(|entry| entry.value)
    }

    /// Takes out one that was not used for `lifetime`, if one is found before `looks` are used up.
    pub(super) fn take_ended(&mut self, now: Timestamp, lifetime: Duration, looks: &mut usize) -> Option<V> {
        while *looks > 0 {
            *looks -= 1;
            let (queued, key) = self.line.first().copied()?;
            if now.since(queued) <= lifetime {
                return None;
            }
            self.line.pop_first();
            let entry = self.entries.get_mut(&key)?;
            if now.since(entry.last) > lifetime {
                return self.entries.remove(&key).map(|entry| entry.value);
            }
            entry.queued = entry.last;
            self.line.insert((entry.queued, key));
        }
        None
    }
}

#[cfg(test)]
impl<K: Copy + Ord + Hash, V> Aging<K, V> {
    /// Each entry with its last use, by key.
    pub(super) fn all(&self) -> Vec<(K, Timestamp)> {
        assert_eq!(self.line.len(), self.entries.len(), "each entry stands in line once");
        let mut all: Vec<_> = self.entries.iter().map(|(key, entry)| (*key, entry.last)).collect();
        all.sort_unstable();
        all
    }
}
